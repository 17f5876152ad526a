"""The whole comparison: programs of a format, rounds that alternate between them, limits.

Rounds alternate, the limits among them, because a machine's speed drifts: the ratios are what
travels.
"""

import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from puna.diagnosis.measurements import measure_limits
from puna.diagnosis.processor import find_memory, find_processor
from puna.errors import ConfigError, NativeError
from puna.inference_benchmark.measured_executor import blocks_for
from puna.inference_benchmark.measured_process import Computer, Setup
from puna.inference_benchmark.native_program import BLOCK_SIZE
from puna.inference_benchmark.peers import peer_programs, peer_version
from puna.inference_benchmark.programs import (
    AnsweringProgram,
    Measure,
    Program,
    ProgramError,
    seconds_to_output,
)
from puna.inference_benchmark.subject import Subject
from puna.inference_benchmark.torch_programs import random_model
from puna.inference_benchmark.verdict import (
    FLOAT32,
    OURS,
    TORCH_INT8,
    TWIN,
    MachineLimits,
    Row,
    limits_of,
    median_limits,
)
from puna.inference_benchmark.workload import Format, Workload
from puna.model.weights import write_model
from puna.native.library import load

LEAST_RUNS = 5
"""Rounds of a median that a bar is held against."""


@dataclass(frozen=True)
class Plan:
    """A comparison to make. peers: their folder, and the names of those found there. int8_cache:
    keys and values of Puna's executors in int8.
    """

    subject: Subject
    works: tuple[Workload, ...]
    formats: tuple[Format, ...]
    threads: int
    runs: int
    peers: tuple[Path, tuple[str, ...]] | None = None
    int8_cache: bool = False


def check_plan(plan: Plan) -> Plan:
    """The plan without works that need more positions than the model has. Raises ConfigError for
    too few rounds, for threads that are none, and where no work is left.
    """
    if plan.runs < LEAST_RUNS:
        raise ConfigError(
            f"the number of runs is {plan.runs}, but a bar is held against the median of at least"
            f" {LEAST_RUNS}: give --runs {LEAST_RUNS} or more"
        )
    if plan.threads < 1:
        raise ConfigError(f"the number of threads is {plan.threads}: give at least 1")
    context = plan.subject.config.context_length
    fitting = tuple(work for work in plan.works if work.positions <= context)
    if not fitting:
        raise ConfigError(
            f"{plan.subject.name} has a context of {context} tokens, too few for"
            f" {', '.join(work.name for work in plan.works)}: choose other works"
        )
    return replace(plan, works=fitting)


def native_tier() -> str:
    """The native core's tier on this machine; "torch" where it is not there."""
    try:
        return load().tier
    except NativeError:
        return "torch"


def find_limits(threads: int, names: Collection[str]) -> MachineLimits:
    """Measure some of the machine's limits with so many threads of PyTorch, as `puna doctor`
    does.
    """
    torch.set_num_threads(threads)
    cache, room = find_processor().last_cache, find_memory().available
    found = {limit.name: limit for limit in measure_limits(torch.device("cpu"), cache, room, names)}

    def value(name: str) -> float | None:
        return found[name].value if name in found else None

    return MachineLimits(
        reading=value("reading"),
        float32=value("matmul float32"),
        bfloat16=value("matmul bfloat16"),
        int8=value("matmul int8"),
        others=max((limit.others for limit in found.values() if limit.others), default=None),
    )


def compare(plan: Plan, tier: str, on_row: Callable[[Workload, Format], None]) -> Iterator[Row]:
    """Rows, a format after the other; the programs of one format are there at the same time.

    on_row: called with work and format before each.
    """
    with ExitStack() as folders:
        start = _start_folder(plan, folders)
        for weights in plan.formats:
            with ExitStack() as stack:
                programs = _programs(plan, weights, tier, start)
                for program in programs:
                    stack.callback(program.close)
                for work in plan.works:
                    measures: dict[str, Measure] = {}
                    for program in programs:
                        measures |= program.entries(work)
                    on_row(work, weights)
                    names = limits_of(work, weights)
                    limits = partial(find_limits, plan.threads, names)
                    yield measured_row(work, weights, measures, limits, plan.runs)


