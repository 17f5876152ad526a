"""Draws curves of equal loss and of cost over a life: into one SVG file that stands alone, or into
a page.

What is drawn comes as numbers; this file knows axes, colours and labels, and nothing of scaling
laws. Both axes are logarithmic. About half a second and 40 KiB a row.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from puna.durable import write_text
from puna.errors import PunaError
from puna.number_format import quantity
from puna.plots.canvas import sheet
from puna.plots.inline_svg import ARMS, COLOURS, inline_svg

WIDTH, HEIGHT = 6.0, 3.9  # inches of a panel
LABEL_SPACE = 8  # times the parameters of the rightmost point, for its label

Curve = tuple[str, npt.NDArray[np.float64], npt.NDArray[np.float64], tuple[float, float]]
"""Label, numbers of parameters, values, and the point to mark."""


@dataclass(frozen=True)
class Palette:
    """Colours, as matplotlib takes them, and the size of the text."""

    ink: str
    line: str
    surface: str
    curves: Sequence[str]
    text: float  # its size


PAPER = Palette("#1b1f24", "#e3e6e9", "white", ("#8a939d", "#2f67b2", "#bf4a12", "#4c8c4a"), 9)
PAGE = Palette(
    COLOURS["muted"],
    COLOURS["line"],
    COLOURS["surface"],
    [COLOURS[role] for role in ("reference", *ARMS)],
    11.5,
)


@dataclass(frozen=True)
class Panel:
    """Values over parameters. At least one curve, each with at least one point; every number is
    above zero.

    points: with labels, beside the curves.
    """

    title: str
    values: str
    curves: Sequence[Curve]
    points: Sequence[tuple[str, float, float]] = ()


def write_scaling_curves(path: Path, rows: Sequence[Sequence[Panel]]) -> None:
    """Write the rows of panels, each row as long as the first, to an SVG file. Equal numbers give
    equal files.
    """
    if path.suffix.lower() != ".svg":
        raise PunaError(
            f"{path} is no SVG file by its name, but curves are drawn as SVG only; give a name that"
            " ends in .svg"
        )
    figure = Figure(
        figsize=(WIDTH * len(rows[0]), HEIGHT * len(rows)), facecolor="white", layout="constrained"
    )
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, panel in zip(grid.flat, (panel for row in rows for panel in row), strict=True):
        _draw(axes, panel, PAPER)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    write_text(path, buffer.getvalue())


@dataclass(frozen=True)
class ScalingCurves:
    """Panels beside each other in a page. name: letters and hyphens, unique in the page.

    description: the whole figure in words, for those who do not see it.
    """

    name: str
    panels: Sequence[Panel]
    description: str

    @property
    def svg(self) -> str:
        """The figure, as an element of the page."""
        figure, (row,) = sheet(470, 74, 8, 38, 54, 1, len(self.panels))
        figure.subplots_adjust(wspace=0.24)
        for axes, panel in zip(row, self.panels, strict=True):
            _draw(axes, panel, PAGE)
        return inline_svg(figure, self.name, self.description)


def _draw(axes: Axes, panel: Panel, palette: Palette) -> None:
    for colour, (label, parameters, values, mark) in zip(
        palette.curves, panel.curves, strict=False
    ):
        axes.plot(parameters, values, color=colour, linewidth=1.8, label=label)
        axes.plot(*mark, marker="o", color=colour, markersize=6, markeredgecolor=palette.surface)
    for label, number, value in panel.points:
        axes.plot(
            number,
            value,
            marker="s",
            color=palette.ink,
            markersize=6,
            markeredgecolor=palette.surface,
        )
        axes.annotate(
            label,
            (number, value),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=palette.text - 1,
            color=palette.ink,
            parse_math=False,
        )
    axes.set_title(panel.title, fontsize=palette.text + 2, color=palette.ink, loc="left")
    axes.set_xlabel("parameters", color=palette.ink, fontsize=palette.text + 1)
    axes.set_ylabel(panel.values, color=palette.ink, fontsize=palette.text + 1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if panel.points:
        axes.set_xlim(
            right=max(
                LABEL_SPACE * max(number for _, number, _ in panel.points), axes.get_xlim()[1]
            )
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
    axes.grid(color=palette.line, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(palette.ink)
    axes.tick_params(length=0, labelcolor=palette.ink, labelsize=palette.text + 1)
    axes.legend(frameon=False, fontsize=palette.text, labelcolor=palette.ink)
