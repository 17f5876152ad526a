"""results.jsonl through kills and damage."""

from pathlib import Path

import pytest
from made_up_study import make_study

import puna.study.results
from puna.errors import ConfigError, DataError
from puna.study.definition import read_study
from puna.study.results import HASHED, append_record, code_hash, complete_runs, read_results


def test_a_torn_last_line_is_cut_off_and_costs_no_other(tmp_path: Path) -> None:
    for seed in range(3):
        append_record(
            tmp_path / "results.jsonl", {"arm": "a", "seed": seed, "probes": {"norms": {}}}
        )
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = whole[:length].count(b"\n")
        assert [record["seed"] for record in read_results(tmp_path)] == list(range(kept))
        append_record(tmp_path / "results.jsonl", {"arm": "b", "seed": 9})
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


def test_the_code_hash_follows_what_is_computed_and_no_prose(tmp_path: Path) -> None:
    """A hash of the files' bytes once forbade every study to go on after a docstring was mended."""
    norm = tmp_path / "nn" / "norm.py"
    norm.parent.mkdir()
    norm.write_text("EPS = 1e-5\n\n\ndef scale(x: float) -> float:\n    return x / EPS\n")
    before = code_hash(tmp_path)
    norm.write_text(
        '"""Norms."""\n\nEPS = 1e-5  # inside the root\n\n\n'
        'def scale(x: float) -> float:\n    """x by eps."""\n    return (\n        x / EPS\n    )\n'
    )
    assert code_hash(tmp_path) == before
    norm.write_text("EPS = 1e-6\n\n\ndef scale(x: float) -> float:\n    return x / EPS\n")
    assert code_hash(tmp_path) != before


@pytest.mark.parametrize("file", ["device.py", "study/run_metrics.py", "training/step.py"])
def test_the_code_hash_covers_device_metrics_and_packages(file: str, tmp_path: Path) -> None:
    before = code_hash(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("BYTES = 1\n")
    assert code_hash(tmp_path) != before


def test_every_hashed_part_exists() -> None:
    source = Path(puna.study.results.__file__).parents[1]
    assert all(list(source.glob(part)) for part in HASHED)
    assert len(code_hash()) == 16


def test_missing_runs_are_named_with_the_remedy(tmp_path: Path) -> None:
    folder = make_study(tmp_path, ["a", "x"])
    study, records = read_study(folder), read_results(folder)
    with pytest.raises(
        ConfigError, match=r"arm x lacks seed 3, and differences are paired: puna study run FOLDER"
    ):
        complete_runs(study, records[:-1])
    with pytest.raises(ConfigError, match="arm a lacks seeds 0, 1, 2, 3"):
        complete_runs(study, records[4:])
    with pytest.raises(ConfigError, match="arm a, seed 0 has two results"):
        complete_runs(study, [*records, records[0]])


def test_a_metric_that_a_run_did_not_log_is_named_with_the_run(tmp_path: Path) -> None:
    folder = make_study(tmp_path, ["a", "b"], also=["bits_per_byte_2x"])
    study, records = read_study(folder), read_results(folder)
    del records[5]["bits_per_byte_2x"]
    with pytest.raises(
        ConfigError,
        match=(
            r"arm b, seed 1 did not log bits_per_byte_2x, .* take it out of study\.yaml, or delete"
        ),
    ):
        complete_runs(study, records)
