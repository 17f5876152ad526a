"""Multiple choice: the completion that a model finds likeliest, by the normalisations of the LLaMA
paper.

    sum         argmax of ln P(choice | context)
    characters  argmax of ln P(choice | context) / characters of the choice
    answer      argmax of ln P(choice | context) - ln P(choice | "Answer:")

Source: Touvron et al. 2023, LLaMA, section 3: per character, after Gao et al. 2021, and the last
for OpenBookQA and BoolQ, after Brown et al. 2020, section 2.4. The shares of right answers are
called `acc`, `acc_norm` and `acc_answer`; the first two are lm-evaluation-harness's. Usual mistake:
dividing by tokens, which compares no two tokenizers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puna import strict_json
from puna.errors import DataError
from puna.eval.continuations import OnProgress, encode_pair, score_continuations
from puna.eval.judges import Values
from puna.eval.task_result import Answers
from puna.inference.language_model import LanguageModel

FORMULA = (
    "acc: the choice of the highest ln P(choice | context) is the answer; acc_norm: of the highest"
    " ln P(choice | context) / characters of the choice;\nacc_answer: of the highest"
    ' ln P(choice | context) - ln P(choice | "Answer:")'
)
_NEUTRAL = "Answer:"
_KEYS = frozenset({"context", "choices", "answer"})
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """A context, the choices that may follow it, and the index of the right one."""

    context: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: Path) -> list[Question]:
    """The questions of a file of JSON lines, each an object with `context` (a text), `choices` (at
    least two texts) and `answer` (the index of the right one, from 0).

    Raises DataError with the line for a file that is missing, not UTF-8, empty, or otherwise.
    """
    found: list[Question] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), ""), 1):
                if line.strip():
                    found.append(_question(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not found:
        raise DataError(f"{path} holds no question: write one JSON object a line")
    return found


def _question(line: str, where: str) -> Question:
    if len(line) == _LONGEST_LINE:
        raise DataError(f"{where} has {_LONGEST_LINE:,} characters or more: give shorter contexts")
    try:
        value = strict_json.parse(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON object: {error}") from error
    if not isinstance(value, dict) or set(value) != _KEYS:
        keys = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{where} holds {keys}: an object with {sorted(_KEYS)} belongs there")
    return check_question(value, where)


def check_question(value: Mapping[str, Any], where: str) -> Question:
    """The question in an object of these keys. Raises DataError for wrong types, fewer than two
    choices, an empty choice, and an answer that is none of them.
    """
    context, choices, answer = value["context"], value["choices"], value["answer"]
    if not isinstance(context, str):
        raise DataError(f"{where}: context is {context!r}, not a text")
    if (
        not isinstance(choices, list | tuple)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        raise DataError(f"{where}: choices is {choices!r}, not a list of two texts or more")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise DataError(
            f"{where}: answer is {answer!r}, not the index of one of {len(choices)} choices, from 0"
        )
    return Question(context, tuple(choices), answer)


def answer_questions(
    llama: LanguageModel, questions: Sequence[Question], on_progress: OnProgress | None = None
) -> Answers:
    """For each question 1 or 0 by each normalisation: `acc`, `acc_norm`, `acc_answer`.

    A space joins a choice to its context, unless white space does already. Of equal choices the
    first counts. Raises DataError for a choice beyond the model's context.
    """
    pairs = []
    for question in questions:
        for context in (question.context, _NEUTRAL):
            pairs += [
                encode_pair(llama.tokenizer, context, _joined(context, choice))
                for choice in question.choices
            ]
    scored = score_continuations(llama, pairs, on_progress)
    scores, found = iter(scored), list[Values]()
    for question in questions:
        given, neutral = (
            np.array([next(scores).logprob for _ in question.choices]) for _ in range(2)
        )
        characters = np.array([len(choice) for choice in question.choices])
        ranked = {"acc": given, "acc_norm": given / characters, "acc_answer": given - neutral}
        found.append(
            {name: float(levels.argmax() == question.answer) for name, levels in ranked.items()}
        )
    return Answers(found, sum(score.is_cut for score in scored))


def _joined(context: str, choice: str) -> str:
    return choice if choice[:1].isspace() or context[-1:].isspace() else f" {choice}"
