"""The learning curves of a study: the metric of every arm over the tokens that it was trained on.

Plain numbers in, an inline SVG and its description out. The line of an arm that diverged ends with
a cross, and never disappears. A fraction of a second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from puna.number_format import quantity
from puna.plots.canvas import CHARACTER, LABEL, ArmStyle, mark, quiet, sheet, shortened, write
from puna.plots.inline_svg import inline_svg
from puna.plots.label_positions import spread

Values = npt.NDArray[np.float64]

SETTLED = 0.4  # of an arm's tokens: what comes before may lie above the frame


@dataclass(frozen=True)
class CurveLine:
    """An arm's mean over the seeds by tokens, and the lowest and highest seed; may be empty where
    `diverged` runs are more than 0.
    """

    arm: str
    tokens: Values
    mean: Values
    low: Values
    high: Values
    diverged: int = 0


@dataclass(frozen=True)
class LearningCurves:
    """All arms over the tokens that they were trained on. At least one line has a point."""

    unit: str
    lines: Sequence[CurveLine]
    styles: Mapping[str, ArmStyle]

    @property
    def description(self) -> str:
        """The whole figure in words, for those who do not see it."""
        told = [
            (
                f"{line.arm} {line.mean[-1]:.4f} after {quantity(line.tokens[-1])} tokens"
                + (", then diverged" if line.diverged else "")
                if len(line.mean)
                else f"{line.arm} diverged at once"
            )
            for line in self.lines
        ]
        return f"{self.unit} by tokens: {'; '.join(told)}."

    @property
    def frame(self) -> tuple[float, float, float]:
        """The lowest and the highest value that are shown, and the highest of all: steep starts,
        which all arms share, are left out.
        """
        drawn = [line for line in self.lines if len(line.mean)]
        whole = [line for line in drawn if not line.diverged] or drawn
        low = min(line.low.min() for line in whole)
        later = max(line.high[line.tokens >= SETTLED * line.tokens[-1]].max() for line in whole)
        highest = max(line.high.max() for line in drawn)
        return low, (later if highest > later + 0.5 * (later - low) else highest), highest

    @property
    def svg(self) -> str:
        """The figure, as an element of the page."""
        labels = [self._label(line) for line in self.lines]
        height = max(440.0, LABEL * len(labels) + 70)
        figure, ((axes,),) = sheet(height, 52, CHARACTER * max(map(len, labels)) + 34, 12, 44)
        self._fit_axes(axes)
        self._draw_lines(axes)
        figure.draw_without_rendering()  # fixes the transforms that the labels ask for
        self._draw_labels(axes, labels)
        across = "tokens" + (", log scale" if axes.get_xscale() == "log" else "")
        write(axes, across, 0.5, 0, xytext=(0, -34), horizontalalignment="center")
        return inline_svg(figure, "learning-curves", self.description)

    @property
    def _drawn(self) -> list[CurveLine]:
        return [line for line in self.lines if len(line.mean)]

    def _fit_axes(self, axes: Axes) -> None:
        """The frame with a margin; across from where the first line comes into it."""
        ends = [line.tokens[-1] for line in self._drawn]
        if max(ends) > 3 * min(ends):
            axes.set_xscale("log")
        low, top, _ = self.frame
        margin = 0.05 * (top - low) or 0.05
        axes.set_ylim(low - margin, top + margin)
        first, last = min(self._entry(line, top + margin) for line in self._drawn), max(ends)
        axes.set_xlim(min(first, 0.98 * last), last)
        quiet(axes)

    def _draw_lines(self, axes: Axes) -> None:
        """All bands, then all lines, so that no band covers a line."""
        for line in self._drawn:
            axes.fill_between(
                line.tokens,
                line.low,
                line.high,
                color=self.styles[line.arm].colour,
                alpha=0.1,
                linewidth=0,
            )
        for line in self._drawn:
            style = self.styles[line.arm]
            axes.plot(line.tokens, line.mean, **style.line)
            end = (line.tokens[-1], min(line.mean[-1], axes.get_ylim()[1]))
            mark(
                axes,
                *end,
                "x" if line.diverged else "o",
                style.colour,
                6.5 if line.diverged else 5,
            )

    def _draw_labels(self, axes: Axes, labels: Sequence[str]) -> None:
        """A column beside the ends of the lines, each label with a stroke from its line's end; the
        label of an arm that diverged stands near the top.
        """
        _, top, _ = self.frame
        last = axes.get_xlim()[1]
        ends = [(last, top if line.diverged else line.mean[-1]) for line in self.lines]
        pixels = axes.transData.transform(ends)[:, 1].tolist()
        box = axes.get_window_extent()
        heights = spread(pixels, LABEL, box.y0 + 4, box.y1 - 4)
        for line, label, pixel, height in zip(self.lines, labels, pixels, heights, strict=True):
            write(
                axes, label, 1, 0, "ink", xytext=(26, height - box.y0), horizontalalignment="left"
            )
            # in fractions of the axes; a line that diverged has no end to start from
            stroke = [
                (height if line.diverged else pixel) / box.height - box.y0 / box.height,
                (height - box.y0) / box.height,
            ]
            axes.plot(
                [1 + 4 / box.width, 1 + 22 / box.width],
                stroke,
                transform=axes.transAxes,
                clip_on=False,
                **{**self.styles[line.arm].line, "linewidth": 1.2},
            )

    def _label(self, line: CurveLine) -> str:
        value = f"{line.mean[-1]:.3f}" if len(line.mean) and not line.diverged else "diverged"
        return f"{value}  {shortened(line.arm)}"

    def _entry(self, line: CurveLine, top: float) -> float:
        """The tokens at which a line comes into the frame from above."""
        inside = int(np.argmax(line.mean <= top)) if (line.mean <= top).any() else 0
        return float(
            np.interp(
                -top,
                -line.mean[max(0, inside - 1) : inside + 1],
                line.tokens[max(0, inside - 1) : inside + 1],
            )
        )
