"""Training text for the baselines that read it before the text that they are scored on: all of the
training splits of a run, or stretches spread evenly over them.

Not the text that the model was trained on: a short run sees a part of its training split, of which
the baselines may read all. Costs a read of the stretches and their decoding: about a second for 12
MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from puna.data.shards import TokenStream
from puna.tokenizer.tokenizer import Tokenizer

STRETCH = 2**14  # tokens; tens of kB, the length of whole documents


@dataclass(frozen=True)
class TrainingText:
    """Text of the training splits. ids [M]: its tokens, those around documents included. content:
    the UTF-8 bytes that they stand for. all_bytes: UTF-8 bytes of the whole splits.
    """

    ids: NDArray[np.int64]
    content: bytes
    all_bytes: int

    @classmethod
    def of_splits(
        cls,
        splits: Sequence[TokenStream],
        weights: Sequence[float],
        tokenizer: Tokenizer,
        max_bytes: int,
    ) -> Self:
        """All of the splits, one after another, where they have at most about `max_bytes` UTF-8
        bytes; else of each its share of them by weight, in stretches spread evenly over it.

        splits: prepared with this tokenizer. weights: of each, in the mixture.
        """
        all_bytes = sum(split.num_bytes for split in splits)
        shares = [
            split.num_tokens
            if all_bytes <= max_bytes
            else int(max_bytes * weight / sum(weights) * split.num_tokens / split.num_bytes)
            for split, weight in zip(splits, weights, strict=True)
        ]
        ids = np.concatenate(
            [_spread(split, share) for split, share in zip(splits, shares, strict=True)]
        )
        content = b"".join(  # in parts: numbers of Python are ten times the ids
            tokenizer.decode_bytes(ids[at : at + STRETCH].tolist(), skip_special=True)
            for at in range(0, len(ids), STRETCH)
        )
        return cls(ids, content, all_bytes)


def _spread(split: TokenStream, tokens: int) -> NDArray[np.int64]:
    """At most about that many tokens of a split, at least one: stretches that begin equally far
    from each other.
    """
    if tokens >= split.num_tokens:
        return split.read(0, split.num_tokens)
    count = -(-tokens // STRETCH) or 1
    length = max(1, tokens // count)
    starts = np.linspace(0, split.num_tokens - length, count).astype(np.int64).tolist()
    return np.concatenate([split.read(start, length) for start in starts])
