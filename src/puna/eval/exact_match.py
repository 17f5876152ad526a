"""Exact match: the share of questions that a model continues with the right answer to the last
token.
"""

from collections.abc import Sequence

import torch

from puna.errors import ConfigError
from puna.model.transformer import Transformer
from puna.tokenizer.tokenizer import Tokenizer

BATCH = 32


@torch.inference_mode()
def exact_match(
    model: Transformer, tokenizer: Tokenizer, questions: Sequence[tuple[str, str]]
) -> float:
    """The share of (question, answer) for which the greedy continuation of the question, a
    document's beginning, is the answer: 0 to 1.

    Read off one forward pass over both: greedy decoding gives these ids if and only if each is the
    likeliest after those before it. An answer spelt in other tokens than the tokenizer's own counts
    as wrong. Raises ConfigError for a question longer than the model's context. Usual mistakes:
    counting tokens that are right, which rewards a model for the first one alone; and an answer
    without its end, which a longer one begins with.
    """
    right = 0
    for start in range(0, len(questions), BATCH):
        rows = [_ids(tokenizer, *pair) for pair in questions[start : start + BATCH]]
        longest = max(len(line) for line, _ in rows)
        if longest > model.config.context_length:
            raise ConfigError(
                f"a question of {longest} tokens is longer than model.context_length"
                f" {model.config.context_length}: raise it, or leave this metric out"
            )
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for row, (line, _) in enumerate(rows):
            ids[row, : len(line)] = torch.tensor(line)
        likeliest = model(ids.to(model.output_weight.device)).argmax(-1).cpu()
        right += sum(
            torch.equal(likeliest[row, prompt - 1 : len(line) - 1], ids[row, prompt : len(line)])
            for row, (line, prompt) in enumerate(rows)
        )
    return right / len(questions)


def _ids(tokenizer: Tokenizer, question: str, answer: str) -> tuple[list[int], int]:
    """The ids of the question and its answer, and how many of them are the question's."""
    asked = tokenizer.encode_document(question)
    return asked + tokenizer.encode(answer, inside_text=True), len(asked)
