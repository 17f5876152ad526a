"""The loss and all gradients on the native core against those of the modules, for every variant of
the parts; which parts stay with PyTorch; and whole runs.

Bounds, on the distance from the modules in float64. float32: 2e-5 of a tensor's largest gradient
(the unit is 6e-8; three layers add up some thousand rounded terms), and beyond that twice the
distance of the modules in float32. bfloat16: 1.3 times the distance of PyTorch's autocast.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.parts import FEED_FORWARDS, NORMS, PLACEMENTS
from puna.model.transformer import Transformer, build_transformer
from puna.native.kernels import Kernels
from puna.native.library import available_tiers, load
from puna.nn.loss import linear_cross_entropy
from puna.nn.mask import document_numbers
from puna.run_log import read_run_log
from puna.training.native_model import NativeModel
from puna.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not available_tiers(), reason="the native core is not built")

SHAPE: dict[str, Any] = {
    "vocab_size": 83,
    "width": 36,
    "num_layers": 3,
    "num_heads": 3,
    "num_kv_heads": 1,
    "head_width": 14,
    "feed_forward_width": 50,
    "context_length": 64,
}
# on the core in whole
ON_THE_CORE: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "as many key heads": {"num_kv_heads": 3},
    "tied": {"tie_embeddings": True},
    "partial rotary": {"rope_fraction": 0.43},
    "layers without rope": {"layers_without_rope": [1]},
    "no positions": {"position": "none"},
    "learned": {"position": "learned"},
    "sinusoidal": {"position": "sinusoidal"},
    "padding": {"padding_id": 0},
    "mup": {"init": "mup"},
    "linear": {"rope_scaling": {"kind": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": {"kind": "yarn", "factor": 2.0, "original_context": 48}},
    **{name: {"feed_forward": name} for name in ("glu", "bilinear", "reglu", "geglu", "swiglu")},
}
# with the parts that stay with PyTorch
LAYER, ATTENTION, MLP, FINAL = "layer", "attention", "feed-forward", "final norm"
PARTLY: dict[str, tuple[dict[str, Any], set[str]]] = {
    **{
        f"norm {name}": ({"norm": name}, {ATTENTION, MLP, FINAL})
        for name in NORMS
        if name != "rmsnorm"
    },
    "norm bias": ({"norm_bias": True}, {ATTENTION, MLP, FINAL}),
    "eps outside": ({"norm_eps_place": "outside"}, {ATTENTION, MLP, FINAL}),
    **{f"placement {name}": ({"placement": name}, {LAYER}) for name in PLACEMENTS if name != "pre"},
    "post": ({"placement": "post"}, {LAYER, FINAL}),
    **{
        f"feed-forward {name}": ({"feed_forward": name}, {MLP})
        for name in FEED_FORWARDS
        if name not in ON_THE_CORE
    },
    "feed-forward bias": ({"feed_forward_bias": True}, {MLP}),
    "swish beta": ({"swish_beta": "scalar"}, {MLP}),
    "tanh gelu": ({"feed_forward": "geglu", "gelu_approximate": "tanh"}, {MLP}),
    "qk norm": ({"qk_norm": True}, {ATTENTION}),
    "biases": ({"attention_bias": "qkv"}, {ATTENTION}),
    "window": ({"sliding_window": 8}, {ATTENTION}),
    "alibi": ({"position": "alibi"}, {ATTENTION}),
    "no attention": (
        {
            "attention": "none",
            "placement": "parallel",
            "feed_forward": "convolution",
            "position": "none",
        },
        {LAYER},
    ),
}
PARTLY.pop("placement post")
VARIANTS = {**{name: (change, set()) for name, change in ON_THE_CORE.items()}, **PARTLY}


def build(changes: dict[str, Any]) -> Transformer:
    """A model with weights so large that each part leaves its mark on the gradients."""
    model = build_transformer(ModelConfig.model_validate(SHAPE | changes))
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.15 * torch.randn(parameter.shape, generator=generator)
            parameter.add_(spread)
    return model


def some_ids() -> Tensor:
    ids = torch.randint(3, 83, (3, 42), generator=torch.Generator().manual_seed(1))
    ids[:, [0, 17]] = 1  # the begin of a document
    return ids


def documents(ids: Tensor) -> Tensor:
    return document_numbers(ids, 1)


def gradients(model: Transformer, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: torch.zeros(0) if grad is None else grad for name, grad in found.items()}


def modules(model: Transformer, masked: bool = False) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients by PyTorch, in the format of the weights."""
    ids = some_ids()
    hidden = model.hidden_states(ids[:, :-1], documents=documents(ids[:, :-1]) if masked else None)
    logits = hidden @ model.output_weight.t()
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    return loss.item(), gradients(model, loss)


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "documents"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_the_modules(variant: str, masked: bool) -> None:
    changes, on_torch = VARIANTS[variant]
    if masked and changes.get("feed_forward") == "convolution":
        pytest.skip("convolutions look back beyond a document")
    model = build(changes)
    native = NativeModel(model, Kernels(load()), torch.float32, documents if masked else None)
    if masked and LAYER not in on_torch:
        on_torch = on_torch | {ATTENTION}
    assert native.on_torch.keys() == on_torch
    assert all(native.on_torch.values())
    loss = native.loss(some_ids())
    found = gradients(model, loss)
    loss32, grads32 = modules(model, masked)
    loss64, grads64 = modules(model.double(), masked)
    assert abs(loss.item() - loss64) <= 2e-6 * loss64 + 2 * abs(loss32 - loss64)
    assert found.keys() == grads64.keys()
    for name, exact in grads64.items():
        if not exact.numel():
            assert not found[name].numel()
            continue
        allowed = 2e-5 * exact.abs().max() + 2 * (grads32[name] - exact).abs().max()
        assert (found[name] - exact).abs().max() <= allowed, name


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([grad.double().flatten() for grad in gradients.values()])


