"""Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, with the blocks that
the model is built of.

The setting of the paper's section 3: one head, W_Q = W_K = 0, so that position t takes the mean of
its values so far; W_V as all of attention (W_O is the identity); a feed-forward layer relu(x W1) W2
without biases, both matrices D x D; every matrix Xavier's normal, of variance 2 / (inputs +
outputs); x_0 ~ N(0, I). Expectations are means over models and tokens, so tolerances are those of
samples.

Written q = E|x|^2 / D. A sublayer with an input of q = 1 gives attention of q = 1 at the first
position (its own value) and less later (a mean of values), and a feed-forward of q = 1/2 (the ReLU
cuts half of a symmetric distribution: the paper's lemma 1). What it adds is uncorrelated with the
stream, because its last matrix has mean 0: squares of lengths add up. All figures below follow.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.model.config import ModelConfig
from puna.model.parts import PLACEMENTS
from puna.model.transformer import Transformer, build_transformer

Watch = Callable[[Transformer], Iterable[nn.Module]]

NORMS = ("layernorm", "rmsnorm")
DEPTHS = (2, 4, 8, 16)


def at_initialisation(
    placement: str,
    layers: int,
    *,
    models: int = 6,
    width: int = 128,
    gain: float = 1.0,
    **changes: Any,
) -> Iterator[Transformer]:
    """The paper's model with V = D, again and again with new weights; gain multiplies W_V, W1 and
    W2.
    """
    shape = {
        "vocab_size": width,
        "width": width,
        "num_layers": layers,
        "num_heads": 1,
        "context_length": width,
        "position": "none",
    }
    parts = {
        "norm": "layernorm",
        "norm_eps": None if changes.get("norm") == "none" else 1e-12,
        "placement": placement,
        "feed_forward": "relu",
        "feed_forward_width": width,
    }
    model = build_transformer(ModelConfig.model_validate({**shape, **parts, **changes}))
    for _ in range(models):
        draw(model, gain)
        yield model


@torch.no_grad()
def draw(model: Transformer, gain: float) -> None:
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name:
            parameter.normal_()
        elif "q_proj" in name or "k_proj" in name:
            parameter.zero_()
        elif "o_proj" in name:
            nn.init.eye_(parameter)
        elif "lm_head" in name:
            nn.init.xavier_normal_(parameter)
        elif parameter.ndim == 2:
            nn.init.xavier_normal_(parameter, gain)
        else:
            parameter.fill_(float(name.endswith("weight")))  # of a norm: weight 1, bias 0


def sequences(model: Transformer, count: int, steps: int) -> Tensor:
    """[count, steps] ids; no sequence has one twice, so that its x_0 are independent."""
    return torch.stack([torch.randperm(model.config.vocab_size)[:steps] for _ in range(count)])


@contextmanager
def watched(modules: Iterable[nn.Module]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The first input of each module and its output, in the order in which the model runs them."""
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda _module, inputs, output: seen.append((inputs[0], output))
        )
        for module in modules
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def mean_squares(
    models: Iterable[Transformer], steps: int, watch: Watch, *, count: int = 256
) -> tuple[Tensor, Tensor]:
    """q of the inputs and q of the outputs of what `watch(model)` names, each [modules, steps]:
    means over models and `count` sequences.
    """
    sums: list[Tensor] = []
    for model in models:
        with watched(watch(model)) as seen:
            model.hidden_states(sequences(model, count, steps))
        sums.append(
            torch.stack([torch.stack([x.square().mean((0, 2)) for x in pair]) for pair in seen])
        )
    inputs, outputs = torch.stack(sums).mean(0).unbind(1)
    return inputs, outputs


def stream(model: Transformer) -> list[nn.Module]:
    """What reads x_0, x_1, ... x_L."""
    return [*model.layers, model.norm]


def causal_means_predict(layers: int, steps: int) -> Tensor:
    """q of a Pre-norm stream, [layers + 1, steps], for D -> infinity: lemma 2 with attention's
    share worked out.

    K[s, t] = E[x_s . x_t] / D. Attention adds A R A^T, where A averages and R are K's correlations;
    the feed-forward adds the kernel of a ReLU layer, (sqrt(1 - r^2) + r (pi - arccos r)) / 2 pi, at
    each correlation r (Cho & Saul 2009, Kernel Methods for Deep Learning).
    """
    averages = torch.ones(steps, steps, dtype=torch.float64).tril()
    averages /= averages.sum(1, keepdim=True)

    def correlations(kernel: Tensor) -> Tensor:
        return (kernel / torch.outer(kernel.diagonal(), kernel.diagonal()).sqrt()).clamp(-1, 1)

    kernel = torch.eye(steps, dtype=torch.float64)
    diagonals = [kernel.diagonal()]
    for _ in range(layers):
        kernel = kernel + averages @ correlations(kernel) @ averages.T
        r = correlations(kernel)
        kernel = kernel + ((1 - r * r).sqrt() + r * (math.pi - r.arccos())) / (2 * math.pi)
        diagonals.append(kernel.diagonal())
    return torch.stack(diagonals)


