"""The search for what the quickstart should be: calibrate, then run.

    python benchmarks/quickstart/search.py calibrate --threads 2
        on a quiet machine, once; with --variants, those alone are measured again
    python benchmarks/quickstart/search.py run --minutes 2.5 --seeds 0
    python benchmarks/quickstart/search.py run --variants default 'batch 4 x 256' --seeds 0 1 2 \\
        --corpus cpp --jobs 2 --nice 10
    python benchmarks/quickstart/report.py

A run has as many steps as the minutes hold on a quiet machine, and not as many as they hold while
it runs: `calibrate` measures the seconds of a step of the default and, in turns with it, what a
step of each variant costs relative to that (costs.json), so that results do not depend on the load.
Each run has one thread. Each result is a line of results.jsonl: bits per byte of held-out text, the
loss on the way, and what it was made with. What is there already is not run again, and an
interrupted run is begun again.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from report import read_results
from variants import CORPORA, DEFAULT, LATER, VARIANTS, variant_recipe

from puna.device import processor_name
from puna.errors import TrainingError
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.step_time import StepTimer, random_batch
from puna.training.trainer import Trainer
from puna.workflow.missing_data import make_missing_data
from puna.workflow.run_data import open_data

HERE = Path(__file__).parent
RESULTS, COSTS = HERE / "results.jsonl", HERE / "costs.json"
FOLDER = Path("runs/quickstart-search")


@dataclass(frozen=True)
class Run:
    """One run. budget: steps of the default in the same time."""

    variant: str
    corpus: str
    seed: int
    budget: int
    steps: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two results the same."""
        return (*vars(self).values(), VARIANTS[self.variant])


class Curve:
    """Observer that keeps the records of a run."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def logged(self, record: dict[str, Any]) -> None:
        """Keep it."""
        self.records.append(record)

    def saved(self, path: Path) -> None:
        """Nothing: the checkpoint is thrown away."""


def calibrate(names: Iterable[str], threads: int, rounds: int) -> dict[str, Any]:
    """Seconds of the default's step, the fastest, and of each variant the median of its step's
    seconds over those of the default's step just before.
    """
    torch.set_num_threads(threads)

    def timer(name: str, later: bool = False) -> tuple[StepTimer, torch.Tensor]:
        recipe = variant_recipe(
            name, corpus="python", seed=0, steps=100, folder=FOLDER, later=later
        )
        return StepTimer(recipe), random_batch(recipe)

    default, ids = timer(DEFAULT)
    fastest, costs = float("inf"), {DEFAULT: 1.0}
    for name in names:
        if name == DEFAULT:
            continue
        costs[name] = 0.0
        for later, share in enumerate(_shares(name)):
            other, others_ids = timer(name, bool(later))
            ratios = []
            for _ in range(2 + rounds):
                seconds = default.seconds(ids.clone)
                ratios.append(other.seconds(others_ids.clone) / seconds)
                fastest = min(fastest, seconds)
            costs[name] += share * statistics.median(ratios[2:])
        costs[name] = round(costs[name], 4)
        print(f"{costs[name]:6.2f}  {name}", flush=True)
    return {
        "processor": processor_name(),
        "threads": threads,
        "isa": default.loss.backend.isa,
        "seconds": round(fastest, 5),
        "costs": costs,
    }


def with_known(known: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The new costs beside those of variants that were not measured again, and the known seconds
    of a step, so that the same minutes stay the same steps. Of another machine nothing is known.
    """
    machine = ("processor", "threads", "isa")
    if any(known[key] != found[key] for key in machine):
        return found
    return known | {"costs": known["costs"] | found["costs"]}


def _shares(name: str) -> tuple[float, ...]:
    """Of a variant's steps, those of its recipe, and of the one that it changes to (`LATER`)."""
    return (LATER[name][0], 1 - LATER[name][0]) if name in LATER else (1.0,)


def planned(options: argparse.Namespace) -> list[Run]:
    """The runs that the options ask for: seed by seed, so that what is there after an interruption
    compares all variants.
    """
    costs = json.loads(options.costs.read_text()) if options.costs.exists() else {"costs": {}}
    if missing := [name for name in options.variants if name not in costs["costs"]]:
        raise SystemExit(
            f"{options.costs} has no cost of {', '.join(missing)}: run calibrate --variants"
            " with them first"
        )
    budget = options.steps or round(60 * options.minutes / costs["seconds"])
    return [
        Run(name, options.corpus, seed, budget, max(2, round(budget / costs["costs"][name])))
        for seed in options.seeds
        for name in options.variants
    ]


def key_of(result: dict[str, Any]) -> tuple[Any, ...]:
    """The `Run.key` of a result."""
    names = ("variant", "corpus", "seed", "budget", "steps")
    return (*(result[name] for name in names), tuple(result["overrides"]))


