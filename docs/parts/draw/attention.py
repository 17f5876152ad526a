"""The pictures of attention.md: which heads share keys, which keys a query sees, and four-bit
weights.
"""

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from style import BLUE, GREY, INK, RED, bare, label, panels
from torch import nn

from puna.model.accounting import kv_bytes_per_token
from puna.model.config import ModelConfig
from puna.model.presets import preset
from puna.nn import Linear4bit, attention_mask
from puna.nn.quantized import LEVELS


def heads() -> Figure:
    """Eight query heads on eight, two and one key/value heads, and what a cache then holds for the
    shape of Llama 3 8B.
    """
    figure, axes = panels(3, 1.9)
    queries = 8
    for each, (title, keys) in zip(
        axes,
        (("multi-head: K = H", 8), ("grouped: 1 < K < H", 2), ("multi-query: K = 1", 1)),
        strict=True,
    ):
        for head in range(queries):
            key = head // (queries // keys)
            x = (key + 0.5) * queries / keys - 0.5
            each.plot([head, x], [1.0, 0.35], color=GREY, linewidth=0.7, zorder=1)
            corners = [(head, 1.15, BLUE)] + (
                [(x, 0.2, RED)] if head % (queries // keys) == 0 else []
            )
            for left, y, colour in corners:
                box = FancyBboxPatch(
                    (left - 0.36, y - 0.16),
                    0.72,
                    0.32,
                    boxstyle="round,pad=0,rounding_size=0.1",
                    facecolor=colour,
                    linewidth=0,
                )
                each.add_patch(box)
        config = ModelConfig.model_validate(
            {**preset("llama-3-8b"), "num_kv_heads": 32 * keys // queries if keys > 1 else 1}
        )
        size = kv_bytes_per_token(config) / 1000
        label(
            each,
            3.5,
            -0.45,
            f"H = 32, K = {config.num_kv_heads}: {size:,.0f} kB of cache a token",
            ha="center",
            size=7.5,
        )
        each.set(xlim=(-0.6, 7.6), ylim=(-0.65, 1.45))
        each.set_title(title, loc="center")
        bare(each)
    label(axes[0], -0.75, 1.15, "Q", BLUE, ha="right")
    label(axes[0], -0.75, 0.2, "K, V", RED, ha="right")
    return figure


def masks() -> Figure:
    """What each query sees: all before it, a window, its document, both, and the same window with a
    cache.
    """
    seen = 16
    documents = torch.tensor([[0] * 5 + [1] * 7 + [2] * 4])
    causal = torch.ones(1, 1, seen, seen, dtype=torch.bool).tril()
    pictures = {
        "causal": causal,
        "window 5": attention_mask(seen, seen, window=5),
        "3 documents": attention_mask(seen, seen, documents=documents),
        "both": attention_mask(seen, seen, window=5, documents=documents),
        "window, cache": attention_mask(4, seen, window=5),
    }
    figure, axes = panels(5, 1.85, sharey=True)
    for each, (title, mask) in zip(axes, pictures.items(), strict=True):
        rows = mask.shape[-2]
        whole = torch.full((seen, seen), 0.5)
        whole[seen - rows :] = mask[0, 0].float()
        each.imshow(
            whole,
            cmap=ListedColormap(["#e8ecf0", "white", BLUE]),
            vmin=0,
            vmax=1,
            interpolation="none",
        )
        between = torch.arange(0.5, seen - 1)
        each.hlines(between, -0.5, seen - 0.5, color="white", linewidth=0.6)
        each.vlines(between, -0.5, seen - 0.5, color="white", linewidth=0.6)
        each.grid(visible=False)
        each.set(xticks=[0, 5, 10, 15], yticks=[0, 5, 10, 15], xlabel="key")
        each.set_title(title, loc="center", size=8.5)
        each.spines[:].set_visible(False)
    axes[0].set_ylabel("query")
    return figure


def four_bits() -> Figure:
    """The sixteen levels of each kind under the weights that they stand for, and how many weights
    each one gets.
    """
    group = 64
    linear = nn.Linear(1024, 1024, bias=False)
    nn.init.normal_(linear.weight)
    groups = linear.weight.detach().view(-1, group)
    units = groups / groups.abs().amax(-1, keepdim=True)
    density, edges = torch.histogram(units.flatten(), bins=80, range=(-1.0, 1.0))
    density = density / units.numel() * 40  # 80 bins on a range of 2
    middles = (edges[1:] + edges[:-1]) / 2
    figure, axes = panels(2, 2.7, sharey=True)
    for each, kind in zip(axes, ("nf4", "int4"), strict=True):
        layer = Linear4bit.from_linear(linear, kind=kind, group=group)
        codes = torch.stack((layer.codes >> 4, layer.codes & 15)).flatten().int()
        shares = torch.bincount(codes, minlength=16) / codes.numel()
        levels = torch.tensor(LEVELS[kind]) / LEVELS[kind][-1]
        each.plot(middles[1:-1], 10 * density[1:-1], color=GREY, linewidth=1)
        for level, share in zip(levels.tolist(), shares.tolist(), strict=True):
            if share:
                each.plot([level, level], [0, 100 * share], color=BLUE, linewidth=2.2)
                each.plot(level, 100 * share, "o", color=BLUE, markersize=3.5)
        error = (layer.dequantize() - linear.weight).square().mean().sqrt() / linear.weight.std()
        label(each, -1.0, 15.6, f"error: {error:.3f} standard deviations", INK)
        each.set(
            title=kind,
            xlabel="weight / largest of its group of 64",
            ylim=(0, 16.5),
            xlim=(-1.06, 1.06),
            xticks=[-1, -0.5, 0, 0.5, 1],
        )
    axes[0].set_ylabel("share of the weights, %")
    label(axes[0], 0.2, 10.2, "density of the weights", GREY)
    return figure


DRAWN = {"heads": heads, "masks": masks, "four-bits": four_bits}
