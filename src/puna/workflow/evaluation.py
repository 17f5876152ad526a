"""Evaluation: the score of a model on a text, beside compression baselines on the same bytes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.data.shards import open_split
from puna.errors import DataError
from puna.eval.compression import gzip_bits_per_byte, xz_bits_per_byte
from puna.eval.held_out import (
    EncodedText,
    HeldOutWindows,
    document_separator,
    encode_sources,
    open_validation,
)
from puna.eval.primed_baselines import PrimedBaselines, measure_primed_baselines
from puna.eval.training_text import TrainingText
from puna.inference.language_model import LanguageModel, load
from puna.tokenizer.tokenizer import Tokenizer

PRIMING_BYTES = 12_000_000
"""Bytes of training text that primed baselines read at most: 15 s of one core of an AMD EPYC."""

Paths = Path | str | Sequence[Path | str]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one text.

    loss: nats per token. perplexity: exp(loss). bits_per_byte: of the text's UTF-8 bytes, special
    tokens excluded, the only one that compares across tokenizers. tokens, bytes: that were scored.
    gzip_bits_per_byte, xz_bits_per_byte: gzip -9 and xz -9 on the same bytes. targets, all_targets:
    the tokens that were predicted, special ones included, and those that the whole text has.
    context, stride: the windows, in tokens. mask_documents: True where attention stayed inside a
    document. kept: bytes that the text's tokens stand for, as a share of the text's own; below 1
    the tokenizer loses some, and bits_per_byte is still of all of them (of a prepared folder: of
    what it kept).
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    gzip_bits_per_byte: float
    xz_bits_per_byte: float
    targets: int
    all_targets: int
    context: int
    stride: int
    mask_documents: bool
    kept: float = 1.0
    primed: PrimedBaselines | None = None


def evaluate(
    model: Path | str | LanguageModel,
    text: str | None = None,
    *,
    file: Paths | None = None,
    data: Paths | None = None,
    context: int | None = None,
    stride: int | None = None,
    mask_documents: bool | None = None,
    max_tokens: int = 2_000_000,
    baselines: bool = False,
    device: str = "auto",
) -> Evaluation:
    """Score a model on one text: loss, perplexity and bits per byte, beside gzip and xz.

    model: a model folder, or one that is loaded already. text: the text itself, as one document;
    file: one or several sources instead, as `puna.prepare` takes them (files, folders, globs);
    data: the validation split of one or several prepared data folders instead. context: tokens of a
    window, at most the model's. stride: tokens from one window to the next, by default a whole
    window; a smaller one gives every token more context at context / stride times the cost.
    mask_documents: attention stays inside a document. Left out, context and mask_documents are
    those that a model folder's puna.json says it was trained with; without that, and of a model
    that is loaded already, the model's context and no mask. max_tokens: score at most this many
    tokens, in windows spread evenly over the text (an equal part of each data folder), the same
    ones for every model with this tokenizer, context and stride. baselines: also measure those that
    first read the training split of the data folders, an equal part of each, up to PRIMING_BYTES.

    Raises DataError for none or several of text, file and data, baselines without data, a window
    that does not fit, a mask that the model's parts do not obey, and a text that cannot be read or
    has fewer than two tokens. Usual mistake: a path as `text`, which scores the letters of the
    path.
    """
    if sum(given is not None for given in (text, file, data)) != 1:
        raise DataError("give exactly one of text, file and data to score")
    if baselines and data is None:
        raise DataError(
            "baselines first read the training split of a prepared data folder, and there is no"
            " data: give data, or leave baselines out"
        )
    trained = {} if isinstance(model, LanguageModel) else _provenance(Path(model))
    llama = model if isinstance(model, LanguageModel) else load(model, device)
    longest = llama.model.config.context_length
    if context is None:
        context = min(longest, trained.get("context_length", longest))
    if mask_documents is None:
        mask_documents = trained.get("mask_documents", False)
    if mask_documents and llama.model.config.lookback:
        raise DataError(
            f"model.feed_forward {llama.model.config.feed_forward} sees the positions before its"
            " own, also across documents, so a mask cannot keep these apart: leave mask_documents"
            " out"
        )
    stride = context if stride is None else stride
    _check_windows(context, stride, longest)
    windows: dict[str, Any] = {"context": context, "stride": stride}
    primed = None
    if data is not None:
        splits = [open_validation(Path(folder), llama.tokenizer) for folder in _listed(data)]
        held_out = HeldOutWindows.of_splits(splits, max_tokens, **windows)
        kept = 1.0
        if baselines:
            train = [open_split(folder, "train") for folder in _listed(data)]
            equal = [1.0] * len(train)
            read = TrainingText.of_splits(train, equal, llama.tokenizer, PRIMING_BYTES)
            primed = primed_baselines(llama.tokenizer, held_out, read)
    else:
        encoded = _encoded(text, file, llama)
        held_out = HeldOutWindows.of_ids(encoded.ids, max_tokens, **windows)
        kept = encoded.kept(llama.tokenizer.token_lengths())
    found = score_beside_baselines(
        llama, held_out, mask_documents=mask_documents, primed=primed, **windows
    )
    return replace(found, bits_per_byte=found.bits_per_byte * kept, kept=kept)


def _encoded(text: str | None, file: Paths | None, llama: LanguageModel) -> EncodedText:
    if file is not None:
        return encode_sources(_listed(file), llama.tokenizer)
    ids = np.array(llama.encode_prompt(text or ""), dtype=np.int64)
    return EncodedText(ids, len((text or "").encode()))


def _listed(paths: Paths) -> list[str]:
    return [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def _provenance(folder: Path) -> dict[str, Any]:
    """The values of a model folder's puna.json; none where another program wrote the folder."""
    try:
        values = json.loads((folder / "puna.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _check_windows(context: int, stride: int, longest: int) -> None:
    """Raise DataError for windows that the model cannot take, or that leave tokens out."""
    if not 0 < context <= longest:
        raise DataError(
            f"context {context} exceeds the model's context of {longest}: give at most that"
            if context > longest
            else f"context is {context}, but a window has at least 1 token"
        )
    if not 0 < stride <= context:
        raise DataError(
            f"stride {stride} exceeds the window of {context}, and would leave tokens out: give at"
            " most that"
            if stride > context
            else f"stride is {stride}, but windows move on by at least 1 token"
        )


def score_beside_baselines(
    llama: LanguageModel,
    held_out: HeldOutWindows,
    *,
    context: int,
    stride: int,
    mask_documents: bool = False,
    primed: PrimedBaselines | None = None,
    max_baseline_bytes: int | None = None,
) -> Evaluation:
    """Score the model on windows of this context and stride, and compress the text of their
    targets, or its first tokens of at most `max_baseline_bytes` bytes. primed: of
    `primed_baselines`, to stand beside it.
    """
    score = held_out.score(
        llama.model,
        llama.tokenizer.token_lengths(),
        separator=document_separator(llama.tokenizer) if mask_documents else None,
    )
    targets = _first_targets(held_out, llama.tokenizer, max_baseline_bytes)
    text = llama.tokenizer.decode_bytes(targets.tolist(), skip_special=True)
    return Evaluation(
        loss=score.loss,
        perplexity=score.perplexity,
        bits_per_byte=score.bits_per_byte,
        tokens=score.tokens,
        bytes=score.bytes,
        gzip_bits_per_byte=gzip_bits_per_byte(text),
        xz_bits_per_byte=xz_bits_per_byte(text),
        targets=len(held_out.targets),
        all_targets=held_out.all_targets,
        context=context,
        stride=stride,
        mask_documents=mask_documents,
        primed=primed,
    )


def primed_baselines(
    tokenizer: Tokenizer,
    held_out: HeldOutWindows,
    training: TrainingText,
    max_baseline_bytes: int | None = None,
) -> PrimedBaselines:
    """The baselines that have read `training` first, on the text that `score_beside_baselines`
    compresses. No model is needed.
    """
    before = held_out.windows[0][held_out.seen[0]]  # what the first target follows
    targets = _first_targets(held_out, tokenizer, max_baseline_bytes)
    return measure_primed_baselines(training, np.append(before, targets), tokenizer)


def _first_targets(
    held_out: HeldOutWindows, tokenizer: Tokenizer, max_bytes: int | None
) -> NDArray[np.int64]:
    """The targets, or the first of them of at most so many bytes."""
    targets = held_out.targets
    if max_bytes is None:
        return targets
    ends = np.cumsum(tokenizer.token_lengths()[targets], dtype=np.int64)
    return targets[: np.searchsorted(ends, max_bytes, side="right")]
