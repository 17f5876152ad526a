"""baselines.json: measured on the text that the runs are scored on, written and read back."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from said import said

from puna.cli.study import open_inputs
from puna.errors import DataError
from puna.eval.compression import gzip_bits_per_byte
from puna.eval.ngram import ngram_bits_per_byte
from puna.study.baselines import measure_baselines, read_baselines
from puna.study.definition import Study
from puna.training.recipe import Recipe

STUDY = Study(question="?", base="", baseline="a", arms={"a": (), "b": ()}, seeds=(0, 1))


def test_baselines_are_of_the_text_and_of_the_tokens_trained_on(
    tiny_recipe: Callable[..., Recipe], tiny_corpus: Path, tmp_path: Path
) -> None:
    inputs, text = open_inputs(tiny_recipe(), STUDY)
    found = measure_baselines(inputs, text, steps=3)
    lengths = text.tokenizer.token_lengths()
    content = text.tokenizer.decode_bytes(text.ids.tolist(), skip_special=True)
    assert sum(found.documents) == len(content)
    assert len(found.documents) == text.documents[-1] + 1
    trained = np.concatenate([inputs.batch(step)[:, :-1].ravel() for step in range(3)])
    assert found.tokens == len(trained)
    bigram = ngram_bits_per_byte(trained.astype(np.int64), text.ids, lengths, 2)
    assert found.bits_per_byte["bigram"] == pytest.approx(bigram, rel=1e-5)
    assert found.bits_per_byte["gzip -9"] == pytest.approx(gzip_bits_per_byte(content), rel=1e-5)
    (tmp_path / "baselines.json").write_text(json.dumps(asdict(found)))
    assert read_baselines(tmp_path) == found


def test_a_damaged_file_is_named_and_none_is_none(tmp_path: Path) -> None:
    assert read_baselines(tmp_path) is None
    (tmp_path / "baselines.json").write_text('{"text_hash": "d"}')
    with pytest.raises(DataError, match=said("does not hold baselines ... puna study baselines")):
        read_baselines(tmp_path)
