"""Bits per byte of a model on held-out text, the metric that compares across tokenizers.

    bits per byte = sum over the text's tokens of -log2 p(token | context) / number of UTF-8 bytes
        of the text

Special tokens are predicted from but count neither as loss nor as bytes. Sums are float64. Costs
one forward pass per window.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from puna.errors import DataError
from puna.model.transformer import Transformer

FORMULA = (
    "bits per byte = sum of -log2 p(token | context) over the text's tokens / UTF-8 bytes of the"
    " text"
)


@dataclass(frozen=True)
class Score:
    """What a model makes of a text. nats: sum of -ln p over `tokens`; bytes: of the text; special
    tokens are in neither.
    """

    nats: float
    tokens: int
    bytes: int

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
        """The headline: lower is better, 8 is knowing nothing."""
        return self.nats / math.log(2) / self.bytes


@torch.inference_mode()
def score_tokens(
    model: Transformer,
    ids: NDArray[np.int64],
    token_lengths: NDArray[np.int32],
    *,
    context: int,
    stride: int | None = None,
    batch_size: int = 16,
    only: NDArray[np.bool_] | None = None,
) -> Score:
    """Score a sequence of ids; each target counts exactly once.

    ids [N]: documents one after another, begin tokens included. token_lengths [V]: UTF-8 bytes of
    each token, 0 for special ones. context: tokens a window. stride: how far the next window moves
    on; left out, by the whole window. With stride S below the context every target after the first
    window is predicted from at least context - S tokens, at context/S times the cost. only [N]: the
    targets that count, as loss and as bytes; left out, all of them. Raises DataError for a text of
    fewer than two tokens. The model's mode and weights are left as they are.
    """
    stride = stride or context
    if not 0 < stride <= context <= model.config.context_length:
        raise ValueError(
            f"need 0 < stride {stride} <= context {context} <= the model's"
            f" {model.config.context_length}"
        )
    if len(ids) < 2:
        raise DataError(
            f"the text has {len(ids)} tokens, but predicting one from another takes two"
        )
    device = model.output_weight.device
    weights = token_lengths[ids] if only is None else token_lengths[ids] * only
    nats, tokens, text_bytes = 0.0, 0, 0
    # windows of equal length go through together; the last, shorter one goes alone
    starts = list(range(0, max(1, len(ids) - 1 - (context - stride)), stride))
    full = [start for start in starts if start + context < len(ids)]
    batches = [full[i : i + batch_size] for i in range(0, len(full), batch_size)] + [
        [s] for s in starts[len(full) :]
    ]
    for batch in batches:
        window = torch.from_numpy(np.stack([ids[start : start + context + 1] for start in batch]))
        targets = window[:, 1:]
        counted = torch.from_numpy(
            np.stack([weights[start + 1 : start + context + 1] for start in batch])
        )
        for row, start in enumerate(batch):
            if start:  # the overlap was counted with the window before
                counted[row, : context - stride] = 0
        logits = model(window[:, :-1].to(device))
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten().to(device), reduction="none"
        )
        mask = counted.flatten() > 0
        nats += losses.cpu().double()[mask].sum().item()
        tokens += int(mask.sum())
        text_bytes += int(counted.sum())
    if not tokens:
        raise DataError(
            "of the tokens that count none is text (special tokens are not), so there are no bytes"
            " to score"
        )
    return Score(nats, tokens, text_bytes)
