"""A small tokenizer, and recipes of small corpora."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_corpora import PROSE, MakeRecipe

from puna.corpus import input_files
from puna.corpus.corpus_recipe import PreparationRecipe
from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary") / "tokenizer"
    Tokenizer.train(PROSE * 20, 300).save(folder)
    return folder


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few kB make several tasks."""
    monkeypatch.setattr(input_files, "TASK_BYTES", 2000)


@pytest.fixture
def make_recipe(tmp_path: Path, tokenizer_folder: Path) -> MakeRecipe:
    """A recipe of sources that are given as lists of texts, each written to a file of its own."""

    def make(
        texts: Mapping[str, Sequence[str]],
        stages: Mapping[str, Any],
        out: str = "out",
        **options: Any,
    ) -> PreparationRecipe:
        described = []
        for name, own in texts.items():
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            for number, text in enumerate(own):
                path = folder / f"{number:04d}.txt"
                if not path.exists():
                    path.write_text(text, encoding="utf-8")
            described.append({"name": name, "paths": [str(folder)]})
        values = {"tokenizer": str(tokenizer_folder), "sources": described, "stages": stages}
        return PreparationRecipe.model_validate({"out": str(tmp_path / out), **values, **options})

    return make
