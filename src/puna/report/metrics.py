"""Reads the log of a training run: `metrics.jsonl`, one JSON object a line.

The file is append-only, so a resumed run repeats the steps after its checkpoint, and a kill can cut
a line short. This reader settles both. It is not the writer, and it knows no metric by name: it
only asks for `kind` and `step`. It holds the whole log in memory, about a kilobyte a record.
"""

import json
import math
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run in the order of their steps; of several records of one kind and step,
    the last one written.

    A file that does not exist is a run that has logged nothing yet: an empty list. A line that is
    no JSON object with a `kind` and an integer `step` was cut short by a kill and is skipped,
    wherever it stands: after a resume it is no longer the last line.
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

    The usual mistake is `value or None`, which loses the zeros.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
