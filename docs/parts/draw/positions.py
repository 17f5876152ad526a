"""The pictures of positions.md: RoPE's rotations, its bound on far scores, four scalings, ALiBi's
bias, and the sinusoidal table.
"""

from itertools import pairwise

import torch
from matplotlib.figure import Figure
from style import BLUE, GOLD, GREEN, GREY, RED, WARM_COLD, label, panels

from puna.nn import (
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    RotaryEmbedding,
    SinusoidalPositions,
    YaRNScaling,
    alibi_slopes,
    attention_mask,
    rope_frequencies,
    rotate,
)

HEAD, LONG_BASE = 128, 500_000.0


def rotations() -> Figure:
    """One vector of eight entries at positions 0 to 11: four pairs, each turned at its own
    speed.
    """
    width, seen = 8, 12
    rotary = RotaryEmbedding(width, seen)
    vector = torch.cat((torch.ones(width // 2), torch.zeros(width // 2))).expand(1, 1, seen, width)
    turned = rotate(vector, *rotary(torch.arange(seen)))[0, 0]
    figure, axes = panels(4, 2.05)
    circle = torch.linspace(0, 2 * torch.pi, 121)
    for pair, each in enumerate(axes):
        each.plot(circle.cos(), circle.sin(), color=GREY, linewidth=0.6)
        for position in range(seen):
            x, y = turned[position, pair], turned[position, pair + width // 2]
            shade = 0.25 + 0.75 * position / (seen - 1)
            each.plot([0, x], [0, y], color=BLUE, linewidth=0.8, alpha=0.5 * shade)
            each.plot(x, y, "o", color=BLUE, markersize=4, alpha=shade)
            if pair == 0 and position < 7:
                label(each, 1.2 * x, 1.2 * y, str(position), GREY, ha="center", size=7)
        each.set_title(f"pair {pair}", loc="center", pad=2)
        each.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", xticks=[], yticks=[])
        each.set_xlabel(f"θ = {rotary.frequencies[pair]:g} radian a position", fontsize=7.5)
        for spine in each.spines.values():
            spine.set_visible(False)
    for each, y in ((axes[1], -0.3), (axes[2], -0.3), (axes[3], -0.3)):
        label(each, 0.3, y, "0 to 11", GREY, ha="center", size=7)
    return figure


def decay() -> Figure:
    """RoFormer's bound on the size of a score over the distance: the mean of |S_j|, S_j = sum over
    i < j of e^(j n theta_i).
    """
    bins = torch.logspace(0, 12, 73, base=2).round().int().unique().tolist()
    figure, (near, wide) = panels(2, 2.8, sharey=True)
    for base, colour, y in ((10_000.0, BLUE, 0.14), (LONG_BASE, RED, 0.58)):
        cos, sin = (
            table[0] for table in RotaryEmbedding(HEAD, bins[-1], base)(torch.arange(bins[-1]))
        )
        sums = torch.complex(cos.double(), sin.double()).cumsum(-1)
        bound = sums.abs().mean(-1)
        near.plot(range(257), bound[:257] / bound[0], color=colour)
        wide.semilogx(
            bins[:-1],
            [bound[start:end].mean() / bound[0] for start, end in pairwise(bins)],
            color=colour,
        )
        label(near, 252, y, f"base {base:,.0f}", colour, ha="right")
    near.set(
        title="Near",
        xlabel="distance between query and key, positions",
        ylabel="bound, relative to distance 0",
    )
    near.set(xlim=(0, 256), ylim=(0, 1))
    wide.set(
        title="Far, averaged over neighbours", xlabel="distance, positions", xlim=(1, bins[-2])
    )
    wide.set_xticks([1, 8, 64, 512, 4096], ["1", "8", "64", "512", "4096"])
    return figure


def scalings() -> Figure:
    """By how much each scaling divides each frequency: head width 128, base 500,000, from 8,192
    positions to eight times as many.
    """
    frequencies = rope_frequencies(HEAD, LONG_BASE)
    factor, original = 8.0, 8192
    ways = (
        ("linear", GREY, LinearScaling(factor), (1.0, 8.35)),
        ("ntk", GREEN, NTKScaling(factor), (44.5, 3.6)),
        ("yarn", GOLD, YaRNScaling(factor, original, LONG_BASE), (25.5, 4.3)),
        ("llama3", BLUE, Llama3Scaling(factor, original_context=original), (36.1, 6.6)),
    )
    figure, (axes,) = panels(1, 2.9)
    for name, colour, scaling, position in ways:
        axes.plot(
            range(HEAD // 2),
            frequencies / scaling(frequencies),
            "." if name == "llama3" else "-",
            color=colour,
            markersize=5,
        )
        label(axes, *position, name, colour, ha="left")
    divided = frequencies / scaling(frequencies)
    kept, whole = int((divided <= 1).sum()), int((divided >= factor * (1 - 1e-6)).sum())
    ends = (
        (0, kept, f"{kept} kept"),
        (kept, HEAD // 2 - whole, f"{HEAD // 2 - whole - kept} blended"),
        (HEAD // 2 - whole, 64, f"{whole} divided"),
    )
    for start, end, text in ends:
        label(axes, (start + end - 1) / 2, 9.6, text, BLUE, ha="center")
        if start:
            axes.plot(
                [start - 0.5, start - 0.5],
                [0.8, 9.9],
                color=BLUE,
                linewidth=0.6,
                linestyle=(0, (3, 3)),
            )
    axes.set(
        xlabel="pair i: frequencies from fastest to slowest",
        ylabel="divided by",
        xlim=(-0.5, 63.5),
        ylim=(0.8, 9.9),
    )
    axes.set_yticks([1, 2, 4, 8])
    return figure


def alibi() -> Figure:
    """ALiBi's bias for eight heads, and the weight that is left of a key that would have had the
    newest one's.
    """
    slopes, steps = alibi_slopes(8), 257
    bias = attention_mask(steps, steps, slopes=slopes)[0, :, -1].flip(-1)
    figure, (added, weight) = panels(2, 2.8)
    for head in range(8):
        colour = WARM_COLD((1.0, 0.9, 0.8, 0.25, 0.2, 0.14, 0.07, 0.0)[head])
        added.plot(range(steps), bias[head], color=colour)
        weight.plot(range(steps), bias[head].exp(), color=colour)
    for head, x in ((0, 21), (1, 42), (2, 84), (3, 168)):
        label(added, x + 2.5, -10.4, f"1/{2 ** (head + 1)}", GREY, size=7.5)
    for head in (4, 5, 6, 7):
        label(added, 259, bias[head, -1], f"1/{2 ** (head + 1)}", GREY, size=7.5)
    for head in (5, 6, 7):
        label(weight, 259, bias[head, -1].exp(), f"1/{2 ** (head + 1)}", GREY, size=7.5)
    added.set(
        title="Added to the score",
        xlabel="distance, positions",
        ylabel="-slope · distance",
        xlim=(0, 256),
        ylim=(-11, 0),
    )
    weight.set(
        title="Weight that is left",
        xlabel="distance, positions",
        ylabel="exp(-slope · distance)",
        xlim=(0, 256),
        ylim=(0, 1),
    )
    return figure


def sinusoids() -> Figure:
    """The table that is added to the embeddings."""
    table = SinusoidalPositions(128, 64)(torch.arange(128))
    figure, (axes,) = panels(1, 2.4)
    picture = axes.imshow(
        table.T,
        cmap=WARM_COLD,
        vmin=-1,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
    )
    axes.set(
        xlabel="position m",
        ylabel="entry of p_m",
        yticks=[0, 16, 32, 48, 63],
        xticks=[0, 32, 64, 96, 127],
    )
    axes.grid(visible=False)
    figure.colorbar(picture, ax=axes, aspect=14, ticks=[-1, 0, 1]).outline.set_linewidth(0.5)
    return figure


DRAWN = {
    "rope-rotations": rotations,
    "rope-decay": decay,
    "rope-scalings": scalings,
    "alibi": alibi,
    "sinusoids": sinusoids,
}
