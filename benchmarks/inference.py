"""`puna bench inference` for several models, its figures in benchmarks/results/, dated.

    python benchmarks/inference.py 15M 110M 1.1B --peers ../peers [OPTION...]

MODEL is a shape or a model folder; other options go to the command. A row that was measured again
on the same day takes the place of the old one.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine, others_of_today, today, write_results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    options, passed_on = parser.parse_known_args()
    path = RESULTS / f"{today()}-inference.json"
    for model in options.models:
        puna = Path(sys.executable).with_name("puna")
        command = [puna, "bench", "inference", model, "--json", *passed_on]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows = rows_of(json.loads(done.stdout))
        others = others_of_today(path, rows)
        write_results(path, machine(torch.device("cpu")), rows=[*others, *rows])


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one model, each with its name and with what holds for all of them."""
    shared = {key: value for key, value in found.items() if key != "rows"}
    return [
        {"row": f"{found['model']} {row['work']} {row['format']}", **row, **shared}
        for row in found["rows"]
    ]


if __name__ == "__main__":
    main()
