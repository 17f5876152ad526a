"""The pictures of normalization.md: what a shift of the input does to each norm, and where epsilon
takes over.
"""

import torch
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, RED, WARM_COLD, label, panels

from puna.nn import LayerNorm, RMSNorm

ROW = torch.tensor([-1.6, -0.9, -0.3, 0.3, 0.9, 1.6], dtype=torch.float64)


def shift() -> Figure:
    """The entries of norm(x + c) over c, for one row x of mean 0 and standard deviation 1."""
    row = ROW / ROW.square().mean().sqrt()
    shifts = torch.linspace(0, 8, 161, dtype=torch.float64)
    shifted = row + shifts[:, None]
    norms = {
        "LayerNorm: nothing moves": LayerNorm(len(row)).double(),
        "RMSNorm: every entry tends to 1": RMSNorm(len(row)).double(),
    }
    figure, axes = panels(2, 2.7, sharey=True)
    colours = [WARM_COLD(value) for value in (0.0, 0.1, 0.2, 0.8, 0.9, 1.0)]
    for each, (title, norm) in zip(axes, norms.items(), strict=True):
        outputs = norm(shifted).detach()
        for entry, colour in enumerate(colours):
            each.plot(shifts, outputs[:, entry], color=colour)
            each.plot(0, row[entry], "o", color=colour, markersize=3.5)
        each.set(title=title, xlabel="shift c, in standard deviations of x", xlim=(-0.15, 8))
    axes[0].set_ylabel("entries of norm(x + c)")
    return figure


def epsilon() -> Figure:
    """The size of what RMSNorm gives over the size of what it takes, for three ways to add
    epsilon.
    """
    sizes = torch.logspace(-10, 0, 201, dtype=torch.float64)
    ways = [
        ("inside the root, 1e-5: LLaMA", BLUE, RMSNorm(1, 1e-5), 3.5e-8, 4e-7),
        ("outside, 1e-5", GREEN, RMSNorm(1, 1e-5, eps_place="outside"), 3.5e-8, 2.5e-4),
        (
            "outside, 1e-8: the paper's class",
            RED,
            RMSNorm(1, 1e-8, eps_place="outside"),
            3.5e-8,
            2.2,
        ),
    ]
    figure, (axes,) = panels(1, 2.8)
    for text, colour, norm, x, y in ways:
        axes.loglog(sizes, norm.double()(sizes[:, None]).detach(), color=colour)
        label(axes, x, y, text, colour)
    for knee, text in ((1e-8, "1e-8"), (1e-5, "1e-5"), (1e-5**0.5, "√1e-5")):
        axes.plot([knee, knee], [1e-8, 0.5], color=GREY, linewidth=0.7, linestyle=(0, (3, 3)))
        label(axes, knee * 1.25, 2.2e-8, text, GREY)
    axes.set(
        xlabel="root mean square of x",
        ylabel="root mean square of norm(x)",
        xlim=(1e-10, 1),
        ylim=(1e-8, 6),
    )
    return figure


DRAWN = {"norm-shift": shift, "norm-epsilon": epsilon}
