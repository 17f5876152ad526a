"""Held-out text: the windows that a model is scored on, spread evenly over a validation split or
another text, and their score.

A split lies in the order of its documents' names, so its first tokens are those of a few
neighbours: the beginning of a split is no sample of it. The windows here depend on the text's
length, the number of tokens that are asked for, the context and the stride alone. So every
validation of a model, during training, at its end and later, scores the same ones.

Not the metric: that is in `bits_per_byte.py`. Costs a read of the chosen windows, and for a text
that is no data folder its tokenisation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from puna.data.shards import TokenStream, open_split
from puna.errors import DataError
from puna.eval.bits_per_byte import Score, sum_target_losses, window_losses, window_starts
from puna.model.transformer import Transformer
from puna.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class HeldOutWindows:
    """Windows of held-out text. windows: the ids [up to T+1] of each. seen: of each, the targets at
    its front that do not count, for they only give the others context. all_targets: the tokens
    that could be predicted, special ones included: all of the text but its first.
    """

    windows: list[NDArray[np.int64]]
    seen: list[int]
    all_targets: int

    @classmethod
    def of_ids(
        cls, ids: NDArray[np.int64], limit: int, *, context: int, stride: int | None = None
    ) -> Self:
        """Windows of ids [N] that are at hand; other arguments are those of `of_splits`."""
        return cls._spread(
            lambda start, count: ids[start : start + count],
            len(ids),
            limit,
            context,
            stride or context,
        )

    @classmethod
    def of_splits(
        cls, splits: Sequence[TokenStream], limit: int, *, context: int, stride: int | None = None
    ) -> Self:
        """Windows of up to `limit` targets, an equal part from each split; all of a split that has
        no more than its part.

        context: inputs of a window. stride: targets of a window that count, its last ones; left
        out, all of them. Raises DataError for a split of fewer than two tokens.
        """
        part = max(1, limit // len(splits))
        parts = [
            cls._spread(split.read, split.num_tokens, part, context, stride or context)
            for split in splits
        ]
        return cls(
            [window for part in parts for window in part.windows],
            [seen for part in parts for seen in part.seen],
            sum(part.all_targets for part in parts),
        )

    @classmethod
    def _spread(
        cls,
        read: Callable[[int, int], NDArray[np.int64]],
        num_tokens: int,
        limit: int,
        context: int,
        stride: int,
    ) -> Self:
        starts, overlap = list(window_starts(num_tokens, context, stride)), context - stride
        seen = [overlap if start else 0 for start in starts]
        if limit < num_tokens - 1:
            count = min(len(starts), max(1, limit // stride))
            # the middle one of each of `count` equal parts
            starts = [starts[(2 * i + 1) * len(starts) // (2 * count)] for i in range(count)]
            seen = [overlap] * count
        # of a limit below one window, its beginning
        length = min(context, overlap + limit) + 1
        windows = [read(start, min(length, num_tokens - start)) for start in starts]
        return cls(windows, seen, num_tokens - 1)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """The ids that count, one window's after another's: [M]."""
        return np.concatenate(
            [ids[1 + seen :] for ids, seen in zip(self.windows, self.seen, strict=True)]
        )

    def score(
        self,
        model: Transformer,
        token_lengths: NDArray[np.int32],
        *,
        separator: int | None = None,
        batch_size: int = 16,
    ) -> Score:
        """The model's score on the targets; arguments and errors are those of `window_losses` and
        `Score.of_text`.
        """
        return self.part_score(
            model, token_lengths, separator=separator, batch_size=batch_size
        ).of_text()

    def part(self, rank: int, size: int) -> Self:
        """The windows that one of `size` processes scores, counted from 0, where all score a part.

        They take turns among the windows of each length. Where turns are left over, they have a
        window again of which nothing counts: the model is asked as often, with ids of the same
        shapes, on each, as one needs whose weights are gathered from all.
        """
        if size == 1:
            return self
        chosen: list[tuple[NDArray[np.int64], int]] = []
        for length in sorted({len(window) for window in self.windows}):
            equal = [
                (window, seen)
                for window, seen in zip(self.windows, self.seen, strict=True)
                if len(window) == length
            ]
            own = equal[rank::size]
            turns = -(-len(equal) // size)
            chosen += own + [(equal[0][0], length - 1)] * (turns - len(own))
        windows, seen = zip(*chosen, strict=True)
        return type(self)(list(windows), list(seen), self.all_targets)

    def part_score(
        self,
        model: Transformer,
        token_lengths: NDArray[np.int32],
        *,
        separator: int | None = None,
        batch_size: int = 16,
    ) -> Score:
        """`score` of a part, in which nothing may count."""
        found = window_losses(model, self.windows, separator=separator, batch_size=batch_size)
        losses = np.concatenate(
            [losses[seen:] for losses, seen in zip(found, self.seen, strict=True)]
        )
        return sum_target_losses(losses, self.targets, token_lengths)


def document_separator(tokenizer: Tokenizer) -> int:
    """The id that parts documents: the begin token, or the end token where there is no other."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def open_validation(folder: Path, tokenizer: Tokenizer) -> TokenStream:
    """The validation split of a prepared folder. Raises DataError when another tokenizer made
    it.
    """
    stream = open_split(folder, "validation")
    if stream.manifest.inputs.tokenizer_hash != tokenizer.hash:
        raise DataError(
            f"{folder} was prepared with another tokenizer than the model's: prepare it again with"
            " --tokenizer MODEL, or score --text"
        )
    return stream


class EncodedText(NamedTuple):
    """The ids [N] of a text, and its own UTF-8 bytes, which its tokens need not all stand for."""

    ids: NDArray[np.int64]
    bytes: int

    def kept(self, token_lengths: NDArray[np.int32]) -> float:
        """The bytes that the tokens stand for as a share of the text's: 1 where the tokenizer loses
        none of it.
        """
        return int(token_lengths[self.ids].sum()) / self.bytes if self.bytes else 1.0


def encode_sources(sources: Sequence[str], tokenizer: Tokenizer) -> EncodedText:
    """All documents of the sources, laid out as in training: begin token, text, end token, begin
    token, text.

    sources: as for `puna data prepare`: files, folders, globs and so on. Raises DataError for those
    that cannot be read or hold no text.
    """
    from puna.data.sources import read_texts  # brings pyarrow

    size, documents = 0, []
    for text in read_texts(sources):
        ids = [*tokenizer.encode_document(text), tokenizer.eos_id]
        documents.append(np.array(ids, dtype=np.int64))
        size += len(text.encode())
    return EncodedText(np.concatenate(documents)[:-1], size)
