"""Distillation: its gradients are autograd's, what it trains comes nearer to the original, and
nothing else moves.
"""

from dataclasses import replace

import pytest
import torch
from small_llama import build_llama
from torch.func import functional_call
from torch.nn import functional as F

from puna.errors import ModelFolderError
from puna.model.transformer import Transformer
from puna.native.library import available_tiers
from puna.quantization.calibration import (
    EMBEDDING,
    HEAD,
    QuantizedMatrices,
    linear_names,
    quantize_model,
)
from puna.quantization.distillation import (
    Original,
    distil,
    divergence,
    original_predictions,
)
from puna.quantization.grid import Grid, spread
from puna.workflow import trainable_states as chosen
from puna.workflow.trainable_states import trainable_states

WINDOWS = torch.randint(0, 320, (96, 32), generator=torch.Generator().manual_seed(0))


def quantized(
    model: Transformer, windows: torch.Tensor = WINDOWS
) -> tuple[QuantizedMatrices, Original]:
    """The model in 4 bits with an output layer in 8, and what it predicted before."""
    original = original_predictions(model, windows)
    grids = dict.fromkeys(linear_names(model), Grid(4, 32)) | {EMBEDDING: Grid(8, 0)}
    if model.lm_head is not None:
        grids[HEAD] = Grid(8, 0)
    return quantize_model(model, grids, windows), original


def nats(model: Transformer, original: Original, windows: torch.Tensor = WINDOWS) -> float:
    """The mean divergence over all windows."""
    total = 0.0
    with torch.no_grad():
        for ids, states in zip(windows, original.states, strict=True):
            own = model.hidden_states(ids[None])[0]
            total += divergence(own, model.output_weight, states, original.output_weight)[0]
    return total / windows.numel()


def test_the_divergence_and_its_gradient_are_autograds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.quantization.distillation.ROWS", 5)  # three chunks, one short
    generator = torch.Generator().manual_seed(1)
    states, wanted = torch.randn(2, 13, 8, generator=generator)
    weight, other = torch.randn(2, 50, 8, generator=generator)
    states.requires_grad_(True)
    loss = F.kl_div(
        (states @ weight.T).log_softmax(-1),
        (wanted @ other.T).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    loss.backward()
    total, gradient = divergence(states.detach(), weight, wanted, other)
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, states.grad)
    assert divergence(wanted, other, wanted, other)[0] == 0


def test_a_step_follows_the_gradient_of_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain descent of rate 1 in place of Adam: m moves by dL/dm, which autograd gives of
    W = code s m.
    """
    monkeypatch.setattr("torch.optim.Adam", lambda factors, **_: torch.optim.SGD(factors, lr=1.0))
    monkeypatch.setattr("puna.quantization.distillation.RISING_STEPS", 1)
    model = build_llama()
    windows = WINDOWS[:1]
    made, original = quantized(model, windows)
    name = "layers.1.mlp.down_proj"
    first = made.weights[name]
    m = torch.ones_like(first.scales, dtype=torch.float32, requires_grad=True)
    weight = first.codes.float() * spread(first.scales, 64) * m.repeat_interleave(32, 1)
    logits = functional_call(model, {f"{name}.weight": weight}, (windows,))[0]
    wanted = original.states[0] @ original.output_weight.T
    F.kl_div(
        logits.log_softmax(-1), wanted.log_softmax(-1), reduction="sum", log_target=True
    ).backward()
    assert m.grad is not None
    # float32 scales, so that no step is lost in rounding
    fine = {key: replace(one, scales=one.scales.float()) for key, one in made.weights.items()}
    found = distil(
        model, replace(made, weights=fine), windows, original, model.hidden_states
    ).weights[name]
    moved = 1 - found.scales / first.scales.float()
    torch.testing.assert_close(moved, m.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_it_comes_nearer_to_the_original(tied: bool) -> None:
    model = build_llama(tie_embeddings=tied)
    made, original = quantized(model)
    before = nats(model, original)
    seen: list[tuple[int, int]] = []
    found = distil(
        model, made, WINDOWS, original, model.hidden_states, lambda *now: seen.append(now)
    )
    assert nats(model, original) < 0.9 * before
    assert seen[0] == (0, 96)
    assert seen[-1] == (96, 96)
    assert found.errors == made.errors


def test_codes_embedding_and_output_layer_stay_and_the_model_has_what_is_returned() -> None:
    model = build_llama()
    model.layers[0].requires_grad_(False)
    made, original = quantized(model)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    norms = {name: p.clone() for name, p in model.named_parameters() if p.ndim == 1}
    weights = distil(model, made, WINDOWS, original, model.hidden_states).weights
    assert weights.keys() == made.weights.keys()
    for name, one in weights.items():
        first = made.weights[name]
        assert torch.equal(one.codes, first.codes)
        assert one.scales.dtype == first.scales.dtype
        assert torch.equal(one.scales, first.scales) == (name in (EMBEDDING, HEAD))
        assert torch.equal(model.get_submodule(name).get_parameter("weight"), one.dequantize())
    assert all(not torch.equal(model.get_parameter(name), p) for name, p in norms.items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    assert all(p.grad is None for p in model.parameters())


def test_nothing_to_train_is_an_error() -> None:
    model = build_llama(norm="none")
    made = quantize_model(model, {EMBEDDING: Grid(8, 0), HEAD: Grid(8, 0)}, WINDOWS)
    original = original_predictions(model, WINDOWS)
    with pytest.raises(ModelFolderError, match="has neither: quantize it without distillation"):
        distil(model, made, WINDOWS, original, model.hidden_states)


def test_no_number_is_an_error_and_frees_the_gradients() -> None:
    model = build_llama()
    made, original = quantized(model)
    broken = replace(original, states=original.states * float("nan"))
    with pytest.raises(ModelFolderError, match=r"became nan after 0 of 96 windows: quantize"):
        distil(model, made, WINDOWS, broken, model.hidden_states)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("tier", ["torch", *available_tiers()[-1:]])
def test_states_and_gradients_are_the_models(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By PyTorch and by the native core, within bfloat16 where products are rounded to it."""
    if tier == "torch":
        monkeypatch.setattr("puna.training.compute_backend.available_tiers", tuple)
    model = build_llama()
    wanted = model.hidden_states(WINDOWS[:2])
    wanted.square().sum().backward()
    of_model = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = trainable_states(model)(WINDOWS[:2])
    found.float().square().sum().backward()
    half = chosen.choose_precision("auto", chosen.CPU) == "bfloat16"
    bound = 0.05 if half else 1e-4
    assert float((found - wanted).detach().norm() / wanted.detach().norm()) < bound
    for name, gradient in of_model.items():
        own = model.get_parameter(name).grad
        assert own is not None
        assert float((own - gradient).norm() / gradient.norm()) < 3 * bound, name
