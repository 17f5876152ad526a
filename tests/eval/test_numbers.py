"""What is judged of text with numbers: which tokens lie on its lines, and whether sums are
right.
"""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from puna.eval.addition import addition_exact_match
from puna.eval.numbers import on_lines_with_digits
from puna.tokenizer.pretokenize import DIGITS_MODES, Digits
from puna.tokenizer.tokenizer import Tokenizer

TEXT = "no digits here\n  x = 17\nnone\n\nlast 3"


@pytest.fixture(scope="module")
def tokenizers() -> Mapping[Digits, Tokenizer]:
    texts = [f"word {number} + {2 * number} = {3 * number}\n    " for number in range(3000)]
    return {mode: Tokenizer.train(texts, 600, mode) for mode in DIGITS_MODES}


@pytest.mark.parametrize("mode", DIGITS_MODES)
def test_tokens_on_lines_with_digits_are_found(
    mode: Digits, tokenizers: Mapping[Digits, Tokenizer]
) -> None:
    """Special tokens are not among them; a token belongs to the line of its first byte."""
    tokenizer = tokenizers[mode]
    ids = [tokenizer.eos_id, *tokenizer.encode(TEXT), tokenizer.eos_id]
    found = on_lines_with_digits(np.array(ids), tokenizer)
    assert not found[0]
    assert not found[-1]
    position, expected = 0, [False]
    for id_ in ids[1:-1]:
        line_start = TEXT.rfind("\n", 0, position) + 1
        line = TEXT[line_start:].split("\n")[0]
        expected.append(any(character.isdigit() for character in line))
        position += len(tokenizer.token_bytes(id_))
    assert found.tolist() == [*expected, False]
    assert 0 < found.sum() < len(found)


def test_a_text_without_bytes_has_no_such_tokens(tokenizers: Mapping[Digits, Tokenizer]) -> None:
    tokenizer = tokenizers["one"]
    assert not on_lines_with_digits(np.array([tokenizer.eos_id]), tokenizer).any()
    assert len(on_lines_with_digits(np.zeros(0, dtype=np.int64), tokenizer)) == 0


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
