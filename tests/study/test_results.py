"""results.jsonl through kills and damage."""

from pathlib import Path

import pytest

from puna.errors import DataError
from puna.study.results import append_result, code_hash, read_results


def test_a_torn_last_line_is_cut_off_and_costs_no_other(tmp_path: Path) -> None:
    for seed in range(3):
        append_result(tmp_path, {"arm": "a", "seed": seed, "probes": {"norms": {}}})
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = whole[:length].count(b"\n")
        assert [record["seed"] for record in read_results(tmp_path)] == list(range(kept))
        append_result(tmp_path, {"arm": "b", "seed": 9})
        assert [record["seed"] for record in read_results(tmp_path)] == [*range(kept), 9]


def test_no_results_yet(tmp_path: Path) -> None:
    assert read_results(tmp_path) == []


@pytest.mark.parametrize("line", ["nonsense", '{"arm": "a"}', "[1]", ""])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"arm": "a", "seed": 0}\n' + line + "\n")
    with pytest.raises(
        DataError, match=r"results.jsonl, line 2 is not the record of a run: delete that line"
    ):
        read_results(tmp_path)


def test_the_code_has_a_hash_that_stays(tmp_path: Path) -> None:
    assert code_hash() == code_hash()
    assert len(code_hash()) == 16
