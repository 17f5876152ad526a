"""Every named feed-forward layer against an einsum of its formula, with and without biases, and
built from linears that exist.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.nn import FeedForward, GatedFeedForward, Swish


def swish(x: Tensor, beta: float = 1.0) -> Tensor:
    return x / (1 + (-beta * x).exp())


def identity(x: Tensor) -> Tensor:
    return x


# what the layer is given, and the same written out
UNGATED = {
    "FFN_ReLU": (F.relu, lambda x: x.clamp(min=0)),
    "FFN_GELU": (F.gelu, lambda x: x * torch.special.ndtr(x)),
    "FFN_Swish": (F.silu, swish),
    "FFN_Swish, beta 2": (Swish(beta=2.0), partial(swish, beta=2.0)),
}
GATED = {
    "FFN_GLU": (torch.sigmoid, lambda x: 1 / (1 + (-x).exp())),
    "FFN_Bilinear": (identity, identity),
    "FFN_ReGLU": (F.relu, lambda x: x.clamp(min=0)),
    "FFN_GEGLU": (F.gelu, lambda x: x * torch.special.ndtr(x)),
    "FFN_SwiGLU": (F.silu, swish),
    "FFN_SwiGLU, beta 2": (Swish(beta=2.0), partial(swish, beta=2.0)),
}
Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
ungated = pytest.mark.parametrize("pair", UNGATED.values(), ids=UNGATED)
gated = pytest.mark.parametrize("pair", GATED.values(), ids=GATED)
with_and_without_biases = pytest.mark.parametrize("bias", [False, True], ids=["plain", "biased"])


def affine(x: Tensor, linear: nn.Linear) -> Tensor:
    return torch.einsum("...i,oi->...o", x, linear.weight) + (
        0 if linear.bias is None else linear.bias
    )


def reference(
    x: Tensor, layer: FeedForward | GatedFeedForward, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """FFN = act(x W + b) W2 + c, or (act(x W + b) * (x V + c)) W2 + d."""
    if isinstance(layer, FeedForward):
        return affine(activation(affine(x, layer.up_proj)), layer.down_proj)
    return affine(
        activation(affine(x, layer.gate_proj)) * affine(x, layer.up_proj), layer.down_proj
    )


def equals_its_formula_with_its_gradients(
    layer: FeedForward | GatedFeedForward, formula: Callable[[Tensor], Tensor]
) -> None:
    layer, x = layer.double(), torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    ours, theirs = layer(x), reference(x, layer, formula)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    inputs = [x, *layer.parameters()]
    gradients = zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        strict=True,
    )
    for mine, expected in gradients:
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


@ungated
@with_and_without_biases
def test_ungated_is_its_formula(pair: Pair, bias: bool) -> None:
    equals_its_formula_with_its_gradients(FeedForward(6, 10, pair[0], bias=bias), pair[1])


@gated
@with_and_without_biases
def test_gated_is_its_formula(pair: Pair, bias: bool) -> None:
    equals_its_formula_with_its_gradients(GatedFeedForward(6, 10, pair[0], bias=bias), pair[1])


@gated
def test_gated_with_zero_biases_equals_the_bias_free_form(pair: Pair) -> None:
    with_bias, without, x = (
        GatedFeedForward(6, 10, pair[0], bias=True),
        GatedFeedForward(6, 10, pair[0]),
        torch.randn(2, 3, 6),
    )
    with_bias.load_state_dict(
        {
            **{name: torch.zeros_like(p) for name, p in with_bias.state_dict().items()},
            **without.state_dict(),
        }
    )
    assert torch.equal(with_bias(x), without(x))


@ungated
def test_ungated_with_zero_biases_equals_the_bias_free_form(pair: Pair) -> None:
    with_bias, without, x = (
        FeedForward(6, 10, pair[0], bias=True),
        FeedForward(6, 10, pair[0]),
        torch.randn(2, 3, 6),
    )
    with_bias.load_state_dict(
        {
            **{name: torch.zeros_like(p) for name, p in with_bias.state_dict().items()},
            **without.state_dict(),
        }
    )
    assert torch.equal(with_bias(x), without(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_default_is_swiglu_bit_for_bit_with_its_gradients(dtype: torch.dtype) -> None:
    """The one expression that LLaMA's layer is, in whatever order the general one evaluates it."""
    layer, x = (
        GatedFeedForward(12, 20).to(dtype),
        torch.randn(2, 5, 12, dtype=dtype, requires_grad=True),
    )
    ours, expected = layer(x), layer.down_proj(F.silu(layer.gate_proj(x)) * layer.up_proj(x))
    assert torch.equal(ours, expected)
    inputs = [x, *layer.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(ours.sum(), inputs),
        torch.autograd.grad(expected.sum(), inputs),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_the_same_seed_draws_gate_up_and_down_in_that_order() -> None:
    torch.manual_seed(3)
    layer = GatedFeedForward(4, 7)
    torch.manual_seed(3)
    for linear in (layer.gate_proj, layer.up_proj, layer.down_proj):
        assert torch.equal(
            linear.weight, nn.Linear(linear.in_features, linear.out_features, bias=False).weight
        )


def test_the_gate_is_what_is_activated() -> None:
    """A gate of 0 blocks whatever the up branch says; an up branch of 0 does too, but only the gate
    saturates: silu(-z) -> 0.
    """
    layer = GatedFeedForward(1, 1)
    with torch.no_grad():
        for projection in (layer.gate_proj, layer.up_proj, layer.down_proj):
            projection.weight.fill_(1.0)
        layer.gate_proj.weight.fill_(-50.0)
    assert layer(torch.ones(1, 1, 1)).abs() < 1e-15
    with torch.no_grad():
        layer.gate_proj.weight.fill_(1.0)
        layer.up_proj.weight.fill_(-50.0)
    torch.testing.assert_close(layer(torch.ones(1, 1, 1)), torch.tensor([[[-50 * 0.7310586]]]))


def test_names_are_hugging_face_s() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    for bias in (False, True):
        theirs = LlamaMLP(
            LlamaConfig(hidden_size=4, num_attention_heads=1, intermediate_size=7, mlp_bias=bias)
        )
        ours = GatedFeedForward(4, 7, bias=bias)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 3, 4)
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "layer",
    [FeedForward(4, 8, F.gelu, bias=True), GatedFeedForward(4, 8, Swish(8, learned=True))],
    ids=["two", "three"],
)
def test_keeps_the_dtype(layer: nn.Module, dtype: torch.dtype) -> None:
    assert layer.to(dtype)(torch.randn(2, 4, dtype=dtype)).dtype == dtype
    layer.float()


