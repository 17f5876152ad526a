"""Training beside busy programs: speed under settings of how waiting threads behave, on a quiet
machine and beside programs that each keep a core busy.

    python benchmarks/busy.py
    python benchmarks/busy.py --programs 4 puna OMP_WAIT_POLICY=PASSIVE,GOMP_SPINCOUNT=0

A setting is `puna`, which follows the machine's load (`puna.spinning`), or variables joined by
commas, which are obeyed; left out: libgomp's default, and `puna`. Every round measures every
setting once in each state, each in a process of its own, and medians are compared, because a
machine's speed drifts. On a machine where others compute the figures say nothing, so their load is
printed too, that of the busy programs included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puna.device import watch_others
from puna.spinning import SETTINGS

HERE = Path(__file__).parent
OURS = "puna"
DEFAULT = "GOMP_SPINCOUNT=300000"  # libgomp's
# the quickstart's
STEP = (
    "--preset puna-2m --layers 3 --vocabulary 4096 --batch 16 --time 128 --optimizer muon"
    " --precision auto"
)
BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "settings", nargs="*", default=[DEFAULT, OURS], help=f"left out: {DEFAULT} {OURS}"
    )
    parser.add_argument("--programs", type=int, default=2, help="busy ones, one thread each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="timed in each process")
    options = parser.parse_args()
    rates: dict[tuple[str, int], list[float]] = {}
    for number in range(options.rounds):
        for setting in options.settings:
            for programs in (0, options.programs):
                with busy_programs(programs):
                    others = watch_others()
                    rate = tokens_per_second(setting, options.steps)
                    load = others()
                rates.setdefault((setting, programs), []).append(rate)
                print(
                    f"round {number + 1}: {setting}, {programs} busy programs:"
                    f" {rate:,.0f} tokens/s while others took {load} cores",
                    flush=True,
                )
    print_medians(rates, options.settings, options.programs)


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many processes that compute without end, until the block is left."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def tokens_per_second(setting: str, steps: int) -> float:
    """Tokens a second of the median training step of a fresh process with this setting alone."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    if setting != OURS:
        environment |= dict(part.split("=", 1) for part in setting.split(","))
    done = subprocess.run(
        [sys.executable, str(HERE / "train_step.py"), *STEP.split(), "--steps", str(steps)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout)["tokens_per_second"])


def print_medians(
    rates: dict[tuple[str, int], list[float]], settings: list[str], programs: int
) -> None:
    """A line for each setting: medians and ranges, busy to quiet, and quiet to that of the first
    setting.
    """
    first = statistics.median(rates[settings[0], 0])
    for setting in settings:
        quiet, busy = rates[setting, 0], rates[setting, programs]
        print(
            f"{setting}: quiet {_median_and_range(quiet)},"
            f" {statistics.median(quiet) / first:.1%} of {settings[0]};"
            f" beside {programs} {_median_and_range(busy)},"
            f" {statistics.median(busy) / statistics.median(quiet):.1%} of quiet"
        )


def _median_and_range(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


if __name__ == "__main__":
    main()
