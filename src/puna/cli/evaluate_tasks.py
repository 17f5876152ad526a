"""Tasks and questions that `puna eval` asks: loaded, asked with their progress, printed as a table,
written as JSON.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.durable import write_json
from puna.errors import ConfigError

if TYPE_CHECKING:
    from puna.eval.continuations import Progress
    from puna.eval.task_result import TaskResult
    from puna.inference.language_model import LanguageModel

_PACKAGES = ("puna", "torch", "tokenizers", "lm_eval")


@dataclass(frozen=True)
class Asked:
    """Options that every way of asking shares."""

    model: str
    device: str
    limit: int | None
    seed: int | None
    text: tuple[str, ...]
    output: Path | None


def listed(names: Sequence[str]) -> list[str]:
    """The names in options that may hold several, parted by commas, each once."""
    parts = (part.strip() for name in names for part in name.split(","))
    return list(dict.fromkeys(part for part in parts if part))


def check_output(path: Path) -> None:
    """Raise ConfigError, before long work, for a file that cannot be written after it."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            f"--output {path} {'is a folder' if path.is_dir() else 'lies in no folder'}: name a"
            " file in a folder that exists"
        )


def ask_tasks(asked: Asked, names: Sequence[str]) -> None:
    """The shipped tasks, without the harness."""
    from puna.eval.shipped_tasks import check_text, choose_tasks, run_task

    tasks = choose_tasks(names)
    check_text([task.name for task in tasks], asked.text)

    def ask(llama: "LanguageModel", progress: "Progress") -> "tuple[list[TaskResult], int]":
        found = []
        for task in tasks:
            with progress(task.name) as on_progress:
                rows = task.documents(asked.seed, asked.text, asked.limit)
                found.append(run_task(llama, task, rows, asked.seed, on_progress))
        return found, sum(result.cut or 0 for result in found)

    _report(asked, ask, "Puna")


def ask_harness(
    asked: Asked, names: Sequence[str], chat_template: bool, num_fewshot: int | None
) -> None:
    """Tasks through lm-evaluation-harness."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # it has bars of its own
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # and pools of processes for a bootstrap
    from puna.eval.harness import load_tasks, run_harness

    tasks = load_tasks(names, seed=asked.seed, text=asked.text)

    def ask(llama: "LanguageModel", progress: "Progress") -> "tuple[list[TaskResult], int]":
        return run_harness(
            llama,
            tasks,
            limit=asked.limit,
            chat_template=chat_template,
            num_fewshot=num_fewshot,
            progress=progress,
        )

    _report(asked, ask, f"lm-evaluation-harness {version('lm_eval')}")


def ask_questions(asked: Asked, files: Sequence[Path]) -> None:
    """Multiple choice from files."""
    from puna.eval.multiple_choice import answer_questions, read_questions
    from puna.eval.task_result import TaskResult, estimates

    questions = {str(path): read_questions(path)[: asked.limit] for path in files}

    def ask(llama: "LanguageModel", progress: "Progress") -> "tuple[list[TaskResult], int]":
        found = []
        for name, of_file in questions.items():
            with progress(name) as on_progress:
                answers = answer_questions(llama, of_file, on_progress)
            found.append(TaskResult(name, estimates(answers.values), cut=answers.cut))
        return found, sum(result.cut or 0 for result in found)

    _report(asked, ask, "Puna")


def _report(
    asked: Asked,
    ask: "Callable[[LanguageModel, Progress], tuple[list[TaskResult], int]]",
    asked_by: str,
) -> None:
    """Load the model, ask, print, write."""
    from rich.console import Console

    from puna.cli.work_progress import scoring_progress
    from puna.inference.language_model import load

    llama = load(asked.model, asked.device)
    console = Console(stderr=True, markup=False, emoji=False)
    results, cut = ask(llama, lambda work: scoring_progress(console, work))
    formulas = _formulas({metric for result in results for metric in result.metrics})
    _print(asked, results, formulas)
    if cut:
        console.print(
            f"{cut:,} prompts are longer than the model's context of"
            f" {llama.model.config.context_length}: their front was left out, so their answers may"
            " not be in sight.",
            highlight=False,
        )
    if asked.output is not None:
        write_record(
            asked.output,
            {
                "model": asked.model,
                "tokenizer_sha256": llama.tokenizer.hash,
                "asked_by": asked_by,
                "limit": asked.limit,
                "text": list(asked.text),
                "cut_prompts": cut,
                "formulas": formulas,
                "tasks": [asdict(result) for result in results],
            },
        )


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write figures as JSON, with the versions behind them; null for one that is no number."""
    write_json(path, _finite({"versions": _versions(), **record}))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an extra that is not there
    return found


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def _formulas(metrics: set[str]) -> list[str]:
    from puna.eval.bits_per_byte import FORMULA
    from puna.eval.multiple_choice import FORMULA as CHOICE
    from puna.eval.task_result import INTERVAL

    choice = [CHOICE] if metrics & {"acc_norm", "acc_answer"} else []
    return [*([FORMULA] if "bits_per_byte" in metrics else []), *choice, INTERVAL]


def _print(asked: Asked, results: "Sequence[TaskResult]", formulas: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=asked.model, title_justify="left")
    for name in ("task", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("value", "95% interval", "n"):
        table.add_column(name, justify="right")
    for result in results:
        for index, (metric, found) in enumerate(result.metrics.items()):
            doubt = "" if found.stderr is None else f"± {found.stderr:.4f}"
            if found.low is not None:
                doubt = f"{found.low:.4f} to {found.high:.4f}"
            table.add_row(
                "" if index else result.task, metric, f"{found.value:.4f}", doubt, f"{found.n:,}"
            )
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(";\n".join(formulas) + ".", highlight=False)
    seeds = {result.seed for result in results} - {None}
    if seeds:
        console.print(f"Documents from seed {seeds.pop()}.", highlight=False)
