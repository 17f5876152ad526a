"""Four-bit weights: the published levels, the error that the docstring promises, the bytes, and
models whose layers are swapped.
"""

import gc
import weakref
from statistics import NormalDist
from typing import Any, get_args

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.nn import Linear4bit, quantize_linears
from puna.nn.quantized import LEVELS, Kind

KINDS = get_args(Kind)
# half the widest gap between neighbouring levels
HALF_GAP = {"nf4": (1 - 0.6961928009986877) / 2, "int4": 0.5}


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    linear.weight = nn.Parameter(weight)
    linear.bias = bias if bias is None else nn.Parameter(bias)
    return linear


def rounded(weight: Tensor, kind: Kind = "nf4", group: int = 64) -> Linear4bit:
    return Linear4bit.from_linear(linear_of(weight), kind=kind, group=group)


def scale_of_each_entry(layer: Linear4bit) -> Tensor:
    return layer.scales.float().repeat_interleave(layer.group, dim=1)[:, : layer.in_features]


def small_model(**changes: Any) -> Transformer:
    shape = {
        "vocab_size": 60,
        "width": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "context_length": 32,
    }
    model = build_transformer(
        ModelConfig.model_validate({**shape, "feed_forward_width": 128, **changes})
    )
    for parameter in model.parameters():
        (
            nn.init.normal_(parameter, 0.0, 0.1)
            if parameter.ndim == 2
            else nn.init.normal_(parameter, 1.0, 0.2)
        )
    return model.eval()


IDS = torch.arange(48).view(2, 24) % 60


# Levels


def test_the_nf4_levels_are_the_normal_quantiles_of_qlora() -> None:
    """Appendix E prints the values; its authors' code cuts the tail at the mean of 1 - 1/32 and 1 -
    1/30, takes 8 evenly spaced probabilities from there to (not including) 1/2 above zero and 7
    below, and divides the quantiles by the largest.
    """
    tail = 1 - (1 / 32 + 1 / 30) / 2

    def quantiles(count: int) -> list[float]:
        return [NormalDist().inv_cdf(tail + (0.5 - tail) * step / count) for step in range(count)]

    levels = sorted([*quantiles(8), 0.0, *(-value for value in quantiles(7))])
    assert LEVELS["nf4"] == pytest.approx([level / max(levels) for level in levels], abs=1e-6)
    assert len(LEVELS["nf4"]) == 16
    assert LEVELS["nf4"][7] == 0.0


def test_int4_codes_are_integers_offset_by_8() -> None:
    assert LEVELS["int4"] == tuple(range(-8, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_values_on_the_levels_survive_exactly(kind: Kind) -> None:
    levels = torch.tensor(LEVELS[kind][1:] if kind == "int4" else LEVELS[kind])
    weight = torch.stack(
        [
            0.25 * levels[torch.randperm(len(levels))[torch.arange(16) % len(levels)]],
            levels.flip(0)[torch.arange(16) // 2],
        ]
    )
    assert torch.equal(rounded(weight, kind, group=16).dequantize(), weight)


def test_a_hand_made_group() -> None:
    """max 14 gives the scale 2; -14, -3.2, 0.9, 5, 14 are then -7, -1.6, 0.45, 2.5 (a tie) and 7.
    The first of a pair is the high half.
    """
    layer = rounded(torch.tensor([[-14.0, -3.2, 0.9, 14.0]]), "int4", group=4)
    assert layer.scales.tolist() == [[2.0]]
    assert layer.codes.tolist() == [[(8 - 7) * 16 + (8 - 2), (8 + 0) * 16 + (8 + 7)]]
    assert layer.dequantize().tolist() == [[-14.0, -4.0, 0.0, 14.0]]


# Errors


@pytest.mark.parametrize("kind", KINDS)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 150),
    group=st.integers(1, 40).map(lambda half: 2 * half),
    size=st.floats(-30, 30),
    seed=st.integers(0, 1000),
)
def test_no_entry_is_off_by_more_than_half_the_widest_gap(
    kind: Kind, rows: int, columns: int, group: int, size: float, seed: int
) -> None:
    """In units of the scale as it is stored; so bfloat16's rounding of the scale costs nothing
    beyond the bound, at any magnitude.
    """
    weight = (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).pow(3) * 10**size
    )
    layer = rounded(weight, kind, group)
    error = (weight - layer.dequantize()).abs()
    assert (error <= scale_of_each_entry(layer) * HALF_GAP[kind] * (1 + 1e-5)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_is_the_largest_magnitude_within_bfloat16_s_rounding(kind: Kind) -> None:
    weight = torch.randn(5, 192)
    largest = weight.view(5, 3, 64).abs().amax(-1)
    torch.testing.assert_close(
        rounded(weight, kind).scales.float() * LEVELS[kind][-1], largest, rtol=2**-8, atol=0
    )


def test_nf4_wins_the_mean_on_normal_weights_and_int4_the_worst_case() -> None:
    weight = torch.randn(512, 1024) * 0.02
    error = {kind: (weight - rounded(weight, kind).dequantize()) / 0.02 for kind in KINDS}
    mean = {kind: error[kind].square().mean().sqrt().item() for kind in KINDS}
    assert mean == pytest.approx({"nf4": 0.092, "int4": 0.108}, rel=0.01)
    assert error["int4"].abs().max() < error["nf4"].abs().max()


def test_a_product_is_off_by_at_most_the_rounding_of_its_weights() -> None:
    """|y - y'| <= sum over the groups of scale / 2 * the inputs' magnitudes, for int4."""
    weight, x = torch.randn(20, 192), torch.randn(7, 192)
    layer = rounded(weight, "int4")
    assert (
        (layer(x) - x @ weight.T).abs() <= x.abs() @ scale_of_each_entry(layer).T / 2 + 1e-4
    ).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_zeros_is_zeros_and_leaves_its_neighbours_alone(kind: Kind) -> None:
    weight = torch.randn(3, 12)
    weight[:, 4:8] = 0
    out = rounded(weight, kind, group=4).dequantize()
    assert torch.equal(out[:, 4:8], torch.zeros(3, 4))
    assert torch.equal(out[:, :4], rounded(weight[:, :4].contiguous(), kind, group=4).dequantize())
    zero = LEVELS[kind].index(0.0)
    # not what 0/0 happens to become
    assert rounded(torch.zeros(1, 4), kind, group=4).codes.tolist() == [[17 * zero, 17 * zero]]


def test_what_is_not_a_number_stays_so_in_its_group_alone() -> None:
    weight = torch.ones(1, 8)
    weight[0, 1] = torch.nan
    assert rounded(weight, group=4).dequantize().isnan().tolist() == [[True] * 4 + [False] * 4]


# The layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forward_is_the_linear_layer_of_the_dequantized_weight(
    kind: Kind, dtype: torch.dtype
) -> None:
    layer, x = rounded(torch.randn(6, 100, dtype=dtype), kind), torch.randn(2, 3, 100, dtype=dtype)
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), F.linear(x, layer.dequantize().to(dtype)))