@pytest.mark.parametrize("norm", NORMS)
def test_a_feed_forward_layer_halves_the_mean_square_of_a_normalised_input(norm: str) -> None:
    """Lemma 1: E|relu(X)|^2 = D / 2 for X ~ N(0, I); W1 and W2 keep expected squares."""
    _, given = mean_squares(
        at_initialisation("pre", 4, norm=norm),
        2,
        lambda model: [block.mlp for block in model.layers],
    )
    assert given.mean() == pytest.approx(0.5, rel=0.04)


@pytest.mark.parametrize("norm", NORMS)
def test_post_norm_meets_its_last_norm_with_three_halves_in_every_block(norm: str) -> None:
    """Lemma 2: E|x_(l,5)|^2 = 3 D / 2 for every layer l and every position: 1 from the norm before,
    1/2 from the feed-forward.
    """
    models = at_initialisation("post", 8, models=12, norm=norm)
    q, _ = mean_squares(
        models,
        8,
        lambda model: [block.post_feedforward_layernorm for block in model.layers],
        count=64,
    )
    assert q.shape == (8, 8)
    assert (q / 1.5 - 1).abs().max() < 0.08
    assert q.mean() == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_pre_norm_lies_between_its_bounds_at_every_depth_and_position(norm: str) -> None:
    """Lemma 2: (1 + l/2) D <= E|x_l|^2 <= (1 + 3 l/2) D, by attention's share of 0 to 1 a layer.

    The first position sees only itself and is at the upper bound; where each later one stands,
    `causal_means_predict` says.
    """
    q, _ = mean_squares(at_initialisation("pre", 8, models=10, norm=norm), 24, stream, count=24)
    depth = torch.arange(9)[:, None]
    assert (q > 0.95 * (1 + depth / 2)).all()
    assert (q < 1.05 * (1 + 3 * depth / 2)).all()
    torch.testing.assert_close(q[:, 0], 1 + 3 * torch.arange(9) / 2, rtol=0.07, atol=0)
    torch.testing.assert_close(q.double(), causal_means_predict(8, 24), rtol=0.07, atol=0)


def test_the_prediction_itself_keeps_the_bounds() -> None:
    q, depth = causal_means_predict(64, 64), torch.arange(65)[:, None]
    assert (q >= 1 + depth / 2 - 1e-9).all()
    assert (q <= 1 + 3 * depth / 2 + 1e-9).all()
    # 64 independent values have a mean of q = 1/64
    assert q[1, -1] == pytest.approx(1.5, abs=1 / 64 + 1e-9)


