"""Evaluation: the score of a model on a text, beside compression baselines on the same bytes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.errors import DataError
from puna.eval.bits_per_byte import score_tokens, text_tokens, validation_tokens
from puna.eval.compression import gzip_bits_per_byte, xz_bits_per_byte
from puna.inference.language_model import LanguageModel, load


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one text.

    loss: nats per token. perplexity: exp(loss). bits_per_byte: of the text's UTF-8 bytes, special
    tokens excluded, the only one that compares across tokenizers. tokens, bytes: that were scored.
    gzip_bits_per_byte, xz_bits_per_byte: gzip -9 and xz -9 on the same text. context, stride: the
    windows, in tokens.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    gzip_bits_per_byte: float
    xz_bits_per_byte: float
    context: int
    stride: int


def evaluate(
    model: Path | str | LanguageModel,
    text: str | None = None,
    *,
    file: Path | str | None = None,
    data: Path | str | None = None,
    context: int | None = None,
    stride: int | None = None,
    max_tokens: int = 2_000_000,
    device: str = "auto",
) -> Evaluation:
    """Score a model on one text: loss, perplexity and bits per byte, beside gzip and xz.

    model: a model folder, or one that is loaded already. text: the text itself, as one document;
    file: a UTF-8 file instead; data: the validation split of a prepared data folder instead.
    context: tokens of a window, at most and by default the model's. stride: tokens from one window
    to the next, by default a whole window; a smaller one gives every token more context at
    context / stride times the cost. max_tokens: score at most the first this many tokens.

    Raises DataError for none or several of text, file and data, a window that does not fit, and a
    text that cannot be read or has fewer than two tokens. Usual mistake: a path as `text`, which
    scores the letters of the path.
    """
    if sum(given is not None for given in (text, file, data)) != 1:
        raise DataError("give exactly one of text, file and data to score")
    llama = model if isinstance(model, LanguageModel) else load(model, device)
    if file is not None:
        ids = text_tokens(Path(file), llama.tokenizer)
    elif data is not None:
        ids = validation_tokens(Path(data), llama.tokenizer, max_tokens)
    else:
        ids = np.array(llama.encode_prompt(text or ""), dtype=np.int64)
    longest = llama.model.config.context_length
    window = longest if context is None else context
    step = window if stride is None else stride
    if not 0 < window <= longest:
        raise DataError(
            f"context {window} exceeds the model's context of {longest}: give at most that"
            if window > longest
            else f"context is {window}, but a window has at least 1 token"
        )
    if not 0 < step <= window:
        raise DataError(
            f"stride {step} exceeds the window of {window}, and would leave tokens out: give at"
            " most that"
            if step > window
            else f"stride is {step}, but windows move on by at least 1 token"
        )
    return score_beside_baselines(llama, ids[:max_tokens], context=window, stride=step)


def score_beside_baselines(
    llama: LanguageModel,
    ids: NDArray[np.int64],
    *,
    context: int,
    stride: int,
    max_baseline_bytes: int | None = None,
) -> Evaluation:
    """Score token ids [N] and compress their text, or its first `max_baseline_bytes` bytes."""
    score = score_tokens(
        llama.model, ids, llama.tokenizer.token_lengths(), context=context, stride=stride
    )
    text = llama.tokenizer.decode_bytes(ids.tolist(), skip_special=True)[:max_baseline_bytes]
    return Evaluation(
        loss=score.loss,
        perplexity=score.perplexity,
        bits_per_byte=score.bits_per_byte,
        tokens=score.tokens,
        bytes=score.bytes,
        gzip_bits_per_byte=gzip_bits_per_byte(text),
        xz_bits_per_byte=xz_bits_per_byte(text),
        context=context,
        stride=stride,
    )