def test_under_autocast_a_beta_per_channel_leaves_the_product_in_bfloat16() -> None:
    layer = GatedFeedForward(4, 8, Swish(8, learned=True))
    seen: list[torch.dtype] = []
    layer.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, 4))
    assert seen == [torch.bfloat16]


def test_an_activation_that_is_a_module_is_a_part_of_the_layer_and_learns() -> None:
    for layer in (
        FeedForward(4, 8, Swish(learned=True)),
        GatedFeedForward(4, 8, Swish(8, learned=True)),
    ):
        layer(torch.randn(2, 4)).sum().backward()
        assert "act_fn.beta" in layer.state_dict()
        assert layer.act_fn.beta.grad.abs().sum() > 0


def test_the_repr_says_which_layer_it_is() -> None:
    assert "act_fn=relu" in repr(FeedForward(4, 8, F.relu))
    assert "act_fn=silu\n" in repr(GatedFeedForward(4, 8))
    assert "approximate='tanh'" in repr(GatedFeedForward(4, 8, partial(F.gelu, approximate="tanh")))
    assert "limit=7.0, up_offset=1.0, recompute=True" in repr(
        GatedFeedForward(4, 8, limit=7.0, up_offset=1.0, recompute=True)
    )
    shown = repr(GatedFeedForward(4, 8, Swish(beta=1.702)))
    assert "(act_fn): Swish(beta=1.702)" in shown
    assert "act_fn=" not in shown


