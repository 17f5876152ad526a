"""The shared canvas of a study's drawings: a sheet in CSS pixels, quiet axes, text that is never
mathematics, and the style of an arm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from puna.number_format import quantity
from puna.plots.inline_svg import ARMS, COLOURS

WIDTH = 1000  # CSS pixels at full size
TEXT_SIZE = 12.0
LABEL = 15.5  # pixels of a line of text
CHARACTER = 6.7  # pixels that a character of that size takes, on average
LONGEST_NAME = 34
TICK_GAP = 8
STROKES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("", ()),
    ("dashed", (5, 2)),
    ("dotted", (1.4, 1.6)),
)
OUTLYING = 8  # times as far out as the median arm is too far for the frame of all


@dataclass(frozen=True)
class ArmStyle:
    """The style of an arm in every figure. role: of its colour; stroke: solid, dashed or
    dotted.
    """

    role: str
    stroke: int = 0

    @property
    def colour(self) -> str:
        """The colour that matplotlib draws with; in the page it becomes the role's CSS variable."""
        return COLOURS[self.role]

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of `Axes.plot`."""
        dashes = STROKES[self.stroke][1]
        return {
            "color": self.colour,
            "linewidth": 2.3 if self.role == "ink" else 1.7,
            **({"dashes": dashes} if dashes else {}),
        }

    @property
    def key(self) -> str:
        """The class of its key in the page."""
        return f"{self.role} {STROKES[self.stroke][0]}".strip()


def arm_styles(arms: Sequence[str], baseline: str) -> dict[str, ArmStyle]:
    """The baseline in ink; the others in eight colours, from the ninth on dashed, from the 17th
    dotted, and so round.
    """
    others = [arm for arm in arms if arm != baseline]
    styles = {
        arm: ArmStyle(ARMS[index % len(ARMS)], index // len(ARMS) % len(STROKES))
        for index, arm in enumerate(others)
    }
    return {arm: styles.get(arm, ArmStyle("ink")) for arm in arms}


def sheet(
    height: float,
    left: float,
    right: float,
    top: float,
    bottom: float,
    rows: int = 1,
    columns: int = 1,
) -> tuple[Figure, Any]:
    """A figure of `WIDTH` x height with these margins, and its axes [rows, columns]."""
    # SVG has 72 units an inch
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, frameon=False)
    grid = figure.subplots(rows, columns, squeeze=False, subplot_kw={"frameon": False})
    figure.subplots_adjust(left / WIDTH, bottom / height, 1 - right / WIDTH, 1 - top / height)
    return figure, grid


def quiet(axes: Axes, grid: str = "y", ticks: int = 6) -> None:
    """Hairlines along one axis, readable numbers, nothing else."""
    for axis, logarithmic in (
        (axes.xaxis, axes.get_xscale() == "log"),
        (axes.yaxis, axes.get_yscale() == "log"),
    ):
        if not logarithmic:
            axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.grid(axis=grid, color=COLOURS["line"], linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=TICK_GAP, labelsize=TEXT_SIZE, labelcolor=COLOURS["muted"])


def tick(value: float) -> str:
    """The number of a tick, whole: 2.925 is not 2.93, or the ticks would seem uneven."""
    return quantity(value) if abs(value) >= 1000 else f"{round(value, 10):.6g}".replace("e-0", "e-")


def write(axes: Axes, text: str, x: float, y: float, colour: str = "muted", **options: Any) -> None:
    """Text at a position that `xycoords` is about, moved by `xytext` pixels. colour: a role."""
    given = {
        "xycoords": "axes fraction",
        "xytext": (0, 0),
        "textcoords": "offset points",
        "verticalalignment": "center",
        **options,
    }
    axes.annotate(
        text,
        (x, y),
        fontsize=TEXT_SIZE,
        color=COLOURS[colour],
        annotation_clip=False,
        parse_math=False,
        **given,
    )


def mark(axes: Axes, x: float, y: float, marker: str, colour: str, size: float = 6.5) -> None:
    """One mark, drawn even where it touches the frame."""
    crossed = marker == "x"
    edge = colour if crossed else COLOURS["surface"]
    line = Line2D(
        [x],
        [y],
        marker=marker,
        color=colour,
        markersize=size,
        markeredgecolor=edge,
        markeredgewidth=2 if crossed else 1,
    )
    line.set_clip_on(False)
    axes.add_line(line)


def shortened(name: str) -> str:
    """The name in one line, without its middle if it is too long."""
    name = " ".join(name.split())
    # names often differ at their ends: the middle goes
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def name_width(names: Sequence[str]) -> float:
    """Pixels that the longest of them takes."""
    return CHARACTER * max(len(shortened(name)) for name in names)


def frame(ranges: Sequence[tuple[float, float]], centre: float) -> tuple[float, float]:
    """The lowest and the highest value of those ranges that are not `OUTLYING` times as far from
    the centre as the median one is.
    """
    # the median and not the mean: one arm that went wrong would stretch the frame that it must
    # be left out of
    reach = np.array([max(abs(low - centre), abs(high - centre)) for low, high in ranges])
    kept = [
        one for one, far in zip(ranges, reach, strict=True) if far <= OUTLYING * np.median(reach)
    ]
    return min(low for low, _ in kept), max(high for _, high in kept)
