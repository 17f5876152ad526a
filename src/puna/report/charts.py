"""Which charts a training run has: loss, bits per byte, learning rate, gradient norm, throughput,
MFU.

A chart whose metric was never logged is left out. How a chart looks is `curves.py`; this file costs
nothing but the smoothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from puna.report.curves import Chart, Line, Yardstick
from puna.report.formats import quantity
from puna.report.series import Series

Records = Sequence[Mapping[str, Any]]


def run_charts(records: Records, yardsticks: Sequence[Yardstick]) -> list[Chart]:
    """The charts of a run, in reading order. yardsticks: levels in bits per byte, for the chart of
    that metric.
    """
    charts = (
        _loss_chart(records),
        _bits_per_byte_chart(records, tuple(yardsticks)),
        _learning_rate_chart(records),
        _training_chart(
            records, "gradient_norm", "gradient-norm", "Gradient norm", "L2 over all parameters"
        ),
        _training_chart(
            records, "tokens_per_second", "throughput", "Throughput", "tokens per second"
        ),
        _training_chart(
            records, "mfu", "mfu", "Model FLOPs utilisation", "% of matmul peak", factor=100
        ),
    )
    return [chart for chart in charts if chart.lines]


def _loss_chart(records: Records) -> Chart:
    held_out = Series.of(records, "validation", "loss")
    lines = _noisy("training", Series.of(records, "train", "loss")) + _held_out(held_out)
    return Chart("loss", "Loss", "nats per token", lines, latest=_latest(lines, decimals=3))


def _bits_per_byte_chart(records: Records, yardsticks: tuple[Yardstick, ...]) -> Chart:
    held_out = Series.of(records, "validation", "bits_per_byte")
    lines = _noisy("training", Series.of(records, "train", "bits_per_byte")) + _held_out(held_out)
    latest = _latest(lines, decimals=3)
    return Chart(
        "bits-per-byte", "Bits per byte", "of UTF-8 text", lines, yardsticks, latest=latest
    )


def _learning_rate_chart(records: Records) -> Chart:
    rate = Series.of(records, "train", "learning_rate")
    lines = (Line("learning rate", rate, "train"),) if len(rate) else ()
    return Chart("learning-rate", "Learning rate", "", lines, from_zero=True, latest=_latest(lines))


def _training_chart(
    records: Records, metric: str, name: str, title: str, unit: str, factor: float = 1.0
) -> Chart:
    lines = _noisy("training", Series.of(records, "train", metric).scaled(factor))
    return Chart(name, title, unit, lines, from_zero=True, latest=_latest(lines))


def _noisy(label: str, series: Series) -> tuple[Line, ...]:
    """Raw values faint behind their moving mean over 4% of the run; below 100 records there is
    nothing to smooth.
    """
    half_window = len(series) // 100
    if not len(series):
        return ()
    if half_window == 0:
        return (Line(label, series, "train"),)
    return (
        Line(label, series, "train", "faint"),
        Line(f"{label}, smoothed", series.smoothed(half_window), "train"),
    )


def _held_out(series: Series) -> tuple[Line, ...]:
    return (Line("held out", series, "held-out", "dotted"),) if len(series) else ()


def _latest(lines: tuple[Line, ...], decimals: int | None = None) -> str:
    """The last value of the last line, the one that matters most: the held-out one where there is
    one.
    """
    if not lines:
        return ""
    value = float(lines[-1].series.values[-1])
    return quantity(value) if decimals is None else f"{value:.{decimals}f}"
