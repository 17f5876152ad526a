"""Measurements inside a decoder on one batch: sizes of activations and gradients, dead units,
gates, how sharp attention is.

A probe takes a `Transformer` and ids [B, T] and returns numbers by name; a list has one entry a
layer unless it says otherwise. It leaves the model as it was: hooks come off whatever happens;
weights, `.grad` and the training mode are not touched. A new probe is a function and a line in
`PROBES`.

Not here: when to probe, and what is good. Each costs one forward pass without gradients,
`gradient_norms` a backward pass as well; the pass runs under the caller's autocast, statistics are
float32 or wider. Under `torch.inference_mode` no gradient can be taken.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from puna.model.block import Block, PeriNormBlock, ReorderedNormBlock
from puna.model.transformer import Transformer
from puna.nn.attention import Attention, attention_scores
from puna.nn.feed_forward import GatedFeedForward
from puna.nn.loss import linear_cross_entropy

Probe = Callable[[Transformer, Int[Tensor, "B T"]], dict[str, float | list[float]]]
Reading = TypeVar("Reading")

# feed-forward layers whose closed units are exactly 0
EXACT_ZEROS = frozenset({"relu", "relu2", "reglu"})
# of the layer's rms: what a unit of any other must stay within on the whole batch to count as dead
DEAD = 1e-3
CLOSED = 0.1  # of the rms of the layer's gates: what a gate must stay within to count as near 0
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def activation_norms(model: Transformer, ids: Int[Tensor, "B T"]) -> dict[str, float | list[float]]:
    """rms(x) = sqrt(mean(x^2)) over the batch, the positions and the width D, by layer.

    residual: the stream as the block leaves it; attention, feed_forward: what each sublayer adds to
    it, after the norm where the placement has one on the way (peri, reordered). Under Pre-norm the
    stream grows with depth, and a layer whose addition is small beside it does little; under
    Post-norm the stream's rms is that of the norm's weights, so only the additions say anything.

    Source: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, section 3
    (how the stream grows). Usual mistake: comparing it with a mean of the positions' norms: an
    outlier rules the mean of squares and hardly shows in that of norms.
    """
    blocks = _blocks(model)
    added = [_added(block) for block in blocks]
    modules = [
        *blocks,
        *(attention for attention, _ in added),
        *(feed_forward for _, feed_forward in added),
    ]
    rms = observe(model, ids, modules, lambda _module, _inputs, output: float(_rms(output)))
    count = len(blocks)
    return {
        "residual": rms[:count],
        "attention": rms[count : 2 * count],
        "feed_forward": rms[2 * count :],
    }


def gradient_norms(model: Transformer, ids: Int[Tensor, "B T"]) -> dict[str, float | list[float]]:
    """sqrt(sum of g^2), g the gradient of the mean next-token cross entropy of the batch (T - 1
    targets a row), by layer.

    block: over all the layer's parameters; up_proj, down_proj and, where there is one, gate_proj:
    each feed-forward matrix by itself. The last entry is the last layer's: large at the start under
    Post-norm at any depth, and falling like 1/sqrt(L) under Pre-norm, which is why the first needs
    a warm-up.

    Source: Xiong et al. 2020, section 3.3, theorem 1 and figure 3. Usual mistake: reading `.grad`,
    which holds a clipped or a half-accumulated gradient, or that of another batch.
    """
    if ids.shape[1] < 2:
        raise ValueError(
            f"{ids.shape[1]} id a row has no next token to predict: give rows of 2 or more"
        )
    parameters = dict(model.layers.named_parameters())
    with torch.enable_grad():
        loss = (
            linear_cross_entropy(model.hidden_states(ids[:, :-1]), model.output_weight, ids[:, 1:])
            / ids[:, 1:].numel()
        )
        gradients = torch.autograd.grad(loss, list(parameters.values()))
    norms = {
        name: float(torch.linalg.vector_norm(_wide(g)))
        for name, g in zip(parameters, gradients, strict=True)
    }
    layers = range(len(model.layers))
    # the norm of a layer is the root of the sum of its parameters' squared norms
    whole = [
        math.hypot(*(norm for name, norm in norms.items() if name.startswith(f"{layer}.")))
        for layer in layers
    ]
    by_layer: dict[str, float | list[float]] = {"block": whole}
    for matrix in ("gate_proj", "up_proj", "down_proj"):
        if f"0.mlp.{matrix}.weight" in norms:
            by_layer[matrix] = [norms[f"{layer}.mlp.{matrix}.weight"] for layer in layers]
    return by_layer


def dead_units(model: Transformer, ids: Int[Tensor, "B T"]) -> dict[str, float | list[float]]:
    """The share of the F feed-forward units that pass nothing on at any position of the batch, by
    layer.

    A unit is h_f, the input of W_down: act(z), or gate times value in a gated layer. With ReLU,
    ReLU^2 and ReGLU, dead is h_f = 0 at every position, so z <= 0: no gradient reaches the unit
    either. Smooth activations have no such end; there dead is |h_f| <= 0.001 rms(h) at every
    position, and the gradient is small, not absent. The share falls as the batch grows: compare
    equal batches.

    Source: Lu et al. 2019, Dying ReLU and Initialization: Theory and Numerical Examples. Usual
    mistake: counting zeros, which is how sparse a layer is: half of all ReLU outputs are 0 at the
    start and no unit is dead.
    """
    tolerance = 0.0 if model.config.feed_forward in EXACT_ZEROS else DEAD

    def share(_module: nn.Module, inputs: tuple[Any, ...], _output: Tensor) -> float:
        # [B * T, F]: a unit is dead if its largest magnitude over all positions is
        hidden = _wide(inputs[0]).abs().flatten(0, -2)
        return _share(hidden.amax(0) <= tolerance * _rms(hidden))

    return {
        "share": observe(
            model, ids, [block.mlp.get_submodule("down_proj") for block in _blocks(model)], share
        )
    }


def gate_statistics(model: Transformer, ids: Int[Tensor, "B T"]) -> dict[str, float | list[float]]:
    """Of the activated gates act(x W_gate), all positions and units together: mean, quantiles, and
    the share near 0, by layer.

    q05 ... q95 are the quantiles; near_zero is the share with |gate| <= 0.1 rms(gate), which lets
    next to nothing of the value through. A sigmoid's gates lie between 0 and 1, ReLU's start at 0,
    the others' have both signs. Empty for a layer without a gate.

    Source: the gate of Shazeer 2020, GLU Variants Improve Transformer, equation 6.
    Usual mistake: the statistics of x W_gate, before the activation.
    """
    layers = [block.mlp for block in _blocks(model) if isinstance(block.mlp, GatedFeedForward)]
    if not layers:
        return {}
    owners: dict[nn.Module, GatedFeedForward] = {layer.gate_proj: layer for layer in layers}

    def statistics(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> list[float]:
        layer = owners[module]
        gate = _wide(layer.act_fn(output if layer.limit is None else output.clamp(max=layer.limit)))
        near_zero = _share(gate.abs() <= CLOSED * _rms(gate))
        # torch's stops at 16 million entries
        quantiles = np.quantile(gate.cpu().numpy(), QUANTILES)
        return [float(gate.mean()), near_zero, *quantiles.tolist()]

    names = ["mean", "near_zero", *(f"q{100 * q:02.0f}" for q in QUANTILES)]
    found = observe(model, ids, [layer.gate_proj for layer in layers], statistics)
    return {
        name: list(by_layer) for name, by_layer in zip(names, zip(*found, strict=True), strict=True)
    }


def attention_entropy(
    model: Transformer, ids: Int[Tensor, "B T"]
) -> dict[str, float | list[float]]:
    """-sum_s p_s log p_s of the weights p with which a query spreads over its keys, in nats,
    averaged over batch, heads and queries.

    entropy: by layer; normalised: each query's over log(keys that it sees), so 1 is a plain average
    of the values and 0 a single key. Queries that see one key have nothing to choose and are left
    out of it. heads_of_layer_0 ...: the normalised entropy of each head, since one collapsed head
    hardly moves the mean of a layer.

    q and k are recomputed from what the layer was given and go through the plain softmax: B H T^2
    numbers at a time, where a fused kernel shows none. Mask, window and ALiBi count; the model's
    positions are 0 to T - 1. Empty for a model without attention.

    Source: Zhai et al. 2023, Stabilizing Transformer Training by Preventing Attention Entropy
    Collapse. Usual mistake: an unmasked or unnormalised mean, which mostly says how long the
    context is.
    """

    def read(
        module: nn.Module, inputs: tuple[Any, ...], _output: Tensor
    ) -> tuple[float, list[float]]:
        x, rotary, _cache, mask = inputs
        scores = attention_scores(*cast(Attention, module).queries_and_keys(x, rotary), mask)
        entropy = torch.special.entr(scores.softmax(-1)).sum(-1)
        # by each query: the same in every sequence and head
        seen = (scores[0, 0] > -torch.inf).sum(-1)
        by_head = (entropy[..., seen > 1] / seen[seen > 1].log()).mean((0, 2))
        return float(entropy.mean()), by_head.tolist()

    if model.config.attention == "none":
        return {}
    found = observe(model, ids, [block.self_attn for block in _blocks(model)], read)
    heads = {f"heads_of_layer_{layer}": by_head for layer, (_, by_head) in enumerate(found)}
    return {
        "entropy": [mean for mean, _ in found],
        "normalised": [sum(by_head) / len(by_head) for _, by_head in found],
        **heads,
    }


PROBES: Mapping[str, Probe] = MappingProxyType(
    {
        "activation_norms": activation_norms,
        "gradient_norms": gradient_norms,
        "dead_units": dead_units,
        "gate_statistics": gate_statistics,
        "attention_entropy": attention_entropy,
    }
)


def observe(
    model: Transformer,
    ids: Int[Tensor, "B T"],
    modules: Sequence[nn.Module],
    read: Callable[[nn.Module, tuple[Any, ...], Tensor], Reading],
) -> list[Reading]:
    """`read(module, inputs, output)` of each of these parts of the model, in the order given, from
    one forward pass without gradients.

    `read` runs while the pass does, so only what it returns is kept. Its hooks are gone afterwards,
    also if it or the model raises.
    """
    readings: dict[nn.Module, Reading] = {}

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        readings[module] = read(module, inputs, output)

    with ExitStack() as hooks, torch.no_grad():
        for module in modules:
            # leaving the context removes it
            hooks.enter_context(module.register_forward_hook(hook))
        model.hidden_states(ids)
    return [readings[module] for module in modules]


def _blocks(model: Transformer) -> list[Block]:
    return [cast(Block, block) for block in model.layers]


def _added(block: Block) -> tuple[nn.Module, nn.Module]:
    """The parts whose outputs a block adds to the stream, for its attention and for its
    feed-forward sublayer.
    """
    if isinstance(block, PeriNormBlock | ReorderedNormBlock):
        return block.post_attention_layernorm, block.post_feedforward_layernorm
    return block.self_attn, block.mlp


def _wide(x: Tensor) -> Tensor:
    wide: Tensor = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide


def _rms(x: Tensor) -> Tensor:
    return _wide(x).square().mean().sqrt()


def _share(condition: Tensor) -> float:
    return int(condition.count_nonzero()) / condition.numel()