def linears(*sizes: tuple[int, int], bias: bool | tuple[bool, ...] = False) -> list[nn.Linear]:
    biases = (bias,) * len(sizes) if isinstance(bias, bool) else bias
    return [nn.Linear(*size, bias=each) for size, each in zip(sizes, biases, strict=True)]


@with_and_without_biases
def test_from_linears_is_their_formula_and_they_themselves(bias: bool) -> None:
    x = torch.randn(2, 3, 4)
    gate, up, down = linears((4, 7), (4, 7), (7, 4), bias=bias)
    before = torch.get_rng_state()
    three, two = (
        GatedFeedForward.from_linears(gate, up, down, F.gelu),
        FeedForward.from_linears(up, down, F.relu),
    )
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn
    torch.testing.assert_close(three(x), reference(x, three, F.gelu))
    torch.testing.assert_close(two(x), reference(x, two, F.relu))
    assert [p.data_ptr() for p in three.parameters()] == [
        p.data_ptr() for each in (gate, up, down) for p in each.parameters()
    ]
    assert two.up_proj is up
    assert two.down_proj is down


def test_from_linears_passes_every_option_on() -> None:
    layer = GatedFeedForward.from_linears(
        *linears((4, 7), (4, 7), (7, 4)), torch.sigmoid, limit=3.0, up_offset=0.5, recompute=True
    )
    assert (layer.act_fn, layer.limit, layer.up_offset, layer.recompute) == (
        torch.sigmoid,
        3.0,
        0.5,
        True,
    )


@pytest.mark.parametrize(
    "biases", [(True, False, False), (True, True, False), (False, False, True), (False, True, True)]
)
def test_a_bias_on_some_linears_is_rejected_not_dropped(biases: tuple[bool, ...]) -> None:
    names = " and ".join(
        name for name, each in zip(("gate", "up", "down"), biases, strict=True) if each
    )
    with pytest.raises(
        ValueError,
        match=(
            rf"of gate, up, down only {names} with a bias: give all one \(zeros will do\), or none"
        ),
    ):
        GatedFeedForward.from_linears(*linears((4, 7), (4, 7), (7, 4), bias=biases))
    if biases[1] != biases[2]:
        with pytest.raises(ValueError, match=r"of up, down only (up|down) with a bias"):
            FeedForward.from_linears(*linears((4, 7), (7, 4), bias=biases[1:]), F.relu)


@pytest.mark.parametrize(
    "sizes",
    [
        ((4, 7), (4, 8), (7, 4)),
        ((4, 7), (4, 7), (8, 4)),
        ((4, 7), (4, 7), (7, 5)),
        ((5, 7), (4, 7), (7, 4)),
    ],
)
def test_linears_that_do_not_fit_are_rejected(sizes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(
        ValueError, match=r"gate . -> 7, up 4 -> ., down . -> .: down must lead back from F to D"
    ):
        GatedFeedForward.from_linears(*linears(*sizes))


def test_one_linear_as_up_and_down_is_rejected() -> None:
    (up,) = linears((4, 7))
    with pytest.raises(ValueError, match="up 4 -> 7, down 4 -> 7: down must lead back"):
        FeedForward.from_linears(up, up, F.relu)


def test_meta_device_makes_no_memory_and_forward_still_gives_the_shape() -> None:
    with torch.device("meta"):
        layers = [
            FeedForward(4, 8, F.relu),
            GatedFeedForward(4, 8, Swish(8, learned=True)),
            GatedFeedForward(4, 8, recompute=True),
        ]
        assert all(layer(torch.empty(2, 3, 4)).shape == (2, 3, 4) for layer in layers)
    assert all(p.is_meta for layer in layers for p in layer.parameters())
