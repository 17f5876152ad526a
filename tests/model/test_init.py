"""The weights that training starts from."""

from typing import Any, cast

import pytest
import torch

from puna.model.config import ModelConfig
from puna.model.init import init_weights
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
                0.02 / 6**0.5 if residual else 0.02, rel=0.03
            ), name
            assert abs(parameter.mean().item()) < 5 * 0.02 / parameter.numel() ** 0.5, name


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


@pytest.mark.parametrize(
    ("changes", "embeddings", "square", "down", "output"),
    [
        ({}, 0.02, 0.02, 0.02, 0.02),
        ({"init_std": 0.05}, 0.05, 0.05, 0.05, 0.05),
        ({"embedding_std": 1.0}, 1.0, 0.02, 0.02, 0.02),
        ({"init": "fan_in"}, 128**-0.5, 128**-0.5, 512**-0.5, 128**-0.5),
        ({"init": "fan_in", "embedding_std": 0.5}, 0.5, 128**-0.5, 512**-0.5, 128**-0.5),
        ({"init": "mup"}, 1.0, 128**-0.5, 512**-0.5, 1 / 128),
    ],
    ids=str,
)
def test_each_init_has_its_standard_deviations(
    changes: dict[str, Any], embeddings: float, square: float, down: float, output: float
) -> None:
    """The matrices that write into the residual stream are divided by sqrt(2 L) in every one."""
    model = initialised(feed_forward="gelu", **changes)
    layer = cast(Any, model.layers[0])
    assert model.lm_head is not None
    for weight, std in (
        (model.embed_tokens.weight, embeddings),
        (layer.self_attn.q_proj.weight, square),
        (layer.mlp.up_proj.weight, square),
        (layer.self_attn.o_proj.weight, square / 6**0.5),
        (layer.mlp.down_proj.weight, down / 6**0.5),
        (model.lm_head.weight, output),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.03)


def test_the_scale_of_the_residual_projections_can_be_left_out() -> None:
    """As in Vaswani et al. 2017 and Xiong et al. 2020, whose matrices all start alike."""
    layer = cast(Any, initialised(init="fan_in", scale_residual_init=False).layers[0])
    assert layer.self_attn.o_proj.weight.std().item() == pytest.approx(128**-0.5, rel=0.03)


def test_blocks_that_start_at_zero_are_the_identity_and_leave_the_other_weights_alone() -> None:
    model, other = initialised(zero_residual_init=True), initialised()
    zero = {"o_proj", "down_proj"}
    for (name, weight), there in zip(model.named_parameters(), other.parameters(), strict=True):
        expected = torch.zeros_like(there) if name.split(".")[-2] in zero else there
        torch.testing.assert_close(weight, expected, rtol=0, atol=0, msg=name)
    seen = []
    model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.arange(60)[None])
    torch.testing.assert_close(seen[0][0], model.embed_tokens.weight[:60], rtol=0, atol=0)


def test_fan_in_keeps_the_size_of_what_a_matrix_is_given() -> None:
    layer = cast(Any, initialised(init="fan_in").layers[0])
    x = torch.randn(1000, 128, generator=torch.Generator().manual_seed(1))
    assert layer.self_attn.q_proj(x).std().item() == pytest.approx(1.0, rel=0.03)


def test_positions_that_are_learned_start_as_large_as_the_embeddings_that_they_join() -> None:
    model = initialised(position="learned", init="fan_in", scale_embeddings=True)
    assert model.embed_positions is not None
    positions = model.embed_positions(torch.arange(64))
    embeddings = model.config.embedding_scale * model.embed_tokens.weight
    assert positions.std().item() == pytest.approx(1.0, rel=0.03)
    assert embeddings.std().item() == pytest.approx(1.0, rel=0.03)


def test_scaled_embeddings_reach_the_first_block_at_unit_size() -> None:
    """With any positions, as Vaswani et al. 2017, section 3.4, has it for sines."""
    model = initialised(init="fan_in", scale_embeddings=True)
    seen = []
    model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.arange(60)[None])
    torch.testing.assert_close(seen[0][0], 128**0.5 * model.embed_tokens.weight[:60])


def test_mup_with_tied_embeddings_is_rejected() -> None:
    with pytest.raises(ValueError, match="tie_embeddings"):
        initialised(init="mup", tie_embeddings=True)


def test_an_init_changes_no_fingerprint_of_a_model_without_it() -> None:
    shape = {"vocab_size": 500, "width": 128, "num_layers": 3, "num_heads": 4}
    dumped = ModelConfig.model_validate(shape).model_dump()
    new = {"init", "init_std", "embedding_std", "scale_embeddings", "zero_residual_init"}
    assert not new & dumped.keys()
    chosen = ModelConfig.model_validate({**shape, "init": "fan_in", "embedding_std": 0.5})
    assert ModelConfig.model_validate(chosen.model_dump()) == chosen
