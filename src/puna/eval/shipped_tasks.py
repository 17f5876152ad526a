"""The shipped tasks, run without lm-evaluation-harness: the files in `tasks/` are in its form, and
are read here for the same documents, prompts, judges and figures.

What they share with the harness is all but one convention: bits per byte of a text. There the
harness's own `hf` model lets a begin token follow the begin token, and counts it; here, as in
`bits_per_byte.py`, a text has one, which is given. So the two figures differ where a tokenizer adds
one.
"""

import difflib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from puna.errors import ConfigError
from puna.eval.continuations import (
    OnProgress,
    TextPrompt,
    encode_pair,
    generate_texts,
    prefix_id,
    rolling_windows,
    score_continuations,
)
from puna.eval.judges import Values
from puna.eval.multiple_choice import answer_questions, check_question
from puna.eval.task_documents import Row, documents
from puna.eval.task_result import Answers, TaskResult, estimates
from puna.inference.language_model import LanguageModel

TASKS = Path(__file__).parent / "tasks"
"""For `lm_eval --include_path`."""


class _Loader(yaml.SafeLoader):
    """YAML with the harness's `!function`, read as the function's dotted name."""


_Loader.add_constructor("!function", lambda _, node: node.value)


@dataclass(frozen=True)
class ShippedTask:
    """A task as its file says it. fields: of the file; documents that are asked, unless told
    otherwise: n of them from seed.
    """

    name: str
    fields: Mapping[str, Any]
    version: str
    n: int | None
    seed: int

    @property
    def scores_text(self) -> bool:
        """True where the documents are those of a text that must be given."""
        return bool(self.fields["dataset_kwargs"]["kind"] == "text")

    def documents(self, seed: int | None, text: Sequence[str], limit: int | None) -> list[Row]:
        """Those that are asked. seed: instead of the task's; text: sources, for the task that
        scores them; limit: the first so many. Raises ConfigError for a text that is missing,
        DataError for one that cannot be read.
        """
        seed = self.seed if seed is None else seed
        made = documents(self.fields["dataset_kwargs"]["kind"], self.n, seed, text)
        return made[:limit]


def shipped_tasks() -> dict[str, ShippedTask]:
    """The tasks of the package, by name."""
    found = {}
    for path in sorted(TASKS.glob("*.yaml")):
        fields = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a subclass of SafeLoader
        told = fields["metadata"]
        found[fields["task"]] = ShippedTask(
            fields["task"], fields, str(told["version"]), told["n"], told["seed"]
        )
    return found


def choose_tasks(names: Sequence[str]) -> list[ShippedTask]:
    """The shipped tasks of these names; `all` stands for all that make their own documents. Raises
    ConfigError for a name that is none.
    """
    tasks = shipped_tasks()
    chosen: dict[str, ShippedTask] = {}
    for name in names:
        if name == "all":
            chosen |= {one.name: one for one in tasks.values() if not one.scores_text}
        elif name in tasks:
            chosen[name] = tasks[name]
        else:
            raise ConfigError(f"there is no task {name!r}: {nearest(name, tasks)}")
    return list(chosen.values())


def check_text(names: Collection[str], text: Sequence[str]) -> None:
    """Raise ConfigError where a text is given that none of these tasks scores."""
    tasks = shipped_tasks()
    if text and not any(name in tasks and tasks[name].scores_text for name in names):
        raise ConfigError(
            f"none of the tasks {', '.join(names)} scores a text: leave --text out, or add"
            f" {', '.join(name for name, task in tasks.items() if task.scores_text)}"
        )


def nearest(name: str, names: Sequence[str] | Mapping[str, object]) -> str:
    """Words that help someone who gave a name that is none of these."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    shipped = ", ".join(shipped_tasks())
    return f"shipped with Puna are {shipped}"


def run_task(
    llama: LanguageModel,
    task: ShippedTask,
    rows: list[Row],
    seed: int | None = None,
    on_progress: OnProgress | None = None,
) -> TaskResult:
    """Ask a model these documents of a task. seed: theirs, if it is not the task's own. Raises
    DataError for a document beyond the model's context.
    """
    found = _ASK[task.fields["output_type"]](llama, task, rows, on_progress)
    return TaskResult(
        task.name,
        estimates(found.values),
        task.version,
        None if task.scores_text else task.seed if seed is None else seed,
        found.cut,
    )


_Ask = Callable[[LanguageModel, ShippedTask, list[Row], OnProgress | None], Answers]


def _judge(task: ShippedTask, rows: list[Row], results: Sequence[Any]) -> list[Values]:
    judge = pkgutil.resolve_name(task.fields["process_results"])
    return [judge(row, [result]) for row, result in zip(rows, results, strict=True)]


def _ask_continuations(
    llama: LanguageModel, task: ShippedTask, rows: list[Row], on_progress: OnProgress | None
) -> Answers:
    context, target = task.fields["doc_to_text"], task.fields["doc_to_target"]
    pairs = [encode_pair(llama.tokenizer, row[context], row[target]) for row in rows]
    scores = score_continuations(llama, pairs, on_progress)
    results = [(score.logprob, score.is_greedy) for score in scores]
    return Answers(_judge(task, rows, results), sum(score.is_cut for score in scores))


def _ask_texts(
    llama: LanguageModel, task: ShippedTask, rows: list[Row], on_progress: OnProgress | None
) -> Answers:
    context_length, prefix = llama.model.config.context_length, prefix_id(llama.tokenizer)
    windows = [
        rolling_windows(llama.tokenizer.encode(row["text"]), prefix, context_length) for row in rows
    ]
    flat = [window for of_text in windows for window in of_text]
    scores = iter(score_continuations(llama, flat, on_progress))
    totals = [sum(next(scores).logprob for _ in of_text) for of_text in windows]
    return Answers(_judge(task, rows, totals), 0)


def _ask_choices(
    llama: LanguageModel, task: ShippedTask, rows: list[Row], on_progress: OnProgress | None
) -> Answers:
    fields = task.fields
    questions = [
        check_question(
            {
                "context": row[fields["doc_to_text"]],
                "choices": row[fields["doc_to_choice"]],
                "answer": row[fields["doc_to_target"]],
            },
            f"{task.name}, document {number}",
        )
        for number, row in enumerate(rows)
    ]
    return answer_questions(llama, questions, on_progress)


def _ask_generations(
    llama: LanguageModel, task: ShippedTask, rows: list[Row], on_progress: OnProgress | None
) -> Answers:
    asked = task.fields["generation_kwargs"]
    options = {"stop": tuple(asked["until"]), "max_tokens": asked["max_gen_toks"]}
    prompts = [
        TextPrompt(llama.tokenizer.encode_document(row[task.fields["doc_to_text"]]), options)
        for row in rows
    ]
    written = generate_texts(llama, prompts, on_progress)
    return Answers(
        _judge(task, rows, [one.text for one in written]), sum(one.is_cut for one in written)
    )


_ASK: Mapping[str, _Ask] = {
    "loglikelihood": _ask_continuations,
    "loglikelihood_rolling": _ask_texts,
    "multiple_choice": _ask_choices,
    "generate_until": _ask_generations,
}
