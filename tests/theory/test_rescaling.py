"""Which matrices of a model can be rescaled against each other, to the last digit, and which
cannot.

Two tables, of invariances and of what only looks like one. An entry has the parts of the model and
an exponent a parameter: all are multiplied by c^exponent, for every layer. If f(theta) = f(S theta)
for a diagonal S, then differentiating gives the gradients' law grad f(theta) = S grad f(S theta): a
matrix that may grow alone (exponent 1) has a gradient of 1/c where it has grown to c W, so that it
learns less the larger it is; and differentiating by c at c = 1 gives sum_p exponent_p <p, grad p> =
0.

Everything in float64, every parameter random (norms' weights and biases too), and epsilon 1e-30,
since a norm is scale invariant for eps -> 0 alone.
"""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer

# by a part of the parameter's dotted name; the first entry that fits counts
Exponents = dict[str, float]
Entry = tuple[dict[str, Any], Exponents]

NORMS: dict[str, dict[str, Any]] = {
    "rmsnorm": {"norm": "rmsnorm"},
    "rmsnorm, eps outside": {"norm": "rmsnorm", "norm_eps_place": "outside", "norm_bias": True},
    "layernorm": {"norm": "layernorm"},
    "prmsnorm": {"norm": "prmsnorm", "norm_fraction": 0.5},
    "scalenorm": {"norm": "scalenorm"},
}
STREAM: Exponents = {"embed_tokens": 1, "o_proj": 1, "down_proj": 1}
WRITTEN: Exponents = {
    "embed_tokens": 1,
    "post_attention_layernorm": 1,
    "post_feedforward_layernorm": 1,
}

INVARIANT: dict[str, Entry] = {
    # relu(c z) = c relu(z) for c > 0, and the square of it c^2; a bias belongs to its summed input
    "relu": ({"feed_forward": "relu"}, {"up_proj": 1, "down_proj": -1}),
    "relu with biases": (
        {"feed_forward": "relu", "feed_forward_bias": True},
        {"up_proj": 1, "down_proj.weight": -1},
    ),
    "relu2": ({"feed_forward": "relu2"}, {"up_proj": 1, "down_proj": -2}),
    "reglu, its gate": ({"feed_forward": "reglu"}, {"gate_proj": 1, "down_proj": -1}),
    "bilinear, its gate": ({"feed_forward": "bilinear"}, {"gate_proj": 1, "down_proj": -1}),
    "reglu, gate against up": ({"feed_forward": "reglu"}, {"gate_proj": 1, "up_proj": -1}),
    # every gated layer is linear in x W_up
    **{
        f"{name}, its up": ({"feed_forward": name}, {"up_proj": 1, "down_proj": -1})
        for name in ("glu", "bilinear", "reglu", "geglu", "swiglu")
    },
    # swish(c z, beta / c) = c swish(z, beta): a learned beta gives SwiGLU the homogeneity of ReGLU
    "swiglu, its gate with beta": (
        {"swish_beta": "scalar"},
        {"gate_proj": 1, "beta": -1, "down_proj": -1},
    ),
    "swish with a beta per channel": (
        {"feed_forward": "swish", "swish_beta": "channel"},
        {"up_proj": 1, "beta": -1, "down_proj": -1},
    ),
    # attention: scores are bilinear in W_q and W_k, what is averaged is linear in W_v; rotations
    # are linear
    "queries against keys": ({}, {"q_proj": 1, "k_proj": -1}),
    "values against outputs": ({}, {"v_proj": 1, "o_proj": -1}),
    **{
        f"queries under qk-norm, {name}": ({**norm, "qk_norm": True}, {"q_proj": 1})
        for name, norm in NORMS.items()
    },
    **{
        f"keys under qk-norm, {name}": ({**norm, "qk_norm": True}, {"k_proj": 1})
        for name, norm in NORMS.items()
    },
    # a norm on a sublayer's output takes the scale of its last matrix, and of what is linear before
    # that
    **{
        f"{matrix} under {placement}": ({"placement": placement}, {matrix: 1})
        for placement in ("peri", "reordered")
        for matrix in ("v_proj", "o_proj", "up_proj", "down_proj")
    },
    # the stream by c: all that reads it is normalised, all that writes to it grows along
    **{f"stream, {name}": (norm, STREAM) for name, norm in NORMS.items()},
    "stream, parallel": ({"placement": "parallel"}, STREAM),
    "stream, peri": ({"placement": "peri", "norm": "layernorm"}, WRITTEN),
    "stream, reordered": (
        {"placement": "reordered", "qk_norm": True, "feed_forward": "reglu"},
        WRITTEN,
    ),
    "embeddings, post with qk-norm": ({"placement": "post", "qk_norm": True}, {"embed_tokens": 1}),
    # a norm's weight (and bias) against the matrices that read it
    "first norm": (
        {"norm": "layernorm"},
        {"input_layernorm": 1, "q_proj": -1, "k_proj": -1, "v_proj": -1},
    ),
    "second norm": ({}, {"post_attention_layernorm": 1, "gate_proj": -1, "up_proj": -1}),
    "final norm": ({"norm": "layernorm"}, {"norm": 1, "lm_head": -1}),
}
VARIANT: dict[str, Entry] = {
    # a gate's sigmoid, normal distribution or fixed beta has a scale of its own
    **{
        f"{name}, its gate": ({"feed_forward": name}, {"gate_proj": 1, "down_proj": -1})
        for name in ("glu", "geglu", "swiglu")
    },
    "gelu": ({"feed_forward": "gelu"}, {"up_proj": 1, "down_proj": -1}),
    "swish": ({"feed_forward": "swish"}, {"up_proj": 1, "down_proj": -1}),
    "relu2 against 1/c": ({"feed_forward": "relu2"}, {"up_proj": 1, "down_proj": -1}),
    "relu with all biases": (
        {"feed_forward": "relu", "feed_forward_bias": True},
        {"up_proj": 1, "down_proj": -1},
    ),
    # without qk-norm, or with one that does not re-scale, the scores sharpen
    "queries": ({}, {"q_proj": 1}),
    "queries under a norm that only centres": (
        {"norm": "centernorm", "qk_norm": True},
        {"q_proj": 1},
    ),
    # pre-norm normalises what a sublayer takes, not what it adds
    "o_proj under pre": ({}, {"o_proj": 1}),
    "down_proj under post": ({"placement": "post"}, {"down_proj": 1}),
    "embeddings alone": ({}, {"embed_tokens": 1}),
    "embeddings, post without qk-norm": ({"placement": "post"}, {"embed_tokens": 1}),
    "stream, centernorm": ({"norm": "centernorm"}, STREAM),
    "stream, no norm": ({"norm": "none"}, STREAM),
    "stream, reordered with swiglu": ({"placement": "reordered", "qk_norm": True}, WRITTEN),
}


