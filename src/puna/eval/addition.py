"""Exact match on additions: the share of unread sums that a model gets right to the last digit."""

from collections.abc import Sequence

import torch

from puna.model.transformer import Transformer
from puna.tokenizer.tokenizer import Tokenizer

BATCH = 64


@torch.inference_mode()
def addition_exact_match(
    model: Transformer, tokenizer: Tokenizer, pairs: Sequence[tuple[int, int]]
) -> float:
    """The share of pairs (a, b) for which the greedy continuation of `a+b=` is the sum and a line's
    end: 0 to 1.

    Read off one forward pass over the right line: greedy decoding gives these ids if and only if
    each is the likeliest after those before it. An answer spelt in other tokens than the
    tokenizer's own counts as wrong. Usual mistake: counting digits that are right, which rewards a
    model for the first one alone.
    """
    right = 0
    for start in range(0, len(pairs), BATCH):
        rows = [_ids(tokenizer, a, b) for a, b in pairs[start : start + BATCH]]
        ids = torch.zeros(len(rows), max(len(line) for line, _ in rows), dtype=torch.int64)
        for row, (line, _) in enumerate(rows):
            ids[row, : len(line)] = torch.tensor(line)
        likeliest = model(ids.to(model.output_weight.device)).argmax(-1).cpu()
        right += sum(
            torch.equal(likeliest[row, prompt - 1 : len(line) - 1], ids[row, prompt : len(line)])
            for row, (line, prompt) in enumerate(rows)
        )
    return right / len(pairs)


def _ids(tokenizer: Tokenizer, a: int, b: int) -> tuple[list[int], int]:
    """The ids of the line `a+b=c`, its end included, and how many of them are the question's."""
    question = tokenizer.encode_document(f"{a}+{b}=")
    return question + tokenizer.encode(f"{a + b}\n"), len(question)
