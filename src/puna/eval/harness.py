"""Tasks of lm-evaluation-harness, the shipped ones and its own, asked of a model of Puna's.

The shipped tasks need no network; most of the harness's own download a data set first. Takes the
extra `eval`; the harness is imported when it is asked for.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from puna.errors import ConfigError, DataError, PunaError
from puna.eval.continuations import Progress, no_progress
from puna.eval.shipped_tasks import TASKS, check_text, nearest, shipped_tasks
from puna.eval.task_result import Estimate, TaskResult
from puna.inference.language_model import LanguageModel

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

MISSING = (
    "lm-evaluation-harness is not installed: pip install 'puna[eval]', or run the shipped tasks"
    " without it, by --task"
)


class HarnessTasks(NamedTuple):
    """Tasks and groups with their documents, ready to be asked."""

    manager: "TaskManager"
    loaded: list[Any]
    seed: int | None


class HarnessAnswer(NamedTuple):
    """The results of tasks and groups. cut: prompts of all of them whose front was left out, as the
    model's context does not hold them.
    """

    results: list[TaskResult]
    cut: int


def load_tasks(
    names: Sequence[str], *, seed: int | None = None, text: Sequence[str] = ()
) -> HarnessTasks:
    """The tasks, groups or tags of these names, or in these YAML files, with their data. seed,
    text: of the shipped tasks' documents.

    The harness's own tasks are looked for only where a name is none of the shipped: there are
    thousands. Raises ConfigError where the harness is missing, for a name that it does not know,
    and for a text that is missing or that no task scores; DataError for a task that cannot be
    loaded.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(MISSING) from error
    shipped = shipped_tasks()
    check_text(names, text)
    metadata: dict[str, Any] = {} if seed is None else {"seed": seed}
    if text:
        metadata["text"] = list(text)
    with _quiet():
        manager = TaskManager(
            include_path=str(TASKS),
            include_defaults=not set(names) <= set(shipped),
            metadata=metadata,
        )
        loaded: list[Any] = []
        for name in names:
            if name not in manager.all_tasks and not _is_task_file(name):
                near = nearest(name, manager.all_tasks)
                raise ConfigError(f"lm-evaluation-harness has no task {name!r}: {near}")
            try:
                made = manager.load([name])
            except PunaError:
                raise
            except Exception as error:  # a hub, a package or a data set that is not there
                raise DataError(
                    f"the task {name} cannot be loaded: {type(error).__name__}:"
                    f" {_first_line(error)}"
                ) from error
            loaded += made.get("groups", {}).values() or made["tasks"].values()
    return HarnessTasks(manager, loaded, seed)


def run_harness(
    llama: LanguageModel,
    tasks: HarnessTasks,
    *,
    limit: int | None = None,
    chat_template: bool = False,
    num_fewshot: int | None = None,
    progress: Progress = no_progress,
) -> HarnessAnswer:
    """Ask a model the tasks, and sum up the answers.

    limit: the first so many documents of each task. chat_template: each document as a message of a
    chat. num_fewshot: examples before it, where a task has some. Intervals are those of a bootstrap
    over documents where the figure is a mean or bits per byte; elsewhere the harness's standard
    error stands alone.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.evaluator import evaluate

    from puna.eval.harness_model import HarnessModel

    model = HarnessModel(llama, progress)
    with _quiet():
        loaded = tasks.manager.load(tasks.loaded)
        for name, task in loaded["tasks"].items():
            _reject_more_than_text(name, task)
        # As the harness's `simple_evaluate` does, which also asks git and the whole environment
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            if own != 0:  # a task that says 0 has no examples
                wanted = own if num_fewshot is None else num_fewshot
                task.set_config(key="num_fewshot", value=wanted or 0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        answer = evaluate(
            model,
            loaded,
            limit=limit,
            bootstrap_iters=1_000,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    return HarnessAnswer(task_results(answer, tasks.seed), model.cut)


def _reject_more_than_text(name: str, task: Any) -> None:
    if getattr(task, "MULTIMODAL", False) or getattr(task, "UNSAFE_CODE", False):
        more = "pictures or sound" if getattr(task, "MULTIMODAL", False) else "code that it runs"
        raise ConfigError(f"the task {name} takes {more}: choose one of text alone")


def _is_task_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml") and Path(name).is_file()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness's warnings left out, such as those on every task with documents of its own."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def task_results(answer: Mapping[str, Any], seed: int | None = None) -> list[TaskResult]:
    """The results in an answer of the harness's `simple_evaluate`, groups after tasks."""
    shipped = shipped_tasks()
    found = []
    for task, figures in answer["results"].items():
        samples = answer.get("samples", {}).get(task, [])
        metrics: dict[str, Estimate] = {}
        for key, value in figures.items():
            metric, _, which = key.partition(",")
            if which and not metric.endswith("_stderr") and isinstance(value, int | float):
                own = [one[metric] for one in samples if one["filter"] == which and metric in one]
                told = figures.get(f"{metric}_stderr,{which}")
                label = metric if which == "none" else key
                metrics[label] = _estimate(float(value), own, told, len(samples))
        version = answer.get("versions", {}).get(task)
        result = TaskResult(task, metrics, None if version is None else str(version))
        if task in shipped and not shipped[task].scores_text:
            result = replace(result, seed=shipped[task].seed if seed is None else seed)
        found.append(result)
    return found


def _estimate(value: float, own: Sequence[Any], told: Any, n: int) -> Estimate:
    """The figure with the bootstrap of its documents' values where their mean, or bits per byte, is
    the figure; else with the standard error that was told.
    """
    values = [(float(one[0]), float(one[1])) if _is_pair(one) else one for one in own]
    if values and (all(map(_is_pair, values)) or all(map(_is_number, values))):
        estimate = Estimate.of(values)
        if abs(estimate.value - value) <= 1e-9 * max(1.0, abs(value)):
            return estimate
    return Estimate(value, len(own) or n, float(told) if _is_number(told) else None)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _is_pair(value: Any) -> bool:
    """True for a log-likelihood and bytes, as a harness's bits per byte takes them."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(map(_is_number, value))
        and value[1] > 0
    )
