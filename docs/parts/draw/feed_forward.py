"""The pictures of feed-forward.md: the activations with their slopes, Swish between x/2 and ReLU,
and what a gate lets pass.
"""

import torch
from matplotlib.figure import Figure
from style import BLUE, GOLD, GREEN, GREY, INK, PURPLE, RED, WARM_COLD, label, panels
from torch.nn import functional as F

from puna.model.builders import build_activation
from puna.model.config import ModelConfig
from puna.model.parts import GATED, UNGATED
from puna.nn import Swish
from puna.nn.feed_forward import Activation


def activation(name: str) -> Activation:
    """The activation of the feed-forward layer of this name."""
    shape = {"vocab_size": 8, "width": 8, "num_layers": 1, "num_heads": 1}
    return build_activation(ModelConfig.model_validate({**shape, "feed_forward": name}))


def activations() -> Figure:
    """The four ungated activations and their derivatives."""
    x = torch.linspace(-3.5, 2.2, 229, dtype=torch.float64, requires_grad=True)
    figure, (value, slope) = panels(2, 2.9)
    styles = {
        "relu": (RED, (1.52, 2.05), (1.75, 0.9)),
        "relu2": (GOLD, (0.72, 1.75), (0.3, 1.75)),
        "gelu": (GREEN, (-1.15, -0.34), (1.15, 1.28)),
        "swish": (BLUE, (-3.3, -0.29), (-3.3, -0.19)),
    }
    for name in UNGATED:
        colour, *positions = styles[name]
        y = activation(name)(x)
        (derivative,) = torch.autograd.grad(y.sum(), x)
        for axes, values, position in zip((value, slope), (y, derivative), positions, strict=True):
            axes.plot(x.detach(), values.detach(), color=colour)
            label(axes, *position, name, colour)
    for axes in (value, slope):
        label(axes, -3.4, 0.09, "relu, relu2", GREY)
    value.set(title="f(x)", xlabel="x", xlim=(-3.5, 2.2), ylim=(-0.5, 2.2))
    slope.set(
        title="df/dx: what a gradient is multiplied by",
        xlabel="x",
        xlim=(-3.5, 2.2),
        ylim=(-0.3, 2.2),
    )
    return figure


def swish() -> Figure:
    """Swish for several beta, and its largest distance from ReLU."""
    x = torch.linspace(-4, 2, 301, dtype=torch.float64)
    figure, (curves, distance) = panels(2, 2.9, width_ratios=[1.35, 1])
    styles = (
        (0.0, GOLD, (-2.0, -1.3)),
        (0.5, PURPLE, (-3.9, -0.67)),
        (1.0, BLUE, (-3.9, -0.29)),
        (5.0, GREEN, (-1.5, 0.13)),
    )
    for beta, colour, position in styles:
        curves.plot(x, Swish(beta=beta)(x), color=colour)
        label(
            curves,
            *position,
            {0.0: "β = 0: x/2", 1.0: "β = 1: SiLU"}.get(beta, f"β = {beta:g}"),
            colour,
        )
    curves.plot(x, F.relu(x), color=INK, linewidth=1, linestyle=(0, (4, 2)))
    label(curves, 0.75, 1.5, "ReLU: β → ∞", ha="right")
    curves.set(title="x · sigmoid(βx)", xlabel="x", xlim=(-4, 2), ylim=(-1.6, 2))

    wide = torch.linspace(-60, 60, 120001, dtype=torch.float64)
    betas = torch.logspace(-1, 2, 13, dtype=torch.float64)
    far = torch.stack(
        [(F.relu(wide) - Swish(beta=beta)(wide)).abs().max() for beta in betas.tolist()]
    )
    distance.loglog(betas, 0.2785 / betas, color=GREY, linewidth=0.8, linestyle=(0, (3, 3)))
    distance.loglog(betas, far, "o", color=BLUE, markersize=3.5)
    label(distance, 2.2, 0.32, "0.2785 / β", GREY)
    distance.set(title="Largest distance from ReLU", xlabel="β", ylabel="max |swish - relu|")
    return figure


def gates() -> Figure:
    """act(g) * u over the gate's input g and the value u, for each gated layer."""
    points = torch.linspace(-3, 3, 61)
    figure, axes = panels(5, 1.85, sharey=True)
    for each, name in zip(axes, GATED, strict=True):
        product = activation(name)(points)[None, :] * points[:, None]
        extent = (-3, 3, -3, 3)
        picture = each.imshow(
            product,
            cmap=WARM_COLD,
            vmin=-6,
            vmax=6,
            origin="lower",
            extent=extent,
            interpolation="none",
        )
        each.contour(
            points,
            points,
            product,
            levels=[-4, -2, -1, 1, 2, 4],
            colors=GREY,
            linewidths=0.5,
            linestyles="-",
        )
        each.set(title=name, xlabel="gate, g", xticks=[-3, 0, 3], yticks=[-3, 0, 3])
        each.grid(visible=False)
    axes[0].set_ylabel("value, u")
    figure.colorbar(
        picture, ax=axes, shrink=0.62, aspect=11, ticks=[-6, 0, 6], label="act(g) · u"
    ).outline.set_linewidth(0.5)
    return figure


DRAWN = {"activations": activations, "swish": swish, "gates": gates}
