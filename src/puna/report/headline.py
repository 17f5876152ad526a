"""The headline of a run: the number to quote, its compression baselines, the cards, and the table
of the rest.

It prefers the summary of a finished run, and falls back on the last logged records of an unfinished
one. No HTML.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from puna.number_format import duration, part_in_megabytes, quantity
from puna.plots.step_chart import ReferenceLine
from puna.run_log import finite

MEANINGS: Final[Mapping[str, str]] = {
    "parameters": "weights that training moved",
    "tokens": "tokens trained on, repeats included",
    "train_seconds": "seconds of training, without evaluation",
    "steps": "updates, as many as fit in the time budget",
    "most_steps": "train.steps of the recipe",
    "budget_seconds": "train.minutes of the recipe, in seconds",
    "beside_seconds": "seconds of baselines, validations and checkpoints",
    "tokens_per_second": "tokens trained on per second of training",
    "mfu": "model FLOPs utilisation, a fraction of the measured matmul peak",
    "matmul_peak_gflops": "measured matmul peak, GFLOP/s",
    "val_loss": "validation loss, nats per token",
    "val_perplexity": "exp of the validation loss",
    "val_bits_per_byte": "validation bits per UTF-8 byte",
    "val_bytes": "UTF-8 bytes of the validation text that was scored",
    "val_targets": "tokens of validation text that were scored, spread evenly over all of it",
    "val_all_targets": "tokens of validation text that there are",
    "gzip_bits_per_byte": "gzip -9 on the same text",
    "xz_bits_per_byte": "xz -9 on the same text",
    "primed_bits_per_byte": "baselines on the same text that have read training text first",
    "primed_read_bytes": "UTF-8 bytes of training text that they have read",
    "primed_all_bytes": "UTF-8 bytes of training text that there are",
    "baseline_bytes": "UTF-8 bytes of the validation text that all baselines took, its first ones",
    "recipe_hash": "names the configuration: equal hashes, equal recipes",
}


@dataclass(frozen=True)
class Card:
    """One number at a glance: what it is, its value with unit, and a line that gives it scale."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar of the comparison in bits per byte; width in percent of the longest. heading: of this
    bar and those that follow it, empty where the one before goes on.
    """

    label: str
    value: str
    width: str
    model: bool
    heading: str = ""


@dataclass(frozen=True)
class SummaryRow:
    """One line of the table: key and value as they stand in the summary, and what the key means
    where we know.
    """

    key: str
    value: str
    meaning: str


def validation_bits_per_byte(
    summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> float | None:
    """The headline: from the summary, else from the last validation that gave a finite value, else
    None.
    """
    found = finite(summary.get("val_bits_per_byte"))
    return found if found is not None else _last(records, "validation", "bits_per_byte")


def scored_tokens(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The validation tokens behind that figure, such as "4,992 of 80,122"; empty where they are
    not known.
    """
    counts = []
    for key in ("targets", "all_targets"):
        found = finite(summary.get(f"val_{key}"))
        counts.append(found if found is not None else _last(records, "validation", key))
    return " of ".join(f"{count:,.0f}" for count in counts if count is not None)


def compression_baselines(summary: Mapping[str, Any]) -> list[ReferenceLine]:
    """gzip -9 and xz -9 in bits per byte of the validation text, those that were measured."""
    measured = ((name, finite(summary.get(f"{name}_bits_per_byte"))) for name in ("gzip", "xz"))
    return [
        ReferenceLine(f"{name}\N{NO-BREAK SPACE}-9", value)
        for name, value in measured
        if value is not None
    ]


def primed_baselines(summary: Mapping[str, Any]) -> list[ReferenceLine]:
    """The baselines that have read training text first, in bits per byte of the validation text;
    none of a run of an earlier release.
    """
    measured = summary.get("primed_bits_per_byte")
    levels = measured.items() if isinstance(measured, Mapping) else ()
    return [
        ReferenceLine(f"primed {name}".replace(" ", "\N{NO-BREAK SPACE}"), level)
        for name, level in ((name, finite(value)) for name, value in levels)
        if level is not None
    ]