@pytest.mark.parametrize("tier", available_tiers())
@pytest.mark.parametrize("variant", ["grouped heads", "tied", "geglu", "qk norm", "post"])
def test_bfloat16_is_as_near_as_autocast(variant: str, tier: str) -> None:
    model = build(VARIANTS[variant][0])
    ids = some_ids()
    with torch.autocast("cpu", torch.bfloat16):
        ours = NativeModel(model, Kernels(load(tier)), torch.bfloat16).loss(ids)
    got = flat(gradients(model, ours))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden_states(ids[:, :-1])
        theirs = linear_cross_entropy(hidden, model.output_weight, ids[:, 1:])
    cast = flat(gradients(model, theirs))
    loss, exact = modules(model.double())
    right = flat(exact)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(loss, rel=2e-3)
    assert (got - right).norm() <= 1.3 * (cast - right).norm() + 1e-3 * right.norm()


def test_ignored_targets_do_not_count() -> None:
    """Their rows give the sum of the others."""
    model = build({})
    native = NativeModel(model, Kernels(load()), torch.float32)
    ids = some_ids()
    hidden = native.hidden_states(ids[:, :-1])
    targets = ids[:, 1:].clone()
    targets[:, 20:] = -100
    half = native.loss(ids[:, :21])
    whole = linear_cross_entropy(hidden, model.output_weight, targets)
    assert half.item() == pytest.approx(whole.item(), rel=1e-5)


def losses(run: Trainer) -> list[float]:
    assert run.train()
    records = read_run_log(run.run / "metrics.jsonl")
    return [record["loss"] for record in records if record["kind"] == "train"]


def test_two_hundred_steps_are_those_of_the_modules(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Each step's loss within 0.2% in float32: rounding, which the updates enlarge."""
    overrides = (
        "train.steps=200",
        "train.log_every=1",
        "train.validate_every=200",
        "train.checkpoint_every=200",
        "optimizer.learning_rate=2e-3",
    )
    ours = losses(trainer(tmp_path / "core", *overrides))
    theirs = losses(trainer(tmp_path / "torch", *overrides, "train.isa=torch"))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert ours[-1] < ours[0] - 2


@pytest.mark.parametrize("tier", available_tiers())
def test_stopped_and_resumed_equals_one_piece(
    tier: str, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    overrides = (f"train.isa={tier}", "train.steps=6", "optimizer.warmup_steps=2")
    whole = trainer(tmp_path / "whole", *overrides)
    assert whole.train()
    trainer(tmp_path / "parted", *overrides).train(until=3)
    parted = trainer(tmp_path / "parted", *overrides, resume=True)
    assert parted.train()
    assert whole.loss.backend.isa == parted.loss.backend.isa == tier
    other = parted.model.state_dict()
    assert all(value.equal(other[name]) for name, value in whole.model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["embed_tokens", "q_proj", "o_proj", "gate_proj", "down_proj", "norm", "layernorm"]
)
def test_a_weight_that_is_no_number_is_no_step(
    name: str, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    run = trainer(tmp_path / "run", "train.log_every=1")
    found = [weight for key, weight in run.model.named_parameters() if name in key][-1]
    with torch.no_grad():
        found.view(-1, found.shape[-1])[:, 0] = torch.nan
    before = {key: weight.clone() for key, weight in run.model.state_dict().items()}
    run.train(until=1)
    (record,) = [r for r in read_run_log(run.run / "metrics.jsonl") if r["kind"] == "train"]
    assert (record["applied"], record["gradient_norm"]) == (False, None)
    for key, weight in run.model.state_dict().items():
        torch.testing.assert_close(weight, before[key], rtol=0, atol=0, equal_nan=True)