def measured_row(
    work: Workload,
    weights: Format,
    measures: Mapping[str, Measure],
    limits: Callable[[], MachineLimits],
    runs: int,
) -> Row:
    """A row by rounds in which each program has its turn, and the machine's limits have theirs; the
    first round warms up. A program that breaks off has no further turn.
    """
    found: dict[str, list[float]] = {entry: [] for entry in measures}
    failed: dict[str, str] = {}
    rounds: list[MachineLimits] = []
    for number in range(runs + 1):
        if number:
            rounds.append(limits())
        for entry, measure in measures.items():
            if entry in failed:
                continue
            try:
                figure = measure()
            except ProgramError as error:
                failed[entry] = str(error)
                found[entry] = []
                continue
            if number:
                found[entry].append(figure)
    return Row(work, weights, found, median_limits(rounds), failed)


class _Starts:
    """Starts of a process on the native core that ends at its first token."""

    def __init__(self, folder: Path, weights: Format, threads: int) -> None:
        module = "puna.inference_benchmark.first_token"
        self._command = [sys.executable, "-m", module, str(folder), weights, str(threads)]

    def entries(self, work: Workload) -> Mapping[str, Measure]:
        """As `Program.entries`. The round that warms up packs the weights."""
        if work.kind != "start":
            return {}
        return {OURS: lambda: seconds_to_output(self._command)}

    def close(self) -> None:
        """As `Program.close`: none is left."""


def _start_folder(plan: Plan, stack: ExitStack) -> Path | None:
    """The model folder whose start is measured; for a shape one with random weights, until the
    stack ends.
    """
    if plan.subject.folder or not any(work.kind == "start" for work in plan.works):
        return plan.subject.folder
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="puna-bench-")))
    write_model(folder, random_model(plan.subject.config, torch.bfloat16))
    return folder


def _programs(plan: Plan, weights: Format, tier: str, start: Path | None) -> list[Program]:
    long = [work.name for work in plan.works if work.kind != "start"]
    plain = [work.name for work in plan.works if work.kind in ("prefill", "decode")]
    programs: list[Program] = []
    if tier != "torch":
        programs.append(_answering(plan, OURS, "native", weights, long))
    if tier != "torch" and start is not None:
        programs.append(_Starts(start, weights, plan.threads))
    if weights == "bf16":
        programs.append(_answering(plan, TWIN, "bfloat16", weights, plain))
        if tier == "avx2":  # there bfloat16 products are float32's, and the bar is MKL's
            programs.append(_answering(plan, FLOAT32, "float32", weights, ["prefill"]))
    if weights == "int8":
        programs.append(_answering(plan, TORCH_INT8, "dynamic int8", weights, ["prefill"]))
    if plan.peers is not None:
        folder, found = plan.peers
        programs += peer_programs(folder, found, plan.subject, weights, plan.threads)
    return programs


def _answering(
    plan: Plan, entry: str, computer: Computer, weights: Format, works: list[str]
) -> AnsweringProgram:
    setup = Setup(
        computer=computer,
        weights=weights,
        threads=plan.threads,
        num_blocks=blocks_for(plan.works, BLOCK_SIZE),
        config=plan.subject.config.model_dump(mode="json"),
        folder=str(plan.subject.folder.resolve()) if plan.subject.folder else None,
        int8_cache=plan.int8_cache,
    )
    return AnsweringProgram(entry, setup.command(), works)


def peer_commits(plan: Plan) -> dict[str, str]:
    """The commits that the peers were built from, and transformers' version, by name."""
    if plan.peers is None:
        return {}
    folder, found = plan.peers
    return {name: peer_version(folder, name, plan.subject, plan.formats[0]) for name in found}
