"""The log is only appended to, and a kill in the middle of a line costs that line alone."""

from pathlib import Path

import pytest

from puna.run_log import RunLog, finite, read_run_log


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    log = RunLog(path)
    log.append({"kind": "train", "step": 1, "loss": 2.0})
    log.append({"kind": "train", "step": 2, "loss": 1.5})
    log.close()
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole) + 1):
        path.write_bytes(whole[:cut])
        log = RunLog(path)
        log.append({"kind": "train", "step": 3, "loss": 1.0})
        log.close()
        assert path.read_bytes().startswith(whole[:cut])
        steps = [record["step"] for record in read_run_log(path)]
        assert steps == ([1, 2, 3] if cut >= len(whole) - 1 else [1, 3])


def test_records_reach_the_disk_one_by_one(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "metrics.jsonl")
    log.append(
        {
            "kind": "train",
            "step": 1,
            "text": "ü",
            "loss": float("nan"),
            "gradient_norm": float("inf"),
            "low": -float("inf"),
        }
    )
    expected = {
        "kind": "train",
        "step": 1,
        "text": "ü",
        "loss": None,
        "gradient_norm": None,
        "low": None,
    }
    assert read_run_log(tmp_path / "metrics.jsonl") == [expected]
    log.close()


@pytest.mark.parametrize("value", [None, "3", True, float("nan"), float("-inf"), [1]])
def test_what_is_no_finite_number(value):
    assert finite(value) is None


def test_zero_is_a_finite_number():
    assert finite(0) == 0.0
