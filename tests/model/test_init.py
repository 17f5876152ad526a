"""The weights that training starts from."""

from typing import Any

import pytest
import torch

from puna.model.config import ModelConfig
from puna.model.init import STD, init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.nn import linear_cross_entropy


def initialised(seed: int = 0, **changes: Any) -> Transformer:
    shape = {"vocab_size": 500, "width": 128, "num_layers": 3, "num_heads": 4, "context_length": 64}
    model = build_transformer(ModelConfig.model_validate({**shape, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)  # what `build_transformer` leaves is whatever was in memory
    init_weights(model, seed)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_filled(tied: bool) -> None:
    for name, parameter in initialised(tie_embeddings=tied).named_parameters():
        assert torch.isfinite(parameter).all(), name


def test_the_seed_decides_and_nothing_else() -> None:
    one, same, other = initialised(seed=3), initialised(seed=3), initialised(seed=4)
    torch.manual_seed(123)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embed_tokens.weight, other.embed_tokens.weight)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    initialised()
    assert torch.equal(torch.rand(1), expected)


def test_standard_deviations() -> None:
    """0.02 everywhere, divided by sqrt(2 L) in the two projections that write into the residual
    stream; 3% is 5 sigma at 16,384.
    """
    for name, parameter in initialised().named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            residual = "o_proj" in name or "down_proj" in name
            assert parameter.std().item() == pytest.approx(
                STD / 6**0.5 if residual else STD, rel=0.03
            ), name
            assert abs(parameter.mean().item()) < 5 * STD / parameter.numel() ** 0.5, name


def test_no_two_matrices_are_equal() -> None:
    matrices = [p.flatten()[:100] for p in initialised().parameters() if p.ndim == 2]
    assert len({tuple(matrix.tolist()) for matrix in matrices}) == len(matrices)


def test_a_bfloat16_model_gets_the_same_weights_rounded() -> None:
    wide, narrow = initialised(), initialised().bfloat16()
    init_weights(narrow, 0)
    assert all(
        torch.equal(a.bfloat16(), b)
        for a, b in zip(wide.parameters(), narrow.parameters(), strict=True)
    )


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    """Logits of standard deviation 0.02 sqrt(D) = 0.23 cost log V + 0.23^2 / 2 nats a token on
    average.
    """
    model, ids = initialised(), torch.randint(0, 500, (8, 65))
    with torch.no_grad():
        loss = (
            linear_cross_entropy(model.hidden_states(ids[:, :-1]), model.output_weight, ids[:, 1:])
            / 512
        )
    assert loss.item() == pytest.approx(torch.tensor(500.0).log().item() + 0.0256, abs=0.05)