@pytest.mark.parametrize("gain", [0.5, 2.0])
@pytest.mark.parametrize("placement", ["pre", "parallel"])
def test_the_stream_of_rms_norm_grows_by_the_same_at_every_layer(
    placement: str, gain: float
) -> None:
    """With matrices scaled by c, a layer adds c^2 (attention) and c^4 / 2 (feed-forward) at the
    first position: linear in depth.
    """
    q, _ = mean_squares(at_initialisation(placement, 8, gain=gain, norm="rmsnorm"), 1, stream)
    torch.testing.assert_close(
        q[:, 0], 1 + torch.arange(9) * (gain**2 + gain**4 / 2), rtol=0.08, atol=0
    )


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_without_norms_the_stream_grows_by_the_same_factor_at_every_layer(gain: float) -> None:
    """x + x c W_V and x + relu(x c W1) c W2 scale with x: E|x_l|^2 = ((1 + c^2) (1 + c^4 / 2))^l D,
    exponential in depth.

    The sample errors of 8 layers multiply too, so the logarithm is what is compared.
    """
    q, _ = mean_squares(at_initialisation("pre", 8, gain=gain, norm="none"), 1, stream)
    expected = torch.arange(9) * math.log((1 + gain**2) * (1 + gain**4 / 2))
    torch.testing.assert_close(q[:, 0].log(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("placement", ["peri", "reordered"])
def test_a_norm_on_the_output_bounds_what_a_sublayer_adds_however_large_its_matrices(
    placement: str, norm: str, gain: float
) -> None:
    """What is added has a root mean square of 1 with unit weights, so E|x_l|^2 = (1 + 2 l) D for
    any gain.
    """

    def adding(model: Transformer) -> list[nn.Module]:
        return [
            norm
            for block in model.layers
            for norm in (block.post_attention_layernorm, block.post_feedforward_layernorm)
        ]

    _, added = mean_squares(
        at_initialisation(placement, 6, models=1, gain=gain, norm=norm), 4, adding
    )
    torch.testing.assert_close(added, torch.ones(12, 4), rtol=1e-4, atol=0)
    q, _ = mean_squares(
        at_initialisation(placement, 6, models=4, gain=gain, norm=norm), 4, stream, count=64
    )
    torch.testing.assert_close(
        q, (1 + 2 * torch.arange(7.0))[:, None].expand(7, 4), rtol=0.1, atol=0
    )


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_hidden_states_end_normalised_by_a_final_norm_where_the_last_block_leaves_them_raw(
    placement: str,
) -> None:
    """Only a Post-norm block ends in its own norm: there the final one is the identity, for all
    others it is the model's norm.
    """
    (model,) = at_initialisation(placement, 3, models=1, gain=2.0)
    raw, final = mean_squares([model], 4, lambda model: [model.norm])
    torch.testing.assert_close(final, torch.ones(1, 4), rtol=1e-4, atol=0)
    assert isinstance(model.norm, nn.Identity) == (placement == "post")
    assert PLACEMENTS[placement].load().final_norm == (placement != "post")
    assert torch.equal(raw, final) if placement == "post" else (raw > 4).all()


def gradient_norms(
    placement: str, layers: int, *, steps: int, models: int = 6, width: int = 64, **changes: Any
) -> Tensor:
    """|d loss / d W2| of every layer, [L], for the cross entropy at the last position: root mean
    square over models and 12 sequences.

    The gradient of one sequence is the sum of h_t g_t^T over its positions, with W2's inputs h and
    the gradients g of its outputs.
    """
    squares = []
    for model in at_initialisation(placement, layers, models=models, width=width, **changes):
        with watched(block.mlp.down_proj for block in model.layers) as seen:
            loss = F.cross_entropy(
                model(sequences(model, 12, steps))[:, -1],
                torch.randint(width, (12,)),
                reduction="sum",
            )
        gradients = torch.autograd.grad(loss, [output for _, output in seen])
        pairs = [(h, g) for (h, _), g in zip(seen, gradients, strict=True)]
        squares.append(
            torch.stack(
                [torch.einsum("bth,btd->bhd", h, g).square().sum((1, 2)).mean() for h, g in pairs]
            )
        )
    return torch.stack(squares).mean(0).detach().sqrt()


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """a of the best y ~ x^a."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


@pytest.mark.parametrize(("placement", "expected"), [("post", 0.0), ("pre", -0.5)])
@pytest.mark.parametrize("norm", NORMS)
def test_the_last_gradient_is_flat_in_depth_for_post_norm_and_falls_like_its_root_for_pre_norm(
    norm: str, placement: str, expected: float
) -> None:
    """Theorem 1: |d loss / d W_(2,L)| is O(D sqrt(ln D)) for Post-LN and O(D sqrt(ln D / L)) for
    Pre-LN.

    The last norm divides the gradient by the length of what it is given: sqrt(3 D / 2) or, lemma 2,
    sqrt of O(L D).
    """
    last = [gradient_norms(placement, depth, steps=8, norm=norm)[-1].item() for depth in DEPTHS]
    assert exponent(DEPTHS, last) == pytest.approx(expected, abs=0.12)


@pytest.mark.parametrize(("width", "layers"), [(64, 1), (64, 6), (128, 3), (256, 2)])
def test_the_last_gradient_is_far_below_the_bound_and_grows_like_the_root_of_the_width(
    width: int, layers: int
) -> None:
    """What the O of theorem 1 comes to at V = D and the first position: sqrt(D / 3), and sqrt(D /
    (2 + 3 L)).

    |d loss / d W2| = |h| |g|: relu gives |h|^2 = D / 2; the output layer gives its row of the
    target, of length 1 (the other rows nearly cancel); the norm divides by the root of q, 3/2 or 1
    + 3 L/2. The paper's D sqrt(ln D) allows for the largest entry instead.
    """
    post, pre = (
        gradient_norms(placement, layers, steps=1, models=12, width=width)[-1].item()
        for placement in ("post", "pre")
    )
    assert post == pytest.approx((width / 3) ** 0.5, rel=0.1)
    assert pre == pytest.approx((width / (2 + 3 * layers)) ** 0.5, rel=0.1)
    assert post < 0.1 * width * math.log(width) ** 0.5


def test_a_layers_gradient_depends_on_its_own_depth_in_pre_norm_and_on_none_in_post_norm() -> None:
    """Backwards, a Pre-norm sublayer multiplies the squared gradient by q_out / q_in as it does the
    stream forwards: layer l of any model has the gradient of the last one of a model of l layers,
    (l + 2/3)^(-1/2). A Post-norm block multiplies by as much as its norms divide.
    """
    depths = [layer + 2 / 3 for layer in range(1, 9)]
    pre, post = (
        gradient_norms(placement, 8, steps=1, models=12, width=128).tolist()
        for placement in ("pre", "post")
    )
    assert exponent(depths, pre) == pytest.approx(-0.5, abs=0.12)
    assert exponent(depths, post) == pytest.approx(0, abs=0.12)
