"""RMSNorm's options: where eps stands, where the weight stands, which parameters there are; and
what all norms share.
"""

from collections.abc import Callable, Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from puna.nn import CenterNorm, LayerNorm, NormalizedLinear, PartialRMSNorm, RMSNorm, ScaleNorm

Norm = Callable[[int], nn.Module]

EVERY_NORM: list[Norm] = [
    RMSNorm,
    lambda width: RMSNorm(width, 1e-3, eps_place="outside"),
    lambda width: RMSNorm(width, bias=True, weight_place="before_cast"),
    lambda width: RMSNorm(width, weight=False),
    lambda width: PartialRMSNorm(width, 0.5),
    lambda width: PartialRMSNorm(width, 0.5, eps_place="outside"),
    ScaleNorm,
    CenterNorm,
    LayerNorm,
    lambda width: LayerNorm(width, weight=False, bias=False),
]
NAMES = [
    "rms",
    "rms-eps-outside",
    "rms-bias-before-cast",
    "rms-bare",
    "partial",
    "partial-eps-outside",
    "scale",
    "center",
    "layer",
    "layer-bare",
]
every_norm = pytest.mark.parametrize("make", EVERY_NORM, ids=NAMES)


def with_random_parameters(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
    return module


def rows(count: int = 5, width: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64).add(0.5).to(dtype)


# The paper's PyTorch class, from its published behaviour: |x| / sqrt(k) of the first k = int(D p)
# entries, plus eps, divides x.


def published(
    x: Tensor, scale: Tensor, offset: Tensor | None, p: float = -1.0, eps: float = 1e-8
) -> Tensor:
    width = x.shape[-1]
    k = width if p < 0 or p > 1 else int(width * p)
    divisor = x[..., :k].pow(2).sum(-1, keepdim=True).sqrt() / k**0.5 + eps
    y = scale * (x / divisor)
    return y if offset is None else y + offset


def published_inside(
    x: Tensor, scale: Tensor, offset: Tensor | None, p: float = -1.0, eps: float = 1e-8
) -> Tensor:
    """The TensorFlow function of the same authors; eps 1e-5 in their Theano code."""
    width = x.shape[-1]
    k = width if p < 0 or p > 1 else int(width * p)
    y = scale * (x / (x[..., :k].pow(2).mean(-1, keepdim=True) + eps).sqrt())
    return y if offset is None else y + offset


@pytest.mark.parametrize("p", [-1.0, 1.5, 1.0, 0.5, 0.3, 0.0625])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize(
    ("place", "theirs"), [("outside", published), ("inside", published_inside)]
)
def test_equals_the_published_code(
    p: float, bias: bool, eps: float, place: str, theirs: Callable[..., Tensor]
) -> None:
    ours = with_random_parameters(PartialRMSNorm(33, p, eps, bias=bias, eps_place=place).double())
    x = rows(6, 33)
    torch.testing.assert_close(
        ours(x), theirs(x, ours.weight, ours.bias, p, eps), rtol=1e-14, atol=1e-14
    )
    if p in (-1.0, 1.0, 1.5):
        full = with_random_parameters(RMSNorm(33, eps, bias=bias, eps_place=place).double())
        torch.testing.assert_close(
            full(x), theirs(x, full.weight, full.bias, eps=eps), rtol=1e-14, atol=1e-14
        )


def test_the_two_places_of_eps_differ_where_eps_is_large() -> None:
    x = rows()
    outside = RMSNorm(8, 0.1, eps_place="outside")(x)
    assert (RMSNorm(8, 0.1)(x) - outside).abs().max() > 1e-2


@pytest.mark.parametrize(("place", "slope"), [("inside", 100.0), ("outside", 10_000.0)])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_at_zero_the_value_is_zero_and_the_jacobian_is_the_identity_over_root_eps_or_eps(
    place: str, slope: float, fraction: float
) -> None:
    norm = PartialRMSNorm(6, fraction, 1e-4, eps_place=place).double()
    zero = torch.zeros(6, dtype=torch.float64)
    assert torch.equal(norm(zero), zero)
    jacobian = torch.autograd.functional.jacobian(norm, zero)
    torch.testing.assert_close(jacobian, slope * torch.eye(6, dtype=torch.float64))


def test_weight_before_the_cast_equals_transformers_gemma_bit_for_bit() -> None:
    """Gemma multiplies by 1 + weight; these weights are such that the sum is exact in bfloat16."""
    theirs = GemmaRMSNorm(96, 1e-6).bfloat16()
    ours = RMSNorm(96, 1e-6, weight_place="before_cast").bfloat16()
    with torch.no_grad():
        theirs.weight.copy_(torch.arange(96) / 128)
        ours.weight.copy_(1 + torch.arange(96) / 128)
    x = (10 * torch.randn(3, 17, 96)).bfloat16()
    assert torch.equal(ours(x), theirs(x))
    after = RMSNorm(96, 1e-6).bfloat16()
    after.load_state_dict(ours.state_dict())
    assert not torch.equal(after(x), theirs(x)), "the check above would not notice the other order"


def test_before_the_cast_rounds_once() -> None:
    norm = with_random_parameters(RMSNorm(64, bias=True, weight_place="before_cast")).bfloat16()
    x = torch.randn(64, 64).bfloat16()
    exact = RMSNorm(64, bias=True).double()
    exact.load_state_dict(norm.state_dict())
    assert torch.equal(norm(x), exact(x.double()).bfloat16())


def test_the_two_orders_are_one_in_float32() -> None:
    x = torch.randn(4, 16)
    assert torch.equal(RMSNorm(16)(x), RMSNorm(16, weight_place="before_cast")(x))


def test_the_bias_is_off_unless_asked_for_and_starts_as_zeros() -> None:
    assert dict(RMSNorm(5).named_parameters()).keys() == {"weight"}
    norm = RMSNorm(5, bias=True)
    assert {name: parameter.shape for name, parameter in norm.named_parameters()} == {
        "weight": (5,),
        "bias": (5,),
    }
    assert torch.equal(norm.weight, torch.ones(5))
    assert torch.equal(norm.bias, torch.zeros(5))


def test_the_bias_is_added_last() -> None:
    x, norm = rows(), RMSNorm(8, bias=True).double()
    plain = norm(x).detach()
    with torch.no_grad():
        norm.bias.copy_(torch.arange(8))
    assert torch.equal(norm(x), plain + torch.arange(8))


def test_without_weight_there_are_no_parameters_and_ones_are_meant() -> None:
    norm, x = RMSNorm(8, weight=False), rows()
    assert not norm.state_dict()
    assert torch.equal(norm(x), RMSNorm(8)(x))


@pytest.mark.parametrize(
    "make",
    [RMSNorm, lambda width, bias: PartialRMSNorm(width, 0.5, bias=bias)],
    ids=["full", "partial"],
)
def test_loads_state_dicts_that_say_scale_and_offset(make: Callable[..., nn.Module]) -> None:
    """Alone and inside a model, and the caller's dict stays as it was."""
    model = nn.Sequential(nn.Linear(4, 4), make(4, bias=True))
    state = {f"0.{name}": value for name, value in model[0].state_dict().items()}
    state |= {"1.scale": torch.arange(4.0), "1.offset": -torch.arange(4.0)}
    model.load_state_dict(state)
    assert torch.equal(model[1].weight, torch.arange(4.0))
    assert torch.equal(model[1].bias, -torch.arange(4.0))
    assert "1.scale" in state
    alone = make(4, bias=False)
    alone.load_state_dict({"scale": torch.full((4,), 2.0)})
    assert torch.equal(alone.weight, torch.full((4,), 2.0))


def test_an_offset_without_a_bias_to_take_it_is_rejected() -> None:
    with pytest.raises(RuntimeError, match="bias"):
        RMSNorm(4).load_state_dict({"scale": torch.ones(4), "offset": torch.ones(4)})


@pytest.mark.parametrize(
    ("norm", "shown"),
    [
        (RMSNorm(8), "RMSNorm((8,), eps=1e-05)"),
        (RMSNorm(8, 1e-8, eps_place="outside"), "RMSNorm((8,), eps=1e-08, eps_place=outside)"),
        (
            RMSNorm(8, bias=True, weight_place="before_cast"),
            "RMSNorm((8,), eps=1e-05, bias=True, weight_place=before_cast)",
        ),
        (RMSNorm(8, weight=False), "RMSNorm((8,), eps=1e-05, weight=False)"),
        (PartialRMSNorm(512), "PartialRMSNorm((512,), eps=1e-05, entries=32)"),
        (ScaleNorm(8), "ScaleNorm((8,), eps=1e-05)"),
        (CenterNorm(8), "CenterNorm((8,))"),
        (LayerNorm((3, 4)), "LayerNorm((3, 4), eps=1e-05)"),
        (
            LayerNorm(8, weight=False, bias=False),
            "LayerNorm((8,), eps=1e-05, bias=False, weight=False)",
        ),
    ],
)
def test_prints_what_differs_from_the_default(norm: nn.Module, shown: str) -> None:
    assert repr(norm) == shown


@pytest.fixture
def _no_type_checks() -> Iterator[None]:
    """As in production, where a word that the annotation does not allow arrives at the
    constructor.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_no_type_checks")
@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("eps_place", "inside or outside"),
        ("weight_place", "after_cast or before_cast"),
        ("rounding", "floor or ceil"),
    ],
)
def test_an_unknown_word_is_rejected(option: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"{option} 'beside' is not known: say {remedy}"):
        PartialRMSNorm(8, 0.5, **{option: "beside"})


@every_norm
def test_float64_stays_float64(make: Norm) -> None:
    """With weights of one a result that had been narrower on the way would be a float32 number."""
    result = make(8).double()(rows())
    assert result.dtype == torch.float64
    assert (result.float().double() != result).any()


@every_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_formats_come_back_in_their_dtype_within_their_rounding(
    make: Norm, dtype: torch.dtype
) -> None:
    norm = with_random_parameters(make(512)).to(dtype)
    x = rows(8, 512, dtype)
    result = norm(x)
    assert result.dtype == dtype
    exact = norm.double()(x.double())
    spacing = torch.finfo(dtype).eps
    assert ((result.double() - exact).abs() <= 1.6 * spacing * (exact.abs() + 1)).all()


@every_norm
def test_statistics_of_float16_do_not_overflow(make: Norm) -> None:
    """300^2 is more than float16 holds."""
    x = torch.full((2, 8), 300.0, dtype=torch.float16)
    assert make(8).half()(x).isfinite().all()


@every_norm
def test_gradients_are_those_of_finite_differences(make: Norm) -> None:
    norm = with_random_parameters(make(6)).double()
    x = rows(3, 6).requires_grad_()
    names = [name for name, _ in norm.named_parameters()]

    def output(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(norm, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *norm.parameters()))


@every_norm
def test_a_row_does_not_know_the_other_rows(make: Norm) -> None:
    norm = with_random_parameters(make(8)).double()
    x = rows()
    torch.testing.assert_close(
        norm(x), torch.stack([norm(row) for row in x]), rtol=1e-14, atol=1e-14
    )


@every_norm
def test_is_built_on_the_device_that_is_current(make: Norm) -> None:
    with torch.device("meta"):
        layer = NormalizedLinear(4, 8, make(8))
    assert all(parameter.is_meta for parameter in layer.parameters())


@every_norm
def test_can_be_reset_to_its_start(make: Norm) -> None:
    """What fills a model that was built without memory: weights one, biases zero, whatever was
    there.
    """
    layer, fresh = NormalizedLinear(4, 8, make(8)), make(8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(torch.nan)
    for module in layer.modules():
        if list(module.parameters(recurse=False)):
            module.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    for name, value in layer.norm.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])
        assert torch.equal(
            value, torch.ones_like(value) if name == "weight" else torch.zeros_like(value)
        )
    assert torch.equal(layer.bias, torch.zeros(8))
