"""`results.jsonl`, what a study has found so far: one JSON object a finished run, only ever
appended to.

A record holds the run's arm and seed; hashes of its recipe, of the code and of the data; and what
it measured, null where it diverged. `StudyRuns` are the records by arm, once they are complete. Not
here: what the numbers say (statistics/paired.py).
"""

import ast
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puna.errors import ConfigError, DataError
from puna.study.definition import Study

FILE = "results.jsonl"
# The code that decides what a run finds: what is computed, on what, and what is measured
HASHED = (
    *(f"{package}/*.py" for package in ("nn", "model", "tokenizer", "data", "training", "eval")),
    "device.py",
    "study/run_metrics.py",
    "study/probes.py",
)

Record = Mapping[str, Any]


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The finished runs of a study, those that tuned its arms apart."""
    return read_records(folder / FILE)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The finished runs in a file in the order in which they ended; a last line without an end was
    torn by a kill and is no result.

    Raises DataError for any other line that is not a record.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records.append({**record, "arm": record["arm"], "seed": record["seed"]})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number} is not the record of a run: delete that line, and its run"
                " is done again"
            ) from error
    return records


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one record to a file, on disk before this returns; a torn last line is cut off first.
    Floats keep 6 significant digits.
    """
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(_rounded(record), allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _rounded(value: Any) -> Any:
    """Every float at 6 significant digits, finer than any spread between seeds."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class StudyRuns:
    """Every run that `study.yaml` asks for. by_arm: in the study's order of arms, each arm's in its
    order of seeds.

    left_out: how many records are of arms or seeds that `study.yaml` does not name. stage: the last
    of which every run is there, empty in a study without stages.
    """

    by_arm: Mapping[str, tuple[Record, ...]]
    left_out: int
    stage: str = ""

    def __len__(self) -> int:
        return sum(len(runs) for runs in self.by_arm.values())

    def __iter__(self) -> Iterator[Record]:
        return (run for runs in self.by_arm.values() for run in runs)

    def values(self, metric: str) -> dict[str, dict[int, float]]:
        """The metric by arm and seed; nan where the run diverged."""
        return {
            arm: {run["seed"]: value_of(run, metric) for run in runs}
            for arm, runs in self.by_arm.items()
        }

    def diverged(self, arm: str, metric: str) -> int:
        """The number of the arm's runs that have no value of the metric."""
        return sum(math.isnan(value_of(run, metric)) for run in self.by_arm[arm])


def value_of(run: Record, metric: str) -> float:
    """The run's metric; nan where it diverged."""
    value = run[metric]
    return math.nan if value is None else float(value)


def complete_runs(study: Study, records: Sequence[Record]) -> StudyRuns:
    """The study's runs at the last stage that is complete, or at the first if none is. Raises
    ConfigError for runs that are missing or there twice, and for a metric that a run did not log.
    """
    wanted = [(arm, seed) for arm in study.arms for seed in study.seeds]
    by_stage: dict[str, dict[tuple[str, int], Record]] = {stage: {} for stage in study.stages}
    for record in records:
        job, of_stage = (record["arm"], record["seed"]), by_stage.get(record.get("stage", ""), {})
        if job in of_stage:
            raise ConfigError(
                f"arm {job[0]}, seed {job[1]} has two results, and a report cannot choose: delete"
                " one line of results.jsonl"
            )
        of_stage[job] = record
    complete = [stage for stage, runs in by_stage.items() if all(job in runs for job in wanted)]
    stage = complete[-1] if complete else next(iter(study.stages))
    found = by_stage[stage]
    for arm in study.arms:
        if missing := [str(seed) for seed in study.seeds if (arm, seed) not in found]:
            seeds = f"seed{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
            raise ConfigError(
                f"arm {arm} lacks {seeds}, and differences are paired: puna study run FOLDER does"
                " the missing runs"
            )
    for arm, seed in wanted:
        for metric in _reported(study):
            if metric not in found[arm, seed]:
                raise ConfigError(
                    f"arm {arm}, seed {seed} did not log {metric}, and a metric is reported of"
                    " every run or of none: take it out of study.yaml, or delete the run's line in"
                    " results.jsonl and do it again with puna study run FOLDER"
                )
    by_arm = {arm: tuple(found[arm, seed] for seed in study.seeds) for arm in study.arms}
    return StudyRuns(by_arm, len(found) - len(wanted), stage)


def _reported(study: Study) -> tuple[str, ...]:
    return (study.metric, *study.also, *(["loss"] if study.fit else []))


def code_hash(source: Path = Path(__file__).parents[1]) -> str:
    """The hash of the code in `source` that decides a run's result, and of PyTorch's version: 16
    hex digits. Comments, docstrings and layout do not count, so prose can be mended between runs.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(path for part in HASHED for path in source.glob(part)):
        tree = syntax_tree(ast.parse(path.read_bytes()))
        digest.update(f"{path.relative_to(source).as_posix()}\0{tree!r}\n".encode())
    return digest.hexdigest()[:16]


def syntax_tree(node: Any) -> Any:
    """A node of `ast` as nested tuples, without docstrings, positions and fields that are empty:
    those differ between versions of Python.
    """
    if isinstance(node, list):
        return tuple(syntax_tree(item) for item in node if not _is_docstring(item))
    if not isinstance(node, ast.AST):
        return node
    fields = ((name, syntax_tree(value)) for name, value in ast.iter_fields(node))
    return (type(node).__name__, *(field for field in fields if field[1] not in (None, ())))


def _is_docstring(node: Any) -> bool:
    """A statement that is a string and nothing else has no effect, wherever it stands."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False
