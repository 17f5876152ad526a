"""What every benchmark's results say besides its figures: the date and the machine. No program; the
others import it.
"""

import datetime
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from puna.device import processor_name

RESULTS = Path(__file__).parent / "results"


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    accelerator = (
        {"accelerator": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    )
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **accelerator,
        "system": platform.platform(),
        "python": platform.python_version(),
        "puna": version("puna"),
        "torch": torch.__version__,
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
    }


def today() -> str:
    """The date in UTC, as results are named."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def others_of_today(path: Path, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that the day's file has and that were not measured again."""
    if not path.exists():
        return []
    again = {row["row"] for row in results}
    return [row for row in json.loads(path.read_text())["rows"] if row["row"] not in again]


def write_results(path: Path, where: dict[str, Any], **figures: Any) -> None:
    """The dated JSON file of a run; told on standard output."""
    path.write_text(json.dumps({"date": today(), "machine": where, **figures}, indent=1) + "\n")
    print(path)
