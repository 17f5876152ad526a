"""The proof of a written model: what was read back from the file, beside the model that it was
written from.

Five comparisons: shape, every weight, ids of sample texts, logits, greedy continuation. The bound
on a weight is that of the number format, entry by entry, so one altered weight is seen in every
format. Not here: other programs; the tests hold the readers against independent ones. Costs two
models in memory and two dozen forward passes of at most 64 tokens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from puna.errors import ModelFolderError
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors
from puna.tokenizer.tokenizer import Tokenizer

SAMPLES = (
    "The llama lives in the Andes, and was domesticated 5,000 years ago.",
    "def area(r):\n    return 3.14159 * r ** 2  # in m\u00b2\n",
    "  two  spaces,\ttabs, \r\n\r\nand lines; it's 1,024 + 16 = 1040!",
    "Die Größe, 東京の空, Привет, नमस्ते, 🦙🏽 and\u00a0more.",
)
WINDOW, PROMPT, CONTINUED = 64, 8, 16
"""Tokens of a sample whose logits are compared, and of a text that is continued greedily."""

# What a file may not hold and the function does not depend on
_APART = frozenset(
    {"preset", "context_length", "tie_embeddings", "padding_id", "feed_forward_multiple"}
    | {"rope_base", "rope_scaling"}  # the frequencies are compared
    | {"init", "init_std", "scale_residual_init", "zero_residual_init", "embedding_std"}
)


@dataclass(frozen=True)
class NumberType:
    """The bounds on what a number format may change.

    relative: of an entry's own size; of_block: of the largest entry among `block` neighbours in a
    row; absolute: besides, where float16 (of the entry or of the block's scale) is below its normal
    range. logits: root of the mean squared difference over the standard deviation of
    the logits. Derivations: float16 and bfloat16 round to 11 and 8 bits; q8_0 has steps of 1/127 of
    the largest of 32, q4_0 of 1/8, clipped at 7 steps; q4_k_m's scales are themselves of 6 bits.
    The bounds on logits are wide, because errors add up over layers: q8_0 was found to cost 0.006
    in 4 layers and 0.03 in 30.
    """

    relative: float
    of_block: float
    block: int
    absolute: float
    logits: float


NUMBER_TYPES: Mapping[str, NumberType] = MappingProxyType(
    {
        "f32": NumberType(0.0, 0.0, 1, 0.0, 1e-5),
        "f16": NumberType(2.0**-11, 0.0, 1, 2.0**-25, 0.01),
        "bf16": NumberType(2.0**-8, 0.0, 1, 0.0, 0.05),
        "q8_0": NumberType(2.0**-11, 0.5 / 127 + 2.0**-10, 32, 2.0**-18, 0.1),
        "q4_0": NumberType(2.0**-11, 1 / 8 + 2.0**-10, 32, 2.0**-18, 0.8),
        "q4_k_m": NumberType(2.0**-11, 1 / 6, 256, 2.0**-14, 0.6),
    }
)


@dataclass(frozen=True)
class ReloadCheck:
    """One line of the proof. holds: None where nothing was compared, and `found` says why."""

    name: str
    found: str
    allowed: str
    holds: bool | None


@dataclass(frozen=True)
class WrittenModel:
    """A model folder or file that was written, read back and compared. notes: sentences on what the
    format leaves out.
    """

    kind: str
    number_type: str
    notes: tuple[str, ...]
    proof: tuple[ReloadCheck, ...]


def reject_unproven(proof: Sequence[ReloadCheck], path: Path) -> None:
    """Raise ModelFolderError where a comparison is off; `path` is what was not written."""
    wrong = [f"{row.name} ({row.found})" for row in proof if row.holds is False]
    if wrong:
        raise ModelFolderError(
            f"{path} is not written: read back, it differs from the model that it was made of in"
            f" {'; '.join(wrong)}. Try again; if it happens twice, report it"
        )


def prove(
    source: Transformer,
    reloaded: Transformer,
    tokenizer: Tokenizer | None,
    other: Tokenizer | None,
    number_type: str,
    ends: frozenset[int] | None = None,
) -> list[ReloadCheck]:
    """Compare the model that was written with the one that was read back in float32; both on the
    CPU, in evaluation mode. tokenizer, other: theirs, as far as the file holds one. ends: the ids
    that the written model stops at; left out, those of `tokenizer`.

    Changes the dtype of `reloaded` to that of `source`.
    """
    bounds = NUMBER_TYPES[number_type]
    rows = [_shape(source, reloaded), _weights(source, reloaded, number_type)]
    rows.append(_ids(tokenizer, other, ends))
    if rows[0].holds and rows[1].holds:
        reloaded.to(source.output_weight.dtype)
        samples = _windows(source.config, tokenizer)
        rows += [
            _logits(source, reloaded, samples, bounds),
            _greedy(source, reloaded, samples[0], tokenizer, exact=number_type == "f32"),
        ]
    return rows


def _shape(source: Transformer, reloaded: Transformer) -> ReloadCheck:
    """The configurations, with rotary frequencies in the place of the keys that make them."""
    ours, theirs = _values(source), _values(reloaded)
    other = [
        f"{key} {ours.get(key)} became {theirs.get(key)}"
        for key in sorted(ours.keys() | theirs.keys())
        if not _close(ours.get(key), theirs.get(key))
    ]
    return ReloadCheck("shape", "; ".join(other)[:300] or "equal", "equal", not other)


def _values(model: Transformer) -> dict[str, Any]:
    values = {k: v for k, v in model.config.model_dump().items() if k not in _APART}
    if model.rotary is not None:
        frequencies = model.rotary.frequencies.flatten().tolist()
        values |= {f"rotary frequency {n}": value for n, value in enumerate(frequencies)}
        values["rotary factor"] = model.rotary.attention_factor
    return values


def _close(ours: Any, theirs: Any) -> bool:
    """Equal, or for numbers equal as float32: files keep no more."""
    numbers = isinstance(ours, float) and isinstance(theirs, float)
    return math.isclose(ours, theirs, rel_tol=1e-6) if numbers else bool(ours == theirs)


def _weights(source: Transformer, reloaded: Transformer, number_type: str) -> ReloadCheck:
    bounds = NUMBER_TYPES[number_type]
    # A tied matrix that was written out is compared under its own name too
    output = source.lm_head is not None or reloaded.lm_head is not None
    found, entries, off = dict(_all(reloaded, output)), 0, []
    largest = 0.0
    with torch.no_grad():
        for name, tensor in _all(source, output):
            ours = tensor.float()
            if name not in found or found[name].shape != ours.shape:
                off.append(f"{name} is missing")
                continue
            difference = (found[name].float() - ours).abs()
            entries += ours.numel()
            largest = max(largest, difference.max().item())
            wrong = int((~(difference <= _allowed(ours, bounds))).sum())
            if wrong:
                off.append(f"{wrong} of {name}")
    rounding = "0" if number_type == "f32" else f"rounding to {number_type}"
    words = f"off: {', '.join(off[:3])}{', ...' if len(off) > 3 else ''}; " if off else ""
    return ReloadCheck(
        "weights",
        f"{words}{entries:,} compared, largest difference {largest:.2g}",
        rounding,
        not off,
    )


def _all(model: Transformer, output: bool) -> Iterator[tuple[str, Tensor]]:
    """All weights; output: with the output matrix under its own name where it is tied too."""
    yield from named_tensors(model)
    if output and model.lm_head is None:
        yield "lm_head.weight", model.output_weight


def _allowed(ours: Tensor, bounds: NumberType) -> Tensor:
    """The difference that each entry may have."""
    if bounds.relative == 0:
        return torch.zeros_like(ours)
    own = bounds.relative * ours.abs() + bounds.absolute
    if bounds.of_block == 0 or ours.dim() != 2:
        return own
    width = bounds.block if ours.shape[-1] % bounds.block == 0 else ours.shape[-1]
    largest = ours.abs().view(ours.shape[0], -1, width).amax(-1, keepdim=True)
    spread: Tensor = largest.expand(-1, -1, width).reshape(ours.shape)
    return own + bounds.of_block * spread


def _ids(
    tokenizer: Tokenizer | None, other: Tokenizer | None, ends: frozenset[int] | None
) -> ReloadCheck:
    if tokenizer is None or other is None:
        return ReloadCheck("ids", "not compared: the file holds no tokenizer", "", None)
    compared = [(tokenizer.encode(text), other.encode(text)) for text in SAMPLES]
    wrong = [n for n, (ours, theirs) in enumerate(compared, 1) if ours != theirs]
    total = sum(len(ours) for ours, _ in compared)
    found = f"samples {', '.join(map(str, wrong))} differ" if wrong else f"{total} ids equal"
    ends = tokenizer.end_ids if ends is None else ends
    if not wrong and (tokenizer.bos_id, ends) != (other.bos_id, other.end_ids):
        found = (
            f"begin {tokenizer.bos_id} and ends {sorted(ends)} became {other.bos_id} and"
            f" {sorted(other.end_ids)}"
        )
        wrong = [0]
    return ReloadCheck("ids", f"{len(SAMPLES)} texts: {found}", "equal", not wrong)


def _windows(config: ModelConfig, tokenizer: Tokenizer | None) -> list[list[int]]:
    """Ids to compute logits of; drawn at random where there is no tokenizer."""
    window = min(WINDOW, config.context_length)
    if tokenizer is None:
        generator = torch.Generator().manual_seed(0)
        return [torch.randint(config.vocab_size, (window,), generator=generator).tolist()]
    return [tokenizer.encode_document(text)[:window] for text in SAMPLES]


@torch.inference_mode()
def _logits(
    source: Transformer, reloaded: Transformer, samples: list[list[int]], bounds: NumberType
) -> ReloadCheck:
    ours = torch.cat([source(torch.tensor([ids]))[0].double() for ids in samples])
    theirs = torch.cat([reloaded(torch.tensor([ids]))[0].double() for ids in samples])
    difference = ours - theirs
    share = (difference.square().mean().sqrt() / ours.std().clamp_min(1e-12)).item()
    agreed = (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item()
    return ReloadCheck(
        "logits",
        f"{len(ours)} positions: differ by {share:.2g} of their deviation, at most"
        f" {difference.abs().max().item():.2g}; {agreed:.0%} the same likeliest token",
        f"{bounds.logits:g}",
        share <= bounds.logits,
    )


@torch.inference_mode()
def _greedy(
    source: Transformer,
    reloaded: Transformer,
    ids: list[int],
    tokenizer: Tokenizer | None,
    *,
    exact: bool,
) -> ReloadCheck:
    """The source continues a few ids by its likeliest tokens; the other is asked at each place,
    which takes it one pass: as long as it agrees, its own text is the same.
    """
    start = ids[: max(1, min(PROMPT, source.config.context_length - CONTINUED))]
    text = list(start)
    for _ in range(min(CONTINUED, source.config.context_length - len(start))):
        text.append(int(source(torch.tensor([text]))[0, -1].argmax()))
    likeliest = reloaded(torch.tensor([text[:-1]]))[0].argmax(-1).tolist()[len(start) - 1 :]
    ours = text[len(start) :]
    same = next(
        (n for n, (a, b) in enumerate(zip(ours, likeliest, strict=True)) if a != b), len(ours)
    )
    words = "" if tokenizer is None else f": {tokenizer.decode(ours[:same])!r}"
    # Rounded weights may turn a close decision, and everything after it
    return ReloadCheck(
        "greedy text",
        f"{same} of {len(ours)} tokens equal{words[:100]}",
        "equal" if exact else "shown only",
        same == len(ours) if exact else None,
    )