def execute(run: Run, version: str, nice: int) -> dict[str, Any]:
    """Train and measure; bits per byte are None where the run diverged."""
    os.nice(nice)
    torch.set_num_threads(1)
    folder, curve = FOLDER / "run" / str(os.getpid()), Curve()
    shutil.rmtree(folder, ignore_errors=True)

    def trainer_of(later: bool) -> Trainer:
        recipe = variant_recipe(
            run.variant,
            corpus=run.corpus,
            seed=run.seed,
            steps=run.steps,
            folder=FOLDER,
            later=later,
        )
        trainer = Trainer(recipe, folder / str(later), open_data(recipe).inputs, (curve,))
        trainer.start(resume=False)
        return trainer

    trainer = trainer_of(later=False)
    first, *rest = _shares(run.variant)
    change = round(run.steps * first)
    tokens = change * trainer.recipe.tokens_per_step
    try:
        trainer.train(until=change)
        if rest:
            before, trainer = trainer, trainer_of(later=True)
            _take_over(trainer, before)
            tokens += (run.steps - change) * trainer.recipe.tokens_per_step
            trainer.train()
        diverged = ""
    except TrainingError as error:
        diverged = str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ends = [record for record in curve.records if record["kind"] == "validation"]
    return {
        **vars(run),
        "overrides": VARIANTS[run.variant],
        "tokens": tokens,
        "bits_per_byte": None if diverged else ends[-1]["bits_per_byte"],
        **({"diverged": diverged} if diverged else {}),
        "curve": [
            (record["step"], round(record["bits_per_byte"], 4))
            for record in curve.records
            if record["kind"] == "train"
        ],
        "isa": trainer.loss.backend.isa,
        "precision": trainer.precision,
        "torch": torch.__version__,
        "code": version,
    }


def _take_over(trainer: Trainer, before: Trainer) -> None:
    """Go on from where another trainer of the same model is: weights, optimizer state, step."""
    trainer.model.load_state_dict(before.model.state_dict())
    pairs = zip(trainer.optimizers.optimizers, before.optimizers.optimizers, strict=True)
    for optimizer, others in pairs:
        optimizer.load_state_dict(others.state_dict())
    done = before.progress
    trainer.progress = replace(trainer.progress, step=done.step, seconds=done.seconds)


def prepare(runs: Iterable[Run]) -> None:
    """Tokenizer and shards of each corpus and vocabulary. Raises SystemExit for a text from which
    fewer entries are learnt than the variant has.
    """
    for name, corpus in sorted({(run.variant, run.corpus) for run in runs}):
        recipe = variant_recipe(name, corpus=corpus, seed=0, steps=100, folder=FOLDER)
        make_missing_data(recipe)
        entries = Tokenizer.load(recipe.tokenizer.path).vocab_size
        if entries != recipe.model.vocab_size:
            raise SystemExit(f"{corpus}: {entries} entries in place of {recipe.model.vocab_size}")


def run_all(options: argparse.Namespace) -> None:
    """Run what is not there yet, `jobs` at once, and append each result."""
    done = {key_of(result) for result in read_results(options.results)}
    runs = [run for run in planned(options) if run.key not in done]
    print(f"{len(runs)} runs to do", flush=True)
    prepare(runs)
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # a process a run: nothing of one is left for the next
    pool = ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1)
    with pool, options.results.open("a", encoding="utf-8") as out:
        if (before := options.results.read_bytes()) and not before.endswith(b"\n"):
            out.write("\n")  # after a line that was cut off
        futures = [pool.submit(execute, run, version, options.nice) for run in runs]
        try:
            for future in as_completed(futures):
                result = future.result()
                out.write(json.dumps(result) + "\n")
                out.flush()
                print(_line(result), flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _line(result: dict[str, Any]) -> str:
    bits = result["bits_per_byte"]
    return (
        f"{'diverged' if bits is None else format(bits, '.4f'):>8}  {result['variant']},"
        f" {result['corpus']}, seed {result['seed']}, {result['steps']} steps"
    )


def _named(name: str) -> str:
    if name not in VARIANTS:
        raise argparse.ArgumentTypeError(f"there is no {name!r}: see variants.py")
    return name


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--variants", nargs="+", type=_named, default=list(VARIANTS), metavar="NAME")
    both.add_argument("--costs", type=Path, default=COSTS)
    costs = commands.add_parser("calibrate", parents=[both], help="measure costs.json")
    costs.add_argument("--threads", type=int, default=1, help="of the machine that is meant")
    costs.add_argument("--rounds", type=int, default=15)
    run = commands.add_parser("run", parents=[both], help="train what is not in the results yet")
    run.add_argument("--minutes", type=float, default=2.5, help="on the calibrated machine, quiet")
    run.add_argument("--steps", type=int, help="of the default, in place of the minutes")
    run.add_argument("--seeds", nargs="+", type=int, default=[0])
    run.add_argument("--corpus", choices=CORPORA, default="python")
    run.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each")
    run.add_argument("--nice", type=int, default=0)
    run.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.command == "run":
        run_all(options)
        return
    found = calibrate(options.variants, options.threads, options.rounds)
    if options.costs.exists():
        found = with_known(json.loads(options.costs.read_text()), found)
    options.costs.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