def test_the_bias_is_kept_and_added() -> None:
    linear = nn.Linear(64, 5)
    layer, x = Linear4bit.from_linear(linear), torch.randn(3, 64)
    assert layer.bias is linear.bias
    torch.testing.assert_close(layer(x) - x @ layer.dequantize().T, linear.bias.expand(3, 5))


def test_the_input_s_gradient_is_that_of_the_dequantized_weight() -> None:
    layer, x = rounded(torch.randn(5, 64)), torch.randn(3, 64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.dequantize().sum(0).expand(3, 64))
    assert not list(layer.parameters())


@pytest.mark.parametrize(
    ("columns", "group", "stored"),
    [
        (4096, 64, 4096 // 2 + 2 * 64),  # 4.25 bits an entry
        (4096, 32, 4096 // 2 + 2 * 128),  # 4.5
        (4096, 128, 4096 // 2 + 2 * 32),  # 4.125
        (100, 64, 128 // 2 + 2 * 2),  # two groups, the second filled up
    ],
)
def test_bytes_of_a_row(columns: int, group: int, stored: int) -> None:
    layer = rounded(torch.randn(8, columns), group=group)
    assert sum(tensor.nbytes for tensor in layer.state_dict().values()) == 8 * stored
    if columns % group == 0:
        assert 8 * stored * 8 == 8 * columns * (4 + 16 / group)


def test_memory_against_bfloat16_is_3_76_times_less() -> None:
    linear = nn.Linear(1024, 64, bias=False, dtype=torch.bfloat16)
    layer = Linear4bit.from_linear(linear)
    assert linear.weight.nbytes / (layer.codes.nbytes + layer.scales.nbytes) == 16 / 4.25
    assert round(16 / 4.25, 2) == 3.76


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_dict_brings_the_layer_back(kind: Kind) -> None:
    layer = Linear4bit.from_linear(nn.Linear(100, 7), kind=kind, group=32)
    other = Linear4bit(100, 7, bias=True, kind=kind, group=32)
    assert set(layer.state_dict()) == {"codes", "scales", "bias"}
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 100)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_change_of_dtype_leaves_the_weight_as_it_is(dtype: torch.dtype) -> None:
    layer = rounded(torch.randn(4, 64))
    before = layer.dequantize()
    assert torch.equal(layer.to(dtype).dequantize(), before)
    assert layer.codes.dtype == torch.uint8


def test_a_new_layer_maps_to_zero() -> None:
    assert torch.equal(Linear4bit(10, 3, bias=True)(torch.randn(2, 10)), torch.zeros(2, 3))


def test_weights_in_any_memory_order() -> None:
    weight = torch.randn(64, 8).T
    assert torch.equal(rounded(weight).dequantize(), rounded(weight.contiguous()).dequantize())


def test_on_the_meta_device_it_costs_nothing_and_keeps_its_shapes() -> None:
    with torch.device("meta"):
        built, swapped = (
            Linear4bit(8192, 22016),
            Linear4bit.from_linear(nn.Linear(8192, 22016, bias=False)),
        )
    for layer in (built, swapped):
        assert {
            name: (tuple(t.shape), t.dtype, t.device.type) for name, t in layer.state_dict().items()
        } == {
            "codes": ((22016, 4096), torch.uint8, "meta"),
            "scales": ((22016, 128), torch.bfloat16, "meta"),
        }
        assert layer(torch.empty(2, 8192, device="meta")).shape == (2, 22016)


def test_what_it_prints() -> None:
    assert repr(Linear4bit(64, 128)) == "Linear4bit(in_features=64, out_features=128, bias=False)"
    other = Linear4bit(64, 128, bias=True, kind="int4", group=32)
    assert (
        repr(other)
        == "Linear4bit(in_features=64, out_features=128, bias=True, kind=int4, group=32)"
    )


@pytest.mark.parametrize("group", [0, -64, 33])
def test_a_group_that_cannot_be_packed_is_an_error(group: int) -> None:
    with pytest.raises(
        ValueError,
        match=rf"group {group} cannot share a scale: .* positive even number, such as 64",
    ):
        Linear4bit(64, 8, group=group)


def test_an_unknown_kind_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the types are not checked, as in production."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(
        ValueError, match="kind 'fp4' is no way to spend four bits; choose from nf4, int4"
    ):
        Linear4bit(64, 8, kind="fp4")


# Models


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_keeps_embeddings_norms_and_output_layer(kind: Kind, tied: bool) -> None:
    model = small_model(tie_embeddings=tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantize_linears(model, kind=kind)
    replaced = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    feed_forward = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert replaced == {
        f"layers.{layer}.{name}" for layer in range(2) for name in projections + feed_forward
    }
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.pop(name))
    assert {name.removesuffix(".weight") for name in before} == replaced


@pytest.mark.parametrize("tied", [False, True])
def test_the_logits_are_those_of_the_rounded_weights(tied: bool) -> None:
    model, plain = small_model(tie_embeddings=tied), small_model(tie_embeddings=tied)
    plain.load_state_dict(model.state_dict())
    quantize_linears(model)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Linear4bit):
                plain.get_submodule(name).weight.copy_(module.dequantize())
        torch.testing.assert_close(model(IDS), plain(IDS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "error"), [("nf4", 0.092), ("int4", 0.108)])
def test_the_logits_stay_close(kind: Kind, error: float) -> None:
    """Within what the 14 matrices would do if each added its own relative error, independent of the
    others, to the whole.
    """
    model = small_model()
    with torch.no_grad():
        exact = model(IDS)
        quantize_linears(model, kind=kind)
        assert error < (model(IDS) - exact).norm() / exact.norm() < 14**0.5 * error


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (("head",), {"head", "inner.head"}),
        (("inner.head",), {"inner.head"}),
        (("lm_head", "my_head"), {"my_head"}),
        ((), set()),
    ],
)
def test_what_is_kept_is_matched_by_whole_names(keep: tuple[str, ...], kept: set[str]) -> None:
    model = nn.ModuleDict(
        {
            "head": nn.Linear(8, 8),
            "my_head": nn.Linear(8, 8),
            "inner": nn.ModuleDict({"head": nn.Linear(8, 8)}),
        }
    )
    quantize_linears(model, keep=keep)
    assert {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} == kept
    assert sum(isinstance(module, Linear4bit) for module in model.modules()) == 3 - len(kept)


def test_subclasses_of_linear_stay() -> None:
    """As the output projection of PyTorch's own attention, whose weight that attention reads by
    itself.
    """
    model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    quantize_linears(model)
    assert isinstance(model.get_submodule("0.out_proj"), nn.Linear)
    assert isinstance(model[1], Linear4bit)


def test_old_weights_are_freed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a layer's turn comes, the layers before it are gone: memory never holds two models."""
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(6)))
    weights = [weakref.ref(module.weight) for module in model]
    alive = []
    original = Linear4bit.from_linear

    def spy(linear: nn.Linear, **options: Any) -> Linear4bit:
        alive.append(sum(weight() is not None for weight in weights))
        return original(linear, **options)

    monkeypatch.setattr(Linear4bit, "from_linear", spy)
    gc.disable()  # freed because nothing holds them, not because a collection came by
    try:
        quantize_linears(model)
    finally:
        gc.enable()
    assert alive == [6, 5, 4, 3, 2, 1]
    assert not any(weight() is not None for weight in weights)
