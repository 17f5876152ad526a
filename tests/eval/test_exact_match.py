"""Answers count as right only where every token is."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from said import said
from torch import Tensor

from puna.data import recall
from puna.data.additions import Additions
from puna.errors import ConfigError
from puna.eval.exact_match import exact_match
from puna.model.transformer import Transformer
from puna.tokenizer.pretokenize import DIGITS_MODES, Digits
from puna.tokenizer.tokenizer import Tokenizer


def answering(
    tokenizer: Tokenizer, mark: str, answer: Callable[[str], str], context: int = 1000
) -> Transformer:
    """A model that continues every text up to `mark` with an answer: what it must be scored as."""

    def logits(ids: Tensor) -> Tensor:
        found = torch.zeros(*ids.shape, tokenizer.vocab_size)
        for row, line in enumerate(ids.tolist()):
            text = tokenizer.decode(line, skip_special=True)
            question = text[: text.index(mark) + 1]
            begin = len(tokenizer.encode_document(question))
            for place, id_ in enumerate(tokenizer.encode(answer(question))):
                if begin - 1 + place < ids.shape[1]:
                    found[row, begin - 1 + place, id_] = 1
        return found

    logits.output_weight = torch.zeros(1)  # type: ignore[attr-defined]
    logits.config = SimpleNamespace(context_length=context)  # type: ignore[attr-defined]
    return cast(Transformer, logits)


@pytest.mark.parametrize("mode", DIGITS_MODES)
@pytest.mark.parametrize("form", [Additions(), Additions(4, reversed=True)], ids=str)
def test_right_sums_are_counted(
    mode: Digits, form: Additions, tokenizers: Mapping[Digits, Tokenizer]
) -> None:
    tokenizer, questions = tokenizers[mode], form.questions()[::5]

    def adding(error: int) -> Transformer:
        """Wrong by `error` where the first operand is above 50."""

        def answer(question: str) -> str:
            a, b = map(int, question[:-1].split("+"))
            return form.answer(a, b + (error if a > 50 else 0)) + "\n"

        return answering(tokenizer, "=", answer)

    wrong = sum(int(question.split("+")[0]) > 50 for question, _ in questions)
    assert 0 < wrong < len(questions)
    assert exact_match(adding(0), tokenizer, questions) == 1
    for error in (1, 10):
        share = exact_match(adding(error), tokenizer, questions)
        assert share == pytest.approx(1 - wrong / len(questions))


@pytest.mark.parametrize("mode", DIGITS_MODES)
@pytest.mark.parametrize("distance", [8, 480])
def test_a_model_that_copies_recalls_everything(
    mode: Digits, distance: int, tokenizers: Mapping[Digits, Tokenizer]
) -> None:
    """And one that says the same value always, what that is worth by chance."""
    tokenizer, questions = tokenizers[mode], recall.questions(distance)[::10]

    def copy(question: str) -> str:
        return question.split("= ")[1][:3].join([" ", "\n"])

    assert exact_match(answering(tokenizer, "?", copy), tokenizer, questions) == 1
    always = questions[0][1]
    share = sum(answer == always for _, answer in questions) / len(questions)
    assert exact_match(answering(tokenizer, "?", lambda _: always), tokenizer, questions) == share
    assert share < 0.1


def test_a_question_longer_than_the_context_is_rejected(
    tokenizers: Mapping[Digits, Tokenizer],
) -> None:
    model = answering(tokenizers["one"], "?", lambda _: "", context=64)
    with pytest.raises(ConfigError, match=said("longer than model.context_length 64 ... raise")):
        exact_match(model, tokenizers["one"], recall.questions(480))
