"""The run's log: one JSON object a line, only ever appended to.

A resumed run logs some steps again, with the same values; readers take the last record of a step.
`puna.report.metrics` reads it.
"""

import json
import os
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends records to `metrics.jsonl`, each flushed; a line torn by a kill is ended first, so
    that it spoils no other.
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
        finite = {
            key: None if value in (float("inf"), float("-inf")) or value != value else value
            for key, value in record.items()
        }
        self._file.write(json.dumps(finite, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Make the log last through a power cut."""
        os.fsync(self._file.fileno())
        self._file.close()
