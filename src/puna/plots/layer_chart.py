"""The drawing of what probes found by layer: for each series a pair of panels, before and after
training, with a line for each arm.

Each panel has its own scale: training moves these numbers further than the arms lie apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from puna.number_format import quantity
from puna.plots.canvas import ArmStyle, quiet, sheet, write
from puna.plots.inline_svg import COLOURS, inline_svg

PANEL = 215  # pixels of a row of panels
STEEP = 20  # highest over lowest, from which on the axis is logarithmic

ByArm = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class LayerSeries:
    """One number by layer, for each arm, at the start and at the end; an arm that diverged is empty
    at the end.
    """

    name: str
    start: ByArm
    end: ByArm


@dataclass(frozen=True)
class LayerChart:
    """All series of one probe. name: letters and hyphens, unique in the page. At least one series,
    each with a number at the start.
    """

    name: str
    title: str
    series: Sequence[LayerSeries]
    styles: Mapping[str, ArmStyle]

    @property
    def description(self) -> str:
        """The whole figure in words, for those who do not see it."""
        told = [
            f"{one.name} {when}: "
            + ", ".join(
                f"{arm} {quantity(layers[0])} to {quantity(layers[-1])}"
                for arm, layers in drawn.items()
                if layers
            )
            for one in self.series
            for when, drawn in (("at the start", one.start), ("at the end", one.end))
        ]
        return f"{self.title} from the first layer to the last; {'; '.join(told)}."

    @property
    def svg(self) -> str:
        """The figure, as an element of the page."""
        height = PANEL * len(self.series) + 24
        figure, grid = sheet(height, 62, 8, 26, 44, len(self.series), 2)
        figure.subplots_adjust(wspace=0.16, hspace=0.42)
        for row, one in zip(grid, self.series, strict=True):
            for axes, when, drawn in zip(
                row, ("before training", "after training"), (one.start, one.end), strict=True
            ):
                self._draw(axes, drawn)
                write(
                    axes,
                    one.name,
                    0,
                    1,
                    "ink",
                    xytext=(0, 13),
                    horizontalalignment="left",
                    fontweight="bold",
                )
                write(axes, when, 1, 1, xytext=(0, 13), horizontalalignment="right")
        for axes in grid[-1]:
            write(axes, "layer", 0.5, 0, xytext=(0, -32), horizontalalignment="center")
        return inline_svg(figure, self.name, self.description)

    def _draw(self, axes: Axes, drawn: ByArm) -> None:
        values = np.array([value for layers in drawn.values() for value in layers])
        if not len(values):
            axes.set_axis_off()
            write(axes, "every arm diverged", 0.5, 0.5, horizontalalignment="center")
            return
        low, high = values.min(), values.max()
        if low > 0 and high > STEEP * low:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.25, high * 1.25)
        else:
            margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
            axes.set_ylim(low - margin, high + margin)
        depth = max(map(len, drawn.values()))
        axes.set_xlim(-0.15, depth - 0.85)
        for arm, layers in drawn.items():
            if len(layers):
                line = self.styles[arm].line
                axes.plot(
                    layers,
                    marker="o",
                    markersize=4.5,
                    markeredgecolor=COLOURS["surface"],
                    markeredgewidth=0.8,
                    **line,
                )
        quiet(axes, ticks=5)
        axes.set_xticks(range(depth))
