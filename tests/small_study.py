"""A study that trains in a second, an executor that needs no processes, and what must be equal in
two records of one run.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import yaml

from puna.study.results import read_results


class Here:
    """An executor that does each job at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def write_study(folder: Path, base: Path, **values: Any) -> Path:
    """Two arms that differ in nothing, and one that cannot learn; two seeds of four steps."""
    short = ["train.steps=4", "train.validate_every=2", "optimizer.warmup_steps=1"]
    study = {
        "question": "Do equal arms differ?",
        "base": str(base),
        "baseline": "one",
        "arms": {"one": short, "same": short, "still": [*short, "optimizer.learning_rate=1e-9"]},
        "seeds": [3, 4],
        "also": ["bits_per_byte_2x", "bits_per_byte_numbers"],
        "probes": ["activation_norms", "dead_units"],
        "step_times": [],
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study | values, sort_keys=False))
    return folder


def found(folder: Path) -> dict[tuple[str, int], Mapping[str, Any]]:
    """By arm and seed, all of a record that does not depend on when and where it was made."""
    return {
        (record["arm"], record["seed"]): {
            key: value
            for key, value in record.items()
            if key not in ("machine", "started", "commit", "rule_commit", "rule_date")
        }
        for record in read_results(folder)
    }
