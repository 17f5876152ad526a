"""Draws one chart: numbers in, an inline SVG out.

A `Chart` says what is drawn and in which role; this file knows axes, line widths and margins, and
nothing of runs or metrics. Every chart has the same size and margins, so that charts in a grid line
up. About a tenth of a second and 5-40 KiB each, however long the run: a line holds at most
`MAX_POINTS` points, more than the chart has pixels to show.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from puna.number_format import quantity
from puna.plots.inline_svg import COLOURS, inline_svg
from puna.plots.series import Series

WIDTH, HEIGHT = 520, 270  # CSS pixels at full size
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 10, 27  # margins that hold the tick labels
MAX_POINTS = 1000
MAX_MARKERS = 60
FEWEST_TO_CUT = 20  # a twentieth of fewer values is less than one of them
TEXT_SIZE = 11.5
TICK_GAP = 8


@dataclass(frozen=True)
class Line:
    """One line of a chart. style: `faint` behind a smoothed line, `dotted` for points joined by a
    line, else `firm`.
    """

    label: str
    series: Series
    role: Literal["train", "validation"]
    style: Literal["faint", "firm", "dotted"] = "firm"


@dataclass(frozen=True)
class ReferenceLine:
    """A level to compare with, drawn as a dashed line across the chart; value in the chart's
    unit.
    """

    label: str
    value: float


@dataclass(frozen=True)
class Chart:
    """Metrics over steps. At least one line holds a value.

    name: letters and hyphens, unique in the page. unit: of the vertical axis, may be empty.
    from_zero: start the vertical axis at zero, as sizes of things should; losses should not.
    latest: the number to read first, as text.
    """

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    references: tuple[ReferenceLine, ...] = ()
    from_zero: bool = False
    latest: str = ""

    @property
    def log_scale(self) -> bool:
        """True where a spike would flatten a linear axis: no value below zero, the highest over 20
        times the median.
        """
        values = np.concatenate([line.series.values for line in self.lines])
        return bool(values.min() > 0 and values.max() > 20 * np.median(values))

    @property
    def left_out(self) -> int:
        """The number of logged values that are null, NaN or infinite and cannot be drawn."""
        # faint and firm share records
        return sum({line.role: line.series.left_out for line in self.lines}.values())

    @property
    def frame(self) -> tuple[float, float]:
        """The lowest and the highest value that the vertical axis must hold, references included.

        A loss falls from about ln V within its first steps. Where the first twentieth of a run lies
        far above all the rest, the frame fits the rest, because that is where runs differ.
        """
        steps = np.concatenate([line.series.steps for line in self.lines])
        values = np.concatenate([line.series.values for line in self.lines])
        levels = [reference.value for reference in self.references]
        everything = np.concatenate([values, levels])
        later = np.concatenate([values[steps >= steps.min() + 0.05 * np.ptp(steps)], levels])
        steep = everything.max() > later.max() + 0.5 * np.ptp(later)
        cut = steep and len(values) >= FEWEST_TO_CUT and not (self.from_zero or self.log_scale)
        held = later if cut else everything
        return float(held.min()), float(held.max())

    @property
    def above(self) -> float | None:
        """The highest value where the frame leaves it out, else None."""
        highest = max(float(line.series.values.max()) for line in self.lines)
        return highest if highest > self.frame[1] else None

    @property
    def description(self) -> str:
        """The chart in one sentence, for those who do not see it."""
        told = [line for line in self.lines if line.style != "faint"]
        parts = [
            f"{line.label} from {quantity(line.series.values[0])} at step"
            f" {line.series.steps[0]:,.0f} to {quantity(line.series.values[-1])} at step"
            f" {line.series.steps[-1]:,.0f}"
            for line in told
        ]
        parts += [
            f"{reference.label} at {quantity(reference.value)}" for reference in self.references
        ]
        unit = f" in {self.unit}" if self.unit else ""
        return f"{self.title}{unit} by step: {'; '.join(parts)}."

    @property
    def svg(self) -> str:
        """The chart as an inline `<svg>` element; its colours are the page's CSS variables."""
        # SVG has 72 units an inch
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), frameon=False)
        figure.subplots_adjust(LEFT / WIDTH, BOTTOM / HEIGHT, 1 - RIGHT / WIDTH, 1 - TOP / HEIGHT)
        axes = figure.add_subplot(frameon=False)
        for line in self.lines:
            _draw_line(axes, line)
        if self.log_scale:
            axes.set_yscale("log")
        _fit_axes(axes, self)
        _draw_references(axes, self.references)
        return inline_svg(figure, self.name, self.description)


def _draw_line(axes: Axes, line: Line) -> None:
    shown = line.series.thinned(MAX_POINTS)
    colour = COLOURS[line.role]
    if line.style == "faint":
        axes.plot(
            shown.steps,
            shown.values,
            color=colour,
            alpha=0.45 if shown is line.series else 0.28,
            linewidth=0.9,
        )
        return
    markers = (line.style == "dotted" and len(shown) <= MAX_MARKERS) or len(shown) == 1
    axes.plot(
        shown.steps,
        shown.values,
        color=colour,
        linewidth=1.7,
        marker="o" if markers else "",
        markersize=5.5,
        markeredgecolor=COLOURS["surface"],
        markeredgewidth=1.2,
    )


def _fit_axes(axes: Axes, chart: Chart) -> None:
    """Limits around everything that is drawn, four or five horizontal hairlines, quiet labels."""
    steps = np.concatenate([line.series.steps for line in chart.lines])
    margin = 0.014 * np.ptp(steps) or 0.5  # holds half a marker
    axes.set_xlim(steps.min() - margin, steps.max() + margin)
    low, high = chart.frame
    if chart.log_scale:
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(0 if chart.from_zero and low >= 0 else low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    readable = FuncFormatter(lambda value, _: quantity(value))
    axes.xaxis.set_major_formatter(readable)
    axes.yaxis.set_major_formatter(readable)
    axes.grid(axis="y", color=COLOURS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=TICK_GAP, labelsize=TEXT_SIZE, labelcolor=COLOURS["muted"])
    axes.annotate(
        "step",
        (0, 0),
        xycoords="axes fraction",
        xytext=(-TICK_GAP, -TICK_GAP),
        textcoords="offset points",
        horizontalalignment="right",
        verticalalignment="top",
        fontsize=TEXT_SIZE,
        color=COLOURS["muted"],
    )


def _draw_references(axes: Axes, references: tuple[ReferenceLine, ...]) -> None:
    """Dashed lines, named at the right end: the highest above its line, the next below, to keep
    close ones apart.
    """
    for rank, reference in enumerate(sorted(references, key=lambda reference: -reference.value)):
        axes.axhline(reference.value, color=COLOURS["reference"], linewidth=1.2, dashes=(4, 3))
        axes.annotate(
            f"{reference.label}  {reference.value:.3f}",
            (1, reference.value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4 if rank == 0 else -4),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment="bottom" if rank == 0 else "top",
            fontsize=TEXT_SIZE,
            color=COLOURS["reference"],
        )
