"""LayerNorm exchanged for RMSNorm without a change of the logits."""

from typing import Any

import pytest
import torch

from puna.errors import ConfigError
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.recentre import layernorm_to_rmsnorm
from puna.model.transformer import Transformer, build_transformer
from puna.nn import LayerNorm, RMSNorm, linear_cross_entropy

SHAPE: dict[str, Any] = {
    "vocab_size": 30,
    "width": 24,
    "num_layers": 3,
    "num_heads": 4,
    "context_length": 16,
    "norm": "layernorm",
}


def trained(**changes: Any) -> Transformer:
    """Forty steps on random text: norms with weights and biases of their own, a stream whose mean
    is far from 0.
    """
    model = build_transformer(ModelConfig.model_validate({**SHAPE, **changes}))
    init_weights(model, seed=0)
    ids = torch.randint(0, 30, (4, 17), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        (
            linear_cross_entropy(model.hidden_states(ids[:, :-1]), model.output_weight, ids[:, 1:])
            / 64
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"placement": "parallel"},
        {"feed_forward": "gelu", "feed_forward_bias": True, "position": "learned"},
        {"position": "sinusoidal"},
        {"position": "alibi", "norm_bias": False},
    ],
    ids=str,
)
def test_logits_are_equal_in_float64(changes: dict[str, Any]) -> None:
    model, ids = trained(**changes).double(), torch.randint(0, 30, (3, 16))
    converted = layernorm_to_rmsnorm(model)
    assert any(isinstance(module, LayerNorm) for module in model.modules())
    assert not any(isinstance(module, LayerNorm) for module in converted.modules())
    assert sum(isinstance(module, RMSNorm) for module in converted.modules()) >= 4
    with torch.inference_mode():
        torch.testing.assert_close(converted(ids), model(ids), rtol=1e-9, atol=1e-9)


def test_the_norms_alone_would_not_do() -> None:
    """The check above can fail: with the norms exchanged and nothing recentred, the logits
    differ.
    """
    model, ids = trained().double(), torch.randint(0, 30, (3, 16))
    careless = build_transformer(layernorm_to_rmsnorm(model).config).double()
    careless.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert (careless(ids) - model(ids)).abs().max() > 0.01


def test_the_first_model_is_left_as_it_was() -> None:
    model = trained()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    layernorm_to_rmsnorm(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "rmsnorm"},
        {"placement": "post"},
        {"placement": "peri"},
        {"placement": "reordered"},
        {"qk_norm": True},
    ],
    ids=str,
)
def test_what_cannot_be_converted_is_rejected(changes: dict[str, Any]) -> None:
    model = build_transformer(ModelConfig.model_validate({**SHAPE, **changes}), "meta")
    with pytest.raises(
        ConfigError, match="it takes layernorm, placement pre or parallel, and no qk_norm"
    ):
        layernorm_to_rmsnorm(model)
