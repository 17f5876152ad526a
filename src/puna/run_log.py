"""`metrics.jsonl`, the log of a training run: its writer and its reader.

One JSON object a line, only ever appended to, with a `kind` (train, validation) and a `step`; no
metric is known here by name. A resumed run logs the steps after its checkpoint again, and a kill
can cut a line short: the reader keeps the last record of a step and skips torn lines. It holds the
whole log in memory, about a kilobyte a record.
"""

import json
import math
import os
from pathlib import Path
from typing import Any


class RunLog:
    """Append records, each flushed; a line torn by a kill is ended first, so that it spoils no
    other.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; NaN and infinity become null."""
        written = {
            key: None if value in (float("inf"), float("-inf")) or value != value else value
            for key, value in record.items()
        }
        self._file.write(json.dumps(written, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Make the log last through a power cut."""
        os.fsync(self._file.fileno())
        self._file.close()


def read_run_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run in the order of their steps; of several records of one kind and step,
    the last one written.

    A file that does not exist is a run that has logged nothing yet: an empty list. A line that is
    no JSON object with a `kind` and an integer `step` was cut short by a kill and is skipped,
    at any position: after a resume it is no longer the last line.
    """
    if not path.exists():
        return []
    records: dict[tuple[str, int], dict[str, Any]] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if (
                isinstance(record, dict)
                and isinstance(record.get("kind"), str)
                and isinstance(record.get("step"), int)
            ):
                records[record["kind"], record["step"]] = record
    return sorted(records.values(), key=lambda record: int(record["step"]))


def finite(value: object) -> float | None:
    """`value` as a float, or None where it is missing, NaN, infinite or no number, which no curve
    can show.

    Usual mistake: `value or None`, which loses the zeros.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
