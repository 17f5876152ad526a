"""Puna's training step beside its peers, in one sitting on one machine: `make bench`.

Rounds of all programs alternate and medians are compared, because a machine's speed drifts; the
ratio is what travels. Beside transformers, eager and under torch.compile, stands Puna on PyTorch
alone (`--isa torch`), which is the step without the native core. In the row of AVX2 all are kept
from wider registers. The peer lives in an environment of its own, made on the first run. Results
go to benchmarks/results/, dated, with the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine, others_of_today, today, write_results

from puna.native.library import available_tiers

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers"
OURS = "puna"
# of each row: Puna's flags, the peer's, and the programs beside Puna with the ratio aimed at
SMALL = ["--batch", "8", "--time", "512"]
LARGE = ["--batch", "4", "--time", "1024"]
LARGE_SHAPE = "--width 768 --layers 12 --heads 12 --feed-forward 2048 --vocabulary 32000 --tied"
QUICKSTART = "--preset puna-2m --layers 3 --vocabulary 4096 --batch 16 --time 128 --optimizer muon"
ROWS: dict[str, tuple[list[str], list[str], dict[str, float]]] = {
    "33.7M float32": (
        [*SMALL, "--precision", "float32"],
        [*SMALL, "--precision", "float32"],
        {"transformers": 1.45, "transformers compiled": 1.0, "puna on torch": 1.0},
    ),
    "33.7M float32 AVX2": (
        [*SMALL, "--precision", "float32", "--isa", "avx2"],
        [*SMALL, "--precision", "float32"],
        {"transformers": 1.45, "transformers compiled": 1.0, "puna on torch": 1.0},
    ),
    "33.7M bfloat16": (
        [*SMALL, "--precision", "bfloat16"],
        [*SMALL, "--precision", "bfloat16"],
        {
            "transformers": 1.6,
            "transformers compiled": 1.4,
            "puna on torch": 1.0,
            "puna compiled": 1.0,
        },
    ),
    "110M float32": (
        ["--preset", "puna-110m", *LARGE, "--precision", "float32"],
        [*LARGE_SHAPE.split(), *LARGE, "--precision", "float32"],
        {"transformers": 1.35, "puna on torch": 1.0},
    ),
    "quickstart": (
        [*QUICKSTART.split(), "--precision", "auto"],
        [],
        {"puna on torch": 1.4},
    ),
}
# what keeps PyTorch and its libraries from wider registers
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
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
    where = {
        **machine(torch.device("cpu")),
        "tiers": available_tiers(),
        "peer": peer_versions(peer),
    }
    path = RESULTS / f"{today()}-train-step.json"
    for name in options.rows or ROWS:
        flags, peer_flags, bars = ROWS[name]
        environment = AVX2 if "avx2" in flags else {}
        steps = ["--steps", str(options.steps)]
        commands = {
            program: command(program, peer, [*flags, *steps], [*peer_flags, *steps])
            for program in (OURS, *bars)
        }
        runs: dict[str, list[dict[str, Any]]] = {program: [] for program in commands}
        for _ in range(options.rounds):
            for program, line in commands.items():
                runs[program].append(measured(line, environment))
        row = {"row": name, **summary(runs, bars), "rounds": runs}
        print(table_row(row), flush=True)
        # row by row: each takes minutes
        write_results(path, where, rows=[*others_of_today(path, [row]), row])


def command(program: str, peer: Path, flags: list[str], peer_flags: list[str]) -> list[str]:
    """The command that measures a program once."""
    compiled = ["--compile"] if program.endswith("compiled") else []
    if program.startswith("transformers"):
        return [str(peer), str(HERE / "peers" / "transformers_train.py"), *peer_flags, *compiled]
    isa = ["--isa", "torch"] if program == "puna on torch" else []
    return [sys.executable, str(HERE / "train_step.py"), *flags, *compiled, *isa]


def summary(runs: dict[str, list[dict[str, Any]]], bars: dict[str, float]) -> dict[str, Any]:
    """Medians of all programs, and Puna's ratio to each other one beside the one aimed at."""

    def median(program: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[program])

    rates = {program: median(program, "tokens_per_second") for program in runs}
    return {
        "tokens_per_second": rates,
        "peak_megabytes": {program: median(program, "peak_megabytes") for program in runs},
        "share_of_matmul_peak": median(OURS, "mfu"),
        "matmul_peak_gflops": median(OURS, "matmul_peak_gflops"),
        "computed_by": runs[OURS][0]["isa"],
        "ratios": {
            program: {"ratio": round(rates[OURS] / rates[program], 3), "aim": aim}
            for program, aim in bars.items()
        },
    }


def table_row(row: dict[str, Any]) -> str:
    """A row in words."""
    rates, memory = row["tokens_per_second"], row["peak_megabytes"]
    lines = [
        f"{row['row']}: {rates[OURS]:,.0f} tokens/s, {memory[OURS]:,.0f} MB, by"
        f" {row['computed_by']}; {row['share_of_matmul_peak']:.0%} of the matmul peak of"
        f" {row['matmul_peak_gflops']:.0f} GFLOP/s"
    ]
    lines += [
        f"  beside {program:22} {rates[program]:8,.0f} tokens/s {memory[program]:6,.0f} MB  ratio"
        f" {found['ratio']:.2f} (aim {found['aim']:.2f})"
        for program, found in row["ratios"].items()
    ]
    return "\n".join(lines)


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


def measured(command: list[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON line that a benchmark program prints last. environment: besides this process's."""
    own = {**os.environ, **(environment or {})}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=own)
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
