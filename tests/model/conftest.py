"""Small models to test with, and the same random numbers for every test."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer

BuildModel = Callable[..., Transformer]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def small_model() -> BuildModel:
    """A function that builds an initialised model of two layers with grouped queries; keywords
    change its shape.

    Its weights are larger than those that training starts from, so that every part leaves its mark
    on the logits.
    """

    def build(**changes: Any) -> Transformer:
        shape = {
            "vocab_size": 50,
            "width": 24,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_width": 8,
        }
        model = build_transformer(
            ModelConfig.model_validate(
                {**shape, "feed_forward_width": 40, "context_length": 64, **changes}
            )
        )
        init_weights(model, seed=1)
        with torch.no_grad():
            for parameter in model.parameters():
                (
                    parameter.mul_(5)
                    if parameter.ndim == 2
                    else parameter.add_(0.2 * torch.randn_like(parameter))
                )
        return model

    return build
