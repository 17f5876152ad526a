"""benchmarks/inference.py: rows carry what holds for their model, and replace those of the day."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module, with the folder of its neighbours on the path as when it is run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("inference")


def test_rows_carry_their_model(program: ModuleType) -> None:
    found = {
        "model": "15M",
        "tier": "avx2",
        "rows": [{"work": "decode", "format": "int4", "ratio": 1.5}],
    }
    assert program.rows_of(found) == [
        {
            "row": "15M decode int4",
            "work": "decode",
            "format": "int4",
            "ratio": 1.5,
            "model": "15M",
            "tier": "avx2",
        }
    ]


def test_a_row_of_the_day_is_replaced(program: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "today.json"
    assert program.others_of_today(path, [{"row": "a"}]) == []
    path.write_text(json.dumps({"rows": [{"row": "a", "n": 1}, {"row": "b", "n": 2}]}))
    assert program.others_of_today(path, [{"row": "a", "n": 3}]) == [{"row": "b", "n": 2}]