def primed_heading(summary: Mapping[str, Any]) -> str:
    """The text that the primed baselines have read, in words."""
    read, everything = (finite(summary.get(f"primed_{part}_bytes")) for part in ("read", "all"))
    if read is None or everything is None:
        return "having read training text first"
    return f"having read {part_in_megabytes(read, everything)} of the training text first"


def bars(model: float, baselines: Mapping[str, Sequence[ReferenceLine]]) -> list[Bar]:
    """The model and its baselines, these by heading, side by side; shorter is better."""
    levels = [("", "this model", model)]
    for heading, lines in baselines.items():
        levels += [(("", heading)[i == 0], line.label, line.value) for i, line in enumerate(lines)]
    longest = max(value for _, _, value in levels) or 1.0
    return [
        Bar(label, f"{value:.3f}", f"{100 * value / longest:.2f}", index == 0, heading)
        for index, (heading, label, value) in enumerate(levels)
    ]


def verdict(model: float, baselines: Sequence[ReferenceLine]) -> str:
    """One sentence that says which wins, by how much; empty without baselines."""
    if not baselines:
        return ""
    best = min(baselines, key=lambda baseline: baseline.value)
    worst = max(baselines, key=lambda baseline: baseline.value)
    if model < best.value:
        rest = (
            f" and {_percent(model, worst.value)} fewer than {worst.label}"
            if worst is not best
            else ""
        )
        return (
            f"The model wins: it needs {_percent(model, best.value)} fewer bits than"
            f" {best.label}{rest}."
        )
    if model == best.value:
        return f"The model and {best.label} are level."
    lost = f"{best.label} wins: the model needs {_percent(model, best.value)} more bits"
    if model < worst.value:
        return f"{lost}, though {_percent(model, worst.value)} fewer than {worst.label}."
    return f"{lost}."


def cards(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Card]:
    """Parameters, tokens, time, throughput and MFU, those that are known."""
    parameters = finite(summary.get("parameters"))
    tokens = _known(summary, records, "tokens")
    seconds = finite(summary.get("train_seconds"))
    rate = _known(summary, records, "tokens_per_second")
    mfu = _known(summary, records, "mfu")
    peak = finite(summary.get("matmul_peak_gflops"))
    found: list[Card] = []
    if parameters is not None:
        found.append(Card("Parameters", quantity(parameters), note=f"{parameters:,.0f}"))
    if tokens is not None:
        each = f"{quantity(tokens / parameters)} per parameter" if parameters else ""
        found.append(Card("Tokens", quantity(tokens), note=each))
    if seconds is not None:
        device = summary.get("device")
        found.append(
            Card("Training time", duration(seconds), note=f"on {device}" if device else "")
        )
    if rate is not None:
        found.append(
            Card("Throughput", quantity(rate), "tokens/s", str(summary.get("dtype") or ""))
        )
    if mfu is not None:
        found.append(
            Card("MFU", f"{100 * mfu:.1f}%", note=f"of {_flops(peak)}" if peak is not None else "")
        )
    return found


def rows(summary: Mapping[str, Any]) -> list[SummaryRow]:
    """Every key of the summary, in its order, with unknown keys too."""
    return [
        SummaryRow(
            key,
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
            MEANINGS.get(key, ""),
        )
        for key, value in summary.items()
    ]


def _known(
    summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]], key: str
) -> float | None:
    found = finite(summary.get(key))
    return found if found is not None else _last(records, "train", key)


def _last(records: Sequence[Mapping[str, Any]], kind: str, key: str) -> float | None:
    values = (finite(record.get(key)) for record in reversed(records) if record["kind"] == kind)
    return next((value for value in values if value is not None), None)


def _percent(ours: float, theirs: float) -> str:
    """The distance as a share of theirs; small ones keep a decimal so that none reads as 0%."""
    apart = 100 * abs(1 - ours / theirs)
    return f"{apart:.0f}%" if apart >= 10 else f"{apart:.2g}%"


def _flops(gflops: float) -> str:
    return f"{gflops / 1000:.3g} TFLOP/s" if gflops >= 1000 else f"{gflops:.3g} GFLOP/s"
