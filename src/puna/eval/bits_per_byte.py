"""Bits per byte of a model on a text, the metric that compares across tokenizers, and the part of a
text on lines with digits. The texts and windows that are scored are chosen in `held_out.py`.

    bits per byte = sum over the text's tokens of -log2 p(token | context) / number of UTF-8 bytes
        of the text

Special tokens are predicted from but count neither as loss nor as bytes. Sums are float64. Costs
one forward pass per window.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from puna.errors import DataError
from puna.model.transformer import Transformer
from puna.nn.mask import document_numbers
from puna.tokenizer.tokenizer import Tokenizer

FORMULA = (
    "bits per byte = sum of -log2 p(token | context) over the text's tokens / UTF-8 bytes of the"
    " text"
)


_DIGITS = np.frombuffer(b"0123456789", dtype=np.uint8)
_LINE_END = ord("\n")


@dataclass(frozen=True)
class Score:
    """Sums of a model's predictions over a text. nats: sum of -ln p over `tokens`; bytes: of the
    text; special tokens are in neither.
    """

    nats: float
    tokens: int
    bytes: int

    def of_text(self) -> Self:
        """Itself. Raises DataError where nothing counts."""
        if not self.bytes:
            raise DataError(
                "of the tokens that count none is text (special tokens are not), so there are no"
                " bytes to score"
            )
        return self

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); compares only between models with the same tokenizer."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Bits of loss per UTF-8 byte: lower is better; 8 is a uniform guess of every byte."""
        return self.nats / math.log(2) / self.bytes


@torch.no_grad()  # inference mode would leave its mark on the weights that FSDP2 gathers
def window_losses(
    model: Transformer,
    windows: Sequence[NDArray[np.int64]],
    *,
    separator: int | None = None,
    batch_size: int = 16,
) -> list[NDArray[np.float32]]:
    """-ln p of every id but the first of each window [T+1], given those before it there: [T] each,
    float32.

    separator: the id that a document begins with; attention then stays inside a document, as with
    `train.mask_documents`. Left out, it crosses from one into the next. Neighbours of equal length
    go through the model together, up to batch_size of them. The model's mode and weights are left
    as they are.
    """
    device = model.output_weight.device
    found: list[NDArray[np.float32]] = []
    for _, group in itertools.groupby(windows, key=len):
        equal = list(group)
        for first in range(0, len(equal), batch_size):
            ids = torch.from_numpy(np.stack(equal[first : first + batch_size])).to(device)
            inputs, targets = ids[:, :-1], ids[:, 1:]
            documents = None if separator is None else document_numbers(inputs, separator)
            hidden = model.hidden_states(inputs, documents=documents)
            logits = F.linear(hidden, model.output_weight).flatten(0, 1).float()
            losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
            found.extend(losses.view(targets.shape).cpu().numpy())
    return found


def window_starts(num_tokens: int, context: int, stride: int) -> range:
    """The first ids of the windows that predict every token of a text but the first, each from at
    least context - stride tokens where there are as many. Raises DataError for a text of fewer
    than two tokens.
    """
    if num_tokens < 2:
        raise DataError(
            f"the text has {num_tokens} tokens, but predicting one from another takes two"
        )
    return range(0, max(1, num_tokens - 1 - (context - stride)), stride)


def token_losses(
    model: Transformer,
    ids: NDArray[np.int64],
    *,
    context: int,
    stride: int | None = None,
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """-ln p of every id but the first, given those before it in its window: [N - 1], float32.

    ids [N]: documents one after another, begin tokens included. context: tokens a window. stride:
    how far the next window moves on; left out, by the whole window, and then entry i is predicted
    at position i % context. With stride S below the context every target after the first window is
    predicted from at least context - S tokens, at context/S times the cost. Raises DataError for a
    text of fewer than two tokens. The model's mode and weights are left as they are.
    """
    stride = stride or context
    if not 0 < stride <= context <= model.config.context_length:
        raise ValueError(
            f"need 0 < stride {stride} <= context {context} <= the model's"
            f" {model.config.context_length}"
        )
    starts = window_starts(len(ids), context, stride)
    windows = [ids[start : start + context + 1] for start in starts]
    losses = np.empty(len(ids) - 1, dtype=np.float32)
    found = window_losses(model, windows, batch_size=batch_size)
    for start, of_window in zip(starts, found, strict=True):
        seen = context - stride if start else 0  # the overlap came with the window before
        losses[start + seen : start + len(of_window)] = of_window[seen:]
    return losses


def sum_target_losses(
    losses: NDArray[np.float32],
    targets: NDArray[np.int64],
    token_lengths: NDArray[np.int32],
    only: NDArray[np.bool_] | None = None,
) -> Score:
    """The score of target tokens [M] from their losses [M].

    token_lengths [V]: UTF-8 bytes of each token, 0 for special ones. only [M]: the targets that
    count, as loss and as bytes; left out, all of them. Of a part of a text it may be empty: see
    `Score.of_text`.
    """
    lengths = token_lengths[targets]
    counted = lengths > 0 if only is None else (lengths > 0) & only
    # float64: millions of float32 losses would not add up exactly
    return Score(
        float(losses[counted].sum(dtype=np.float64)),
        int(np.count_nonzero(counted)),
        int(lengths[counted].sum()),
    )


def sum_losses(
    losses: NDArray[np.float32],
    ids: NDArray[np.int64],
    token_lengths: NDArray[np.int32],
    only: NDArray[np.bool_] | None = None,
) -> Score:
    """The score of a text from the losses [N - 1] of its ids [N]; other arguments are those of
    `sum_target_losses`, the error that of `Score.of_text`.
    """
    return sum_target_losses(losses, ids[1:], token_lengths, only).of_text()


def score_tokens(
    model: Transformer,
    ids: NDArray[np.int64],
    token_lengths: NDArray[np.int32],
    *,
    context: int,
    stride: int | None = None,
    batch_size: int = 16,
) -> Score:
    """The score of a sequence of ids [N]; each target counts exactly once. Arguments and errors are
    those of `token_losses` and `sum_losses`.
    """
    losses = token_losses(model, ids, context=context, stride=stride, batch_size=batch_size)
    return sum_losses(losses, ids, token_lengths)


def on_lines_with_digits(ids: NDArray[np.int64], tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """A mask over the ids [N] of a text: True where the line of the token's first byte holds an
    ASCII digit; False for special tokens.

    A token that spans a line's end belongs to the line that it ends, in every tokenizer, so that
    different ones are judged on the same lines up to the indentation that follows them.
    """
    lengths = tokenizer.token_lengths()[ids]
    text = np.frombuffer(tokenizer.decode_bytes(ids.tolist(), skip_special=True), dtype=np.uint8)
    line = (
        np.concatenate(([0], np.cumsum(text == _LINE_END)[:-1]))
        if len(text)
        else np.zeros(0, dtype=np.int64)
    )
    numeric = np.zeros(int(line[-1]) + 1 if len(line) else 0, dtype=bool)
    numeric[line[np.isin(text, _DIGITS)]] = True
    first_byte = np.cumsum(lengths) - lengths
    found = np.zeros(len(ids), dtype=bool)
    found[lengths > 0] = numeric[line[first_byte[lengths > 0]]]
    return found
