"""Sums are counted as right only where every digit is."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from puna.eval.addition import addition_exact_match
from puna.tokenizer.pretokenize import DIGITS_MODES, Digits
from puna.tokenizer.tokenizer import Tokenizer


class Calculator:
    """Continues every `a+b=` with the sum, plus `error` where a is above 50: what a model must be
    scored as.
    """

    def __init__(self, tokenizer: Tokenizer, error: int) -> None:
        self.tokenizer, self.error = tokenizer, error
        self.output_weight = torch.zeros(1)

    def __call__(self, ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, self.tokenizer.vocab_size)
        for row, line in enumerate(ids.tolist()):
            text = self.tokenizer.decode(line, skip_special=True)
            question = text.split("=")[0]
            a, b = map(int, question.split("+"))
            begin = len(self.tokenizer.encode(question + "=")) + (self.tokenizer.bos_id is not None)
            answer = self.tokenizer.encode(f"{a + b + (self.error if a > 50 else 0)}\n")
            for place, id_ in enumerate(answer):
                if begin - 1 + place < ids.shape[1]:
                    logits[row, begin - 1 + place, id_] = 1
        return logits


@pytest.mark.parametrize("mode", DIGITS_MODES)
def test_right_sums_are_counted(mode: Digits, tokenizers: Mapping[Digits, Tokenizer]) -> None:
    tokenizer = tokenizers[mode]
    pairs = [(a, b) for a in range(1, 100, 3) for b in (2, 47, 98)]
    wrong = sum(a > 50 for a, _ in pairs)
    assert addition_exact_match(Calculator(tokenizer, 0), tokenizer, pairs) == 1  # type: ignore[arg-type]
    assert addition_exact_match(Calculator(tokenizer, 1), tokenizer, pairs) == pytest.approx(
        1 - wrong / len(pairs)
    )  # type: ignore[arg-type]
    assert addition_exact_match(Calculator(tokenizer, 10), tokenizer, pairs) == pytest.approx(
        1 - wrong / len(pairs)
    )  # type: ignore[arg-type]
