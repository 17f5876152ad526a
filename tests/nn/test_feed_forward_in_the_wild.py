"""Published variants by named parameters: the layer of gpt-oss against Hugging Face's code, PaLM's
against its paper.
"""

import pytest
import torch

from puna.nn import GatedFeedForward, Swish


def gpt_oss(width: int, hidden: int) -> GatedFeedForward:
    return GatedFeedForward(width, hidden, Swish(beta=1.702), bias=True, limit=7.0, up_offset=1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.2, 30.0], ids=["within the limit", "beyond it"])
def test_gpt_oss_s_expert_with_its_gradient(scale: float, dtype: torch.dtype) -> None:
    """Their gate and up are the even and odd columns of one matrix, stored [D, 2 F]."""
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    config = GptOssConfig(
        hidden_size=6, intermediate_size=10, num_local_experts=1, experts_implementation="eager"
    )
    theirs, ours = GptOssExperts(config).to(dtype), gpt_oss(6, 10).to(dtype)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    joined, bias = theirs.gate_up_proj.detach()[0], theirs.gate_up_proj_bias.detach()[0]
    ours.load_state_dict(
        {
            "gate_proj.weight": joined[:, ::2].T,
            "gate_proj.bias": bias[::2],
            "up_proj.weight": joined[:, 1::2].T,
            "up_proj.bias": bias[1::2],
            "down_proj.weight": theirs.down_proj.detach()[0].T,
            "down_proj.bias": theirs.down_proj_bias.detach()[0],
        }
    )
    x = (scale * torch.randn(5, 6)).to(dtype).requires_grad_()
    assert (ours.gate_proj(x) > 7).any() == (scale > 1)
    assert (ours.up_proj(x).abs() > 7).any() == (scale > 1)
    mine = ours(x)
    expected = theirs(
        x,
        router_indices=torch.zeros(5, 1, dtype=torch.long),
        routing_weights=torch.ones(5, 1, dtype=dtype),
    )
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.03}[dtype]
    torch.testing.assert_close(
        mine, expected, rtol=tolerance, atol=tolerance * float(expected.detach().abs().max())
    )
    (slope,), (their_slope,) = (
        torch.autograd.grad(mine.sum(), x),
        torch.autograd.grad(expected.sum(), x),
    )
    torch.testing.assert_close(
        slope, their_slope, rtol=tolerance, atol=tolerance * float(their_slope.abs().max() + 1)
    )


def projected(gate: float, up: float) -> float:
    """What the layer makes of projections of these values."""
    layer = gpt_oss(1, 1).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.gate_proj.bias.fill_(gate)
        layer.up_proj.bias.fill_(up)
        layer.down_proj.weight.fill_(1.0)
    return layer(torch.zeros(1, 1, dtype=torch.float64)).item()


def test_the_gate_is_cut_above_only_the_up_branch_on_both_sides() -> None:
    activation = Swish(beta=1.702)
    for gate, up, kept_gate, kept_up in [
        (9, 0, 7, 0),
        (-9, 0, -9, 0),
        (1, 9, 1, 7),
        (1, -9, 1, -7),
        (9, -9, 7, -7),
        (2, 3, 2, 3),
    ]:
        value = activation(torch.tensor(float(kept_gate), dtype=torch.float64)).item() * (
            kept_up + 1
        )
        assert projected(gate, up) == pytest.approx(value, rel=1e-14)


def test_an_offset_of_1_passes_the_gate_where_the_up_branch_is_0() -> None:
    assert projected(2.0, 0.0) == pytest.approx(
        2 / (1 + torch.tensor(-3.404, dtype=torch.float64).exp().item())
    )


def test_palm_s_swiglu_of_4_d_has_half_as_many_parameters_again() -> None:
    """12 D^2 against the 8 D^2 of the ungated layer; no biases anywhere."""
    width = 16
    layer = GatedFeedForward(width, 4 * width)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "gate_proj.weight": (64, 16),
        "up_proj.weight": (64, 16),
        "down_proj.weight": (16, 64),
    }
    assert sum(p.numel() for p in layer.parameters()) == 12 * width**2


@pytest.mark.parametrize("limit", [0.0, -7.0, float("nan")])
def test_a_limit_that_is_not_above_0_is_rejected(limit: float) -> None:
    with pytest.raises(ValueError, match=f"limit {limit} must be above 0"):
        GatedFeedForward(4, 8, limit=limit)
