"""Arithmetic of a measured row: medians, share of the machine's limit, ratio, and its bar."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from puna.inference_benchmark.bars import Beside, SpeedBar, find_bar
from puna.inference_benchmark.subject import Subject
from puna.inference_benchmark.workload import BITS, Format, Workload
from puna.model.accounting import forward_flops_per_token, kv_bytes_per_token

OURS, PLAIN = "puna", "puna without drafts"
TWIN, FLOAT32 = "puna on torch", "puna on torch in float32"
LLAMA, IK, IK_REPACKED = "llama.cpp", "ik_llama.cpp", "ik_llama.cpp repacked"
TRANSFORMERS, TORCH_INT8 = "transformers", "PyTorch int8"

RIVALS: Mapping[Beside, tuple[str, ...]] = MappingProxyType(
    {
        "peers": (LLAMA, IK, IK_REPACKED, TORCH_INT8),
        "float32": (FLOAT32,),
        "plain": (PLAIN,),
    }
)
"""The programs that a bar is set beside; the better one counts."""


@dataclass(frozen=True)
class MachineLimits:
    """Measured limits of the machine; None where there is no figure."""

    reading: float | None = None
    """B/s."""
    float32: float | None = None
    """FLOP/s of a matrix product, as the others."""
    bfloat16: float | None = None
    int8: float | None = None
    """op/s."""
    others: float | None = None
    """Cores that other programs took meanwhile, at most."""

    def peak(self, weights: Format) -> float | None:
        """Operations a second of products with such weights: integer products for integers, and
        float32's where there is no bfloat16.
        """
        return (self.bfloat16 or self.float32) if weights == "bf16" else self.int8


def limits_of(work: Workload, weights: Format) -> tuple[str, ...]:
    """Names of the limits that a work comes up against, as `puna.diagnosis.measurements` has them:
    of bfloat16 two, since not every machine has it.
    """
    match work.kind:
        case "decode":
            return ("reading",)
        case "prefill" if weights == "bf16":
            return ("matmul float32", "matmul bfloat16")
        case "prefill":
            return ("matmul int8",)
        case _:
            return ()


def median_limits(rounds: Sequence[MachineLimits]) -> MachineLimits:
    """The medians of several measurements, and the most that other programs took."""

    def known(name: str) -> list[float]:
        return [value for each in rounds if (value := getattr(each, name)) is not None]

    medians = {
        each.name: statistics.median(values)
        for each in fields(MachineLimits)
        if (values := known(each.name))
    }
    return MachineLimits(**{**medians, "others": max(known("others"), default=None)})


@dataclass(frozen=True)
class Row:
    """The figures of all programs at one work, in the order of the rounds. limits: the medians of
    the machine's in the same rounds. failed: programs that broke off, each with the reason.
    """

    work: Workload
    format: Format
    runs: Mapping[str, Sequence[float]]
    limits: MachineLimits = MachineLimits()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def medians(self) -> dict[str, float]:
        """The median of each program that has figures."""
        return {name: statistics.median(runs) for name, runs in self.runs.items() if runs}


@dataclass(frozen=True)
class Verdict:
    """Figures that follow from a row; None where one that they need was not measured."""

    share: float | None
    """Of the limit: of reading the weights, or of the peak of products."""
    ratio: float | None
    """Puna's speed over the rival's; above 1 Puna is faster."""
    rival: str | None
    bar: SpeedBar | None
    met: bool | None


def judge(row: Row, subject: Subject, tier: str, *, int8_cache: bool = False) -> Verdict:
    """Judge a row of this subject by the bar of the tier.

    int8_cache: Puna's keys and values were in int8, for which there are no bars: the rivals keep
    theirs in 16 bits.
    """
    work, medians = row.work, row.medians
    ours = medians.get(OURS)
    bar = None if int8_cache else find_bar(tier, subject.size, work.name, row.format)
    names = RIVALS[bar.beside] if bar else RIVALS["plain" if work.kind == "lookup" else "peers"]
    speeds = {name: _speed(value, work.unit) for name, value in medians.items()}
    there = [name for name in names if ours and name in speeds]
    rival = max(there, key=speeds.__getitem__, default=None)
    ratio = speeds[OURS] / speeds[rival] if rival else None
    share = (
        share_of_limit(work, row.format, subject, ours, row.limits, int8_cache=int8_cache)
        if ours
        else None
    )
    return Verdict(share, ratio, rival, bar, _meets(bar, ratio, share, ours))


def _speed(value: float, unit: str) -> float:
    return 1 / value if unit == "s" else value


def _meets(
    bar: SpeedBar | None, ratio: float | None, share: float | None, ours: float | None
) -> bool | None:
    """None where something that the bar asks for is not known, unless another part is missed."""
    if bar is None:
        return None
    parts = [None if ratio is None else ratio >= bar.ratio]
    if bar.share is not None:
        parts.append(None if share is None else share >= bar.share)
    if bar.seconds is not None:
        parts.append(None if ours is None else ours <= bar.seconds)
    return False if False in parts else None if None in parts else True


def share_of_limit(
    work: Workload,
    weights: Format,
    subject: Subject,
    rate: float,
    limits: MachineLimits,
    *,
    int8_cache: bool = False,
) -> float | None:
    """Share of the machine's limit that `rate` tokens/s of all streams together come to.

    decode: bytes of the weights, which one step reads once for all streams, and of the keys and
    values of each stream's context in 16 bits, or in int8 with their scales, times steps a second,
    over the speed of reading.
    prefill: operations of the products and of causal attention, output layer for one row, over the
    peak. Above 1 where a cache holds what is read. None for other works, and without the limit.
    """
    match work.kind:
        case "decode":
            read = _step_bytes(work, weights, subject, int8_cache)
            return _of_limit(read * rate / work.streams, limits.reading)
        case "prefill":
            return _of_limit(_token_operations(work, subject) * rate, limits.peak(weights))
        case _:
            return None


def _of_limit(value: float, limit: float | None) -> float | None:
    return value / limit if limit else None


def _step_bytes(work: Workload, weights: Format, subject: Subject, int8_cache: bool) -> float:
    config, parameters = subject.config, subject.parameters
    entries = parameters.attention + parameters.feed_forward + config.vocab_size * config.width
    context = work.context + work.tokens / 2  # on average over the measured steps
    kept = work.streams * context * kv_bytes_per_token(config, int8_cache=int8_cache)
    return entries * BITS[weights] / 8 + kept


def _token_operations(work: Workload, subject: Subject) -> float:
    """Operations a token of a prompt; the output layer is computed after the last one alone."""
    config = subject.config
    output = 2 * config.vocab_size * config.width
    return forward_flops_per_token(config, work.tokens) - output * (1 - 1 / work.tokens)