def built(**changes: Any) -> Transformer:
    """Two layers with grouped queries, and a sizeable random value in every parameter."""
    shape = {
        "vocab_size": 20,
        "width": 16,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "context_length": 8,
    }
    eps = {} if changes.get("norm") in ("centernorm", "none") else {"norm_eps": 1e-30}
    model = build_transformer(
        ModelConfig.model_validate({**shape, "feed_forward_width": 24, **eps, **changes})
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5 if parameter.ndim == 2 else 0.3).add_(
                float(parameter.ndim == 1)
            )
    return model


def scales(model: Transformer, exponents: Exponents, c: float) -> dict[str, float]:
    """The factor of every parameter; all parts named in `exponents` are there."""
    fitting = {
        name: [part for part in exponents if f".{part}." in f".{name}."]
        for name in dict(model.named_parameters())
    }
    assert {part for parts in fitting.values() for part in parts} == exponents.keys()
    return {name: c ** exponents[parts[0]] if parts else 1.0 for name, parts in fitting.items()}


def logits_and_gradients(
    model: Transformer, factors: Mapping[str, Tensor | float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the model with each parameter multiplied by its factor (1 where none is given); the
    gradients are those at the multiplied ones.
    """
    ids = torch.arange(16).view(2, 8)
    parameters = {
        name: (factors.get(name, 1.0) * p).detach().requires_grad_()
        for name, p in model.named_parameters()
    }
    logits = torch.func.functional_call(model, parameters, (ids,))
    loss = (logits * torch.linspace(-1, 1, 20, dtype=torch.float64)).tanh().sum()
    return logits.detach(), dict(
        zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True)
    )


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


def assert_invariant(model: Transformer, factors: Mapping[str, Tensor | float]) -> None:
    logits, gradients = logits_and_gradients(model, {})
    scaled_logits, scaled_gradients = logits_and_gradients(model, factors)
    assert_same(scaled_logits, logits)
    for name, gradient in gradients.items():
        assert_same(factors.get(name, 1.0) * scaled_gradients[name], gradient)


@pytest.mark.parametrize("c", [0.2, 7.0])
@pytest.mark.parametrize("name", INVARIANT)
def test_an_invariance_keeps_the_logits_and_turns_the_gradients_inside_out(
    name: str, c: float
) -> None:
    """f(S theta) = f(theta) and S grad f(S theta) = grad f(theta)."""
    changes, exponents = INVARIANT[name]
    model = built(**changes)
    assert_invariant(model, scales(model, exponents, c))


@pytest.mark.parametrize("name", INVARIANT)
def test_along_an_invariance_the_gradient_has_no_part(name: str) -> None:
    """sum exponent <p, grad p> = 0, to rounding, beside the largest |p| |grad p| of its terms.

    So sum exponent |p|^2 stays as it was under gradient flow: |W_up|^2 - |W_down|^2 for ReLU (Du,
    Hu & Lee 2018, Algorithmic Regularization in Learning Deep Homogeneous Models, section 2),
    |W_q|^2 under QK-norm.
    """
    changes, exponents = INVARIANT[name]
    model = built(**changes)
    _, gradients = logits_and_gradients(model, {})
    factors = scales(model, exponents, math.e)
    terms = [
        math.log(factors[name]) * (p.detach() * gradients[name]).sum()
        for name, p in model.named_parameters()
    ]
    largest = max(
        (p.detach().norm() * gradients[name].norm()).item()
        for name, p in model.named_parameters()
        if factors[name] != 1
    )
    assert largest > 1e-3
    assert abs(sum(terms)) < 1e-9 * largest


@pytest.mark.parametrize("name", VARIANT)
def test_what_only_looks_like_an_invariance_changes_the_logits(name: str) -> None:
    changes, exponents = VARIANT[name]
    model = built(**changes)
    before, _ = logits_and_gradients(model, {})
    after, _ = logits_and_gradients(model, scales(model, exponents, 3.0))
    assert (after - before).norm() > 0.03 * before.norm()


@pytest.mark.parametrize("gate", ["bilinear", "reglu"])
def test_only_the_bilinear_layer_lets_both_branches_change_sign(gate: str) -> None:
    """(-a)(-b) = a b, where relu(-a) is not -relu(a)."""
    model = built(feed_forward=gate)
    factors = {
        name: -1.0
        for name, _ in model.named_parameters()
        if "gate_proj" in name or "up_proj" in name
    }
    if gate == "bilinear":
        assert_invariant(model, factors)
    else:
        assert (
            logits_and_gradients(model, factors)[0] - logits_and_gradients(model, {})[0]
        ).abs().max() > 0.1


def test_each_neuron_of_a_homogeneous_layer_has_a_scale_of_its_own() -> None:
    """Row f of W_up by c_f and column f of W_down by 1 / c_f."""
    model, c = built(feed_forward="relu"), torch.linspace(0.1, 9, 24, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters() if "mlp" in name]
    assert_invariant(model, {name: c[:, None] if "up_proj" in name else 1 / c for name in names})


def test_each_head_under_qk_norm_has_a_scale_of_its_own() -> None:
    """Four query heads of width 4, and two key heads."""
    model = built(qk_norm=True)
    c = torch.tensor([0.1, 0.7, 3.0, 20.0], dtype=torch.float64).repeat_interleave(4)[:, None]
    names = [name for name, _ in model.named_parameters() if "q_proj" in name or "k_proj" in name]
    assert_invariant(model, {name: c if "q_proj" in name else c[4:12] for name in names})


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_a_norm_s_weights_can_be_folded_into_the_matrices_that_read_them(norm: str) -> None:
    """W diag(g) norm_1(x) = W norm_g(x): the norm's weights (and biases) divided by g, the columns
    of its readers times g.
    """
    model = built(norm=norm)
    g = torch.linspace(0.2, 5, 16, dtype=torch.float64)
    readers = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
    factors = {name: 1 / g for name, p in model.named_parameters() if "norm" in name}
    assert len(factors) == 5 * (2 if norm == "layernorm" else 1)
    assert_invariant(
        model,
        factors
        | {
            name: g
            for name, _ in model.named_parameters()
            if any(reader in name for reader in readers)
        },
    )


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm", "centernorm"])
def test_embeddings_shifted_by_a_constant_change_nothing_where_the_norms_centre(norm: str) -> None:
    """x + a 1 in the stream of a Pre-norm model: LayerNorm is blind to it, RMSNorm is not."""
    model = built(norm=norm)
    before, _ = logits_and_gradients(model, {})
    with torch.no_grad():
        model.embed_tokens.weight += torch.linspace(-3, 3, 20, dtype=torch.float64)[:, None]
    after, _ = logits_and_gradients(model, {})
    if norm == "rmsnorm":
        assert (after - before).norm() > 0.1 * before.norm()
    else:
        assert_same(after, before)
