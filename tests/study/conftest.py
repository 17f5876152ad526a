"""The small study, to be run and finished."""

from pathlib import Path

import pytest
from small_study import Here, write_study

from puna.cli.study import open_inputs
from puna.study.definition import read_study
from puna.study.runner import run_study
from puna.training.run_inputs import RunInputs


@pytest.fixture
def study_folder(tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path: Path) -> Path:
    """The study, with no run yet."""
    return write_study(tmp_path / "study", tiny_recipe_file)


@pytest.fixture(scope="session")
def finished_study(
    tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Its folder when all its runs have ended; to be read, or copied."""
    folder = write_study(tmp_path_factory.mktemp("finished") / "study", tiny_recipe_file)
    for _ in run_study(read_study(folder), folder, open_inputs, Here()):
        pass
    return folder


@pytest.fixture
def constant_code_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The half second of a run that reads all of the code is left out."""
    for module in ("job", "runner"):
        monkeypatch.setattr(f"puna.study.{module}.code_hash", lambda: "0" * 16)
