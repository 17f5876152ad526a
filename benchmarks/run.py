"""Puna beside its peers, in one sitting on one machine: `make bench`.

Rounds of both programs alternate and medians are compared, because a machine's speed drifts; the
ratio is what travels. The peer lives in an environment of its own, made on the first run. Results
go to benchmarks/results/, dated, with the machine described.
"""

import argparse
import json
import statistics
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine, today, write_results

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers"
ROWS: dict[str, list[str]] = {
    "float32": ["--precision", "float32"],
    "float32 compiled": ["--precision", "float32", "--compile"],
    "bfloat16": ["--precision", "bfloat16"],
    "bfloat16 compiled": ["--precision", "bfloat16", "--compile"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows", nargs="*", choices=[[], *ROWS], help=f"some of: {', '.join(ROWS)}; left out: all"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    peer = peer_python()
    results = []
    for name in options.rows or ROWS:
        flags = [*ROWS[name], "--steps", str(options.steps)]
        ours: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for _ in range(options.rounds):
            ours.append(measured([sys.executable, str(HERE / "train_step.py"), *flags]))
            theirs.append(
                measured([str(peer), str(HERE / "peers" / "transformers_train.py"), *flags])
            )
        rates = [
            statistics.median(run["tokens_per_second"] for run in runs) for runs in (ours, theirs)
        ]
        row = {
            "row": name,
            "puna": rates[0],
            "transformers": rates[1],
            "ratio": round(rates[0] / rates[1], 3),
            "rounds": [ours, theirs],
        }
        results.append(row)
        print(
            f"{name:18} puna {rates[0]:8.0f}  transformers {rates[1]:8.0f} tokens/s  ratio"
            f" {row['ratio']:.2f}",
            flush=True,
        )
    where = {**machine(torch.device("cpu")), "peer": peer_versions(peer)}
    write_results(RESULTS / f"{today()}-train-step.json", where, rows=results)


def peer_python() -> Path:
    """The interpreter of the peers' environment; made on first use."""
    python = PEERS / "bin" / "python"
    if not (PEERS / "ready").exists():
        print(f"making {PEERS.name}, some minutes", flush=True)
        venv.create(PEERS, with_pip=True, clear=True)
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "torch>=2.11,<2.14",
                "transformers>=5.0",
                "numpy",
            ],
            check=True,
        )
        (PEERS / "ready").touch()
    return python


def measured(command: list[str]) -> dict[str, Any]:
    """The JSON line that a benchmark program prints last."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return line


def peer_versions(peer: Path) -> dict[str, str]:
    """The libraries of the peers' environment."""
    probe = (
        "import json, torch, transformers; print(json.dumps({'torch': torch.__version__,"
        " 'transformers': transformers.__version__}))"
    )
    return measured([str(peer), "-c", probe])


if __name__ == "__main__":
    main()
