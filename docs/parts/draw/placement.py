"""The pictures of placement.md: where norms stand, traced through the real blocks, and what that
does at initialisation.
"""

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from style import BLUE, GOLD, GREEN, GREY, INK, PURPLE, RED, bare, label, panels
from torch import Tensor, nn
from torch.nn import functional as F

from puna.model.block import Block, PostNormBlock, PreNormBlock
from puna.model.parts import PLACEMENTS
from puna.nn import Attention, FeedForward, LayerNorm

WIDTH, BATCH, STEPS, WORDS = 128, 8, 16, 100


class Trace:
    """What flows through a block in place of a tensor: the formula so far."""

    def __init__(self, formula: str) -> None:
        self.formula = formula

    def __add__(self, other: "Trace") -> "Trace":
        return Trace(f"{self.formula} + {other.formula}")


class Named(nn.Module):
    """A part that writes its name around the formula; without a name it writes nothing."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Trace, *_: object) -> Trace:
        """name(x)."""
        return Trace(f"{self.name}({x.formula})" if self.name else x.formula)


def formula(placement: type[Block], norm: str) -> str:
    """What the block computes, in words."""
    return placement(Named("attention"), Named("mlp"), lambda: Named(norm))(Trace("x")).formula


class Diagram:
    """One block as boxes on a stream that flows upwards at `left`."""

    def __init__(
        self, axes: Axes, left: float, title: str, whole: str, *, final_norm: bool
    ) -> None:
        before, after = "attention(norm(" in whole, "norm(attention(" in whole
        on_stream, parallel = whole.startswith("norm("), "mlp(norm(x))" in whole
        self.axes, self.left = axes, left
        y = 2.0 if parallel else 0.0
        for names in [("attention", "mlp")] if parallel else [("attention",), ("mlp",)]:
            y = self.sublayer(y, names, before=before, after=after, on_stream=on_stream)
        self.arrow((0, 0), (0, 11.0))
        if final_norm:
            self.box(0, 9.8, "final norm", GREEN, width=2.1, dashed=True)
        inner = "f(norm(x))" if before else "f(x)"
        inner = f"norm({inner})" if after else inner
        text = f"norm(x + {inner})" if on_stream else f"x + {inner}"
        text = "x + f(n) + g(n)\nn = norm(x)" if parallel else text
        label(axes, left + 1.2, -0.4, text, GREY, ha="center", va="top", size=7)
        label(axes, left + 1.2, 11.8, title, ha="center", size=9, weight="bold")

    def sublayer(
        self, y: float, names: tuple[str, ...], *, before: bool, after: bool, on_stream: bool
    ) -> float:
        """One branch off the stream and back; returns where the next may begin."""
        columns = [1.95] if len(names) == 1 else [1.2, 3.2]
        middle, top = sum(columns) / len(columns), y + 3.9
        words = {"mlp": "feed-forward" if len(names) == 1 else "feed-\nforward"}
        half = 0.31 if len(names) == 1 else 0.55
        for column, name in zip(columns, names, strict=True):
            self.box(
                column,
                y + 2.1,
                words.get(name, name),
                BLUE,
                2.6 if len(names) == 1 else 1.85,
                2 * half,
            )
            self.line((middle, y + (1.3 if before else 0.3)), (column, y + 2.1 - half))
            self.line((column, y + 2.1 + half), (column, y + 2.9 if after else top))
        if before:
            self.line((middle, y + 0.3), (middle, y + 0.7))
            self.box(middle, y + 1.0, "norm", GREEN)
        if after:
            self.line((middle, y + 3.5), (middle, top))
            self.box(middle, y + 3.2, "norm", GREEN)
        self.line((0, y + 0.3), (middle, y + 0.3))
        self.arrow((max(columns), top), (0.25, top))
        self.axes.plot(
            self.left,
            top,
            "o",
            markersize=7.5,
            markerfacecolor="white",
            markeredgecolor=INK,
            markeredgewidth=0.9,
            zorder=4,
        )
        self.axes.plot(
            self.left, top, "+", markersize=4.5, color=INK, markeredgewidth=0.9, zorder=5
        )
        if on_stream:
            self.box(0, top + 0.75, "norm", GREEN)
        return top + (1.1 if on_stream else 0.45)

    def box(
        self,
        x: float,
        y: float,
        text: str,
        colour: str,
        width: float = 1.5,
        height: float = 0.62,
        *,
        dashed: bool = False,
    ) -> None:
        """A part."""
        corner = (self.left + x - width / 2, y - height / 2)
        style = {
            "facecolor": "white",
            "edgecolor": colour,
            "linewidth": 1.1,
            "linestyle": (0, (2, 1.5)) if dashed else "-",
        }
        self.axes.add_patch(
            FancyBboxPatch(
                corner, width, height, boxstyle="round,pad=0,rounding_size=0.15", zorder=3, **style
            )
        )
        label(
            self.axes,
            self.left + x,
            y,
            text,
            colour,
            ha="center",
            size=6.5,
            zorder=5,
            linespacing=1,
        )

    def line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """A connection."""
        self.axes.plot(
            [self.left + start[0], self.left + end[0]],
            [start[1], end[1]],
            color=INK,
            linewidth=0.9,
            zorder=2,
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """A connection with a head."""
        head = {
            "arrowstyle": "-|>,head_width=0.14,head_length=0.3",
            "color": INK,
            "linewidth": 0.9,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        self.axes.annotate(
            "",
            (self.left + end[0], end[1]),
            (self.left + start[0], start[1]),
            arrowprops=head,
            zorder=2,
        )


def diagrams() -> Figure:
    """Each placement as a diagram of one block."""
    figure, (axes,) = panels(1, 3.75)
    for column, (name, choice) in enumerate(PLACEMENTS.items()):
        placement = choice.load()
        Diagram(
            axes, 4.6 * column, name, formula(placement, "norm"), final_norm=placement.final_norm
        )
    Diagram(
        axes,
        4.6 * len(PLACEMENTS) + 0.3,
        "pre, norm: none",
        formula(PreNormBlock, ""),
        final_norm=False,
    )
    axes.set(xlim=(-1.2, 26.7), ylim=(-1.4, 12.2), aspect="equal")
    bare(axes)
    return figure


def stack(placement: type[Block], layers: int) -> nn.Sequential:
    """Blocks as the theory has them: one head, W_Q = W_K = 0, all else Xavier, ReLU, F = D,
    LayerNorm.
    """
    blocks = nn.Sequential()
    for _ in range(layers):
        attention, mlp = Attention(WIDTH, 1, 1, WIDTH), FeedForward(WIDTH, WIDTH, F.relu)
        for linear in (attention.v_proj, attention.o_proj, mlp.up_proj, mlp.down_proj):
            nn.init.xavier_normal_(linear.weight)
        for linear in (attention.q_proj, attention.k_proj):
            nn.init.zeros_(linear.weight)
        blocks.append(placement(attention, mlp, lambda: LayerNorm(WIDTH)))
    return blocks


@torch.no_grad()
def stream_sizes(placement: type[Block], layers: int) -> Tensor:
    """E|x|^2 / D of the sum after each block's feed-forward layer; for Post-norm that is what its
    last norm reads.
    """
    blocks, x = stack(placement, layers), torch.randn(BATCH, STEPS, WIDTH)
    sizes = [x.square().mean()]
    for block in blocks:
        sums: list[Tensor] = []
        if isinstance(block, PostNormBlock):
            block.post_feedforward_layernorm.register_forward_pre_hook(
                lambda _, args, sums=sums: sums.append(args[0])
            )
        x = block(x)
        sizes.append((sums or [x])[0].square().mean())
    return torch.stack(sizes)


def gradient_norms(placement: type[Block], layers: int) -> Tensor:
    """The norm of the loss's gradient for W_down of each block, through the final norm where one is
    due and an output layer.
    """
    blocks, x = stack(placement, layers), torch.randn(BATCH, STEPS, WIDTH)
    out = blocks(x)
    if placement.final_norm:
        out = LayerNorm(WIDTH)(out)
    logits = out @ torch.randn(WIDTH, WORDS) * WIDTH**-0.5
    F.cross_entropy(logits.flatten(0, 1), torch.randint(WORDS, (BATCH * STEPS,))).backward()
    return torch.stack([block.mlp.down_proj.weight.grad.norm() for block in blocks])


def mean_of(draws: int, measure: Callable[[], Tensor]) -> Tensor:
    """The average over this many draws of the weights."""
    return torch.stack([measure() for _ in range(draws)]).mean(0)


def initialisation() -> Figure:
    """The stream's size and the gradient's, for blocks that have just been made."""
    figure, (size, last, every) = panels(3, 2.9)
    deep, dashed = 24, {"color": GREY, "linewidth": 0.8, "linestyle": (0, (3, 3))}
    layers = torch.arange(deep + 1)
    for bound in (1 + 0.5 * layers, 1 + 1.5 * layers, torch.full((deep + 1,), 1.5)):
        size.plot(layers, bound, **dashed)
    for name, colour in (("pre", BLUE), ("post", RED), ("peri", PURPLE), ("reordered", GOLD)):
        size.plot(
            layers,
            mean_of(6, lambda name=name: stream_sizes(PLACEMENTS[name].load(), deep)),
            color=colour,
        )
    label(size, 9.5, 29, "peri and\nreordered", PURPLE, ha="right")
    for text, colour, y in (
        ("1 + 3l/2", GREY, 37),
        ("pre", BLUE, 30.5),
        ("1 + l/2", GREY, 13),
        ("post: 3/2", RED, 1.5),
    ):
        label(size, 24.6, y, text, colour)
    size.set(
        title="Size of the stream",
        xlabel="blocks passed, l",
        ylabel="E|x|² / D",
        xlim=(0, deep),
        ylim=(0, 50),
    )

    for name, colour in (("pre", BLUE), ("post", RED)):
        norms = {
            depth: mean_of(8, lambda name=name, d=depth: gradient_norms(PLACEMENTS[name].load(), d))
            for depth in (2, 4, 8, 16, deep)
        }
        last.loglog(
            list(norms), [of_all[-1] for of_all in norms.values()], "o-", color=colour, markersize=3
        )
        if name == "pre":
            last.loglog(
                list(norms), [norms[2][-1] * (2 / depth) ** 0.5 for depth in norms], **dashed
            )
        every.semilogy(layers[1:], norms[deep], color=colour)
    for axes in (last, every):
        axes.set(ylim=(0.1, 1.3))
        axes.set_yticks([0.1, 0.2, 0.4, 0.8], ["0.1", "0.2", "0.4", "0.8"])
        axes.yaxis.set_minor_formatter("")
        label(axes, 10, 0.97, "post", RED)
        label(axes, 10, 0.31, "pre", BLUE)
    label(last, 10.5, 0.175, "1/√L", GREY, ha="right")
    last.set(
        title="Gradient of the last block",
        xlabel="number of blocks, L",
        ylabel="gradient norm of W_down",
    )
    last.xaxis.set_minor_formatter("")
    last.set_xticks([2, 4, 8, 16, 24], ["2", "4", "8", "16", "24"])
    every.set(
        title=f"Of every block, L = {deep}",
        xlabel="block, l",
        xlim=(1, deep),
        xticks=[1, 8, 16, 24],
    )
    return figure


DRAWN = {"placements": diagrams, "placement-at-initialisation": initialisation}
