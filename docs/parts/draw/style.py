"""How every picture looks, and the numbers that it shows.

White behind everything, so that a page may be light or dark; the colours of Okabe & Ito, which
colour-blind readers tell apart; labels at the lines instead of legends. Text stays text, which a
change of a picture shows and a search finds.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, GREY, RULE = "#24292f", "#6e7781", "#d8dee4"
BLUE, RED, GREEN, PURPLE, GOLD, SKY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b0588f",
    "#c98600",
    "#56b4e9",
)
WARM_COLD = LinearSegmentedColormap.from_list(
    "warm-cold", [BLUE, "#9cc9e6", "#ffffff", "#f5c29b", RED]
)
WIDTH = 7.4  # inches of 72 points: about what a page of text is wide
POINTS = 25  # of a line or an image that `numbers` keeps: enough to notice another formula

STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    # the first comes with matplotlib, the second with most machines; of one width
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "svg.fonttype": "none",
}


def panels(columns: int, height: float, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page, `height` inches high, and its axes in reading order."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.03)
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False, **options)))


def label(axes: Axes, x: float, y: float, text: str, colour: str = INK, **options: Any) -> None:
    """Text beside a line, in its colour; by default it begins at the point."""
    axes.text(x, y, text, color=colour, **({"va": "center", "size": 8} | options))


def bare(axes: Axes) -> None:
    """Take away frame, ticks and grid: for drawings that have no scale."""
    axes.set_axis_off()
    axes.grid(visible=False)


def numbers(figure: Figure) -> list[dict[str, Any]]:
    """What the picture shows, axes by axes: its words, and some values of each line, each patch and
    each image.
    """
    return [
        {
            "words": [word for word in _words(axes) if word],
            "lines": [[_some(line.get_xdata()), _some(line.get_ydata())] for line in axes.lines],
            "patches": [_some(patch.get_bbox().bounds) for patch in axes.patches],
            "images": [_some(image.get_array()) for image in axes.images],
        }
        for axes in figure.axes
    ]


def _words(axes: Axes) -> Iterator[str]:
    yield from (axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel())
    yield from (text.get_text() for text in axes.texts)


def _some(values: Any) -> list[float]:
    """At most `POINTS` of the values, evenly spread, the last among them, to four digits."""
    flat = np.ravel(np.asarray(values, dtype=float))
    indices = np.linspace(0, flat.size - 1, min(flat.size, POINTS)).round().astype(int)
    return [float(f"{value:.4g}") for value in flat[indices]]
