"""Every probe on hand-made weights with known answers, against computations by hand, and on every
part; and that none leaves a trace.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.parts import FEED_FORWARDS, GATED, NORMS, PLACEMENTS, POSITIONS
from puna.model.transformer import Transformer, build_transformer
from puna.nn.attention import attention_scores
from puna.nn.feed_forward import GatedFeedForward
from puna.study import probes
from puna.study.probes import (
    PROBES,
    activation_norms,
    attention_entropy,
    dead_units,
    gate_statistics,
    gradient_norms,
)

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "width": 16,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "context_length": 24,
    "feed_forward_width": 40,
}
PARTS: dict[str, dict[str, Any]] = {
    "LLaMA": {},
    **{
        f"norm {name}": (
            {"norm": name, "norm_fraction": 0.5} if name == "prmsnorm" else {"norm": name}
        )
        for name in NORMS
    },
    **{f"placement {name}": {"placement": name} for name in PLACEMENTS},
    **{f"feed-forward {name}": {"feed_forward": name} for name in FEED_FORWARDS},
    "feed-forward with biases": {"feed_forward_bias": True},
    "swish beta learned": {"swish_beta": "scalar"},
    **{f"position {name}": {"position": name} for name in POSITIONS},
    "qk-norm": {"qk_norm": True},
    "sliding window": {"sliding_window": 5},
    "window with slopes": {"sliding_window": 4, "position": "alibi"},
}


def built(**changes: Any) -> Transformer:
    """With weights larger than those that training starts from, so that every part leaves its
    mark.
    """
    model = build_transformer(ModelConfig.model_validate({**SHAPE, **changes}))
    init_weights(model, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.ndim == 2 else parameter.add_(0.1)
    return model


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(0))


def entering(model: Transformer, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The stream before and after each block, by running the blocks here."""
    x, positions = model.embed_tokens(ids), torch.arange(ids.shape[1])
    if model.embed_positions is not None:
        x = model.embedding_scale * x + model.embed_positions(positions)
    streams = [x]
    for block in model.layers:
        streams.append(
            block(
                streams[-1],
                model.rotary(positions) if model.rotary else None,
                None,
                model.mask(ids, None),
            )
        )
    return list(itertools.pairwise(streams))


def rms(x: Tensor) -> float:
    return math.sqrt((x.double() ** 2).sum().item() / x.numel())


# what every probe does on every part


@pytest.mark.parametrize("part", PARTS)
def test_each_gives_finite_numbers_by_layer_and_leaves_no_trace(part: str, ids: Tensor) -> None:
    model = built(**PARTS[part])
    model(ids).square().mean().backward()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    generator = torch.get_rng_state()
    for probe in PROBES:
        numbers = PROBES[probe](model, ids)
        assert bool(numbers) == (probe != "gate_statistics" or model.config.feed_forward in GATED)
        for name, values in numbers.items():
            assert isinstance(values, list), name
            assert len(values) == (4 if name.startswith("heads_of_layer_") else 3), name
            assert all(isinstance(value, float) and math.isfinite(value) for value in values), (
                name,
                values,
            )
    assert_untouched(model)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert {
        name for name, parameter in model.named_parameters() if parameter.grad is not None
    } == set(gradients)
    assert all(
        torch.equal(parameter.grad, gradients[name])
        for name, parameter in model.named_parameters()
        if name in gradients
    )
    assert torch.equal(generator, torch.get_rng_state())


def assert_untouched(model: Transformer) -> None:
    assert model.training
    assert not any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in model.modules()
    )


@pytest.mark.parametrize("probe", PROBES)
def test_hooks_are_gone_after_an_error_in_the_model(probe: str) -> None:
    model = built()
    with pytest.raises(IndexError):
        PROBES[probe](model, torch.full((1, 12), 99))
    assert_untouched(model)


def test_hooks_are_gone_after_an_error_in_the_reading(ids: Tensor) -> None:
    model = built()
    with pytest.raises(ZeroDivisionError):
        probes.observe(model, ids, list(model.layers), lambda _module, _inputs, _output: 1 / 0)
    assert_untouched(model)


def test_the_mode_stays_and_changes_nothing(ids: Tensor) -> None:
    """Nor does a caller who takes no gradients, or activation checkpointing, which runs each block
    through another function.
    """
    model = built()
    expected = {name: probe(model, ids) for name, probe in PROBES.items()}
    model.activation_checkpointing = True
    assert {name: probe(model, ids) for name, probe in PROBES.items()} == expected
    model.eval()
    with torch.no_grad():
        assert {name: probe(model, ids) for name, probe in PROBES.items()} == expected
    assert not model.training


def test_hooks_of_others_stay(ids: Tensor) -> None:
    model, calls = built(), []
    model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: calls.append(1))
    for probe in PROBES.values():
        probe(model, ids)
    assert calls == [1] * len(PROBES)
    assert len(model.layers[0].mlp.down_proj._forward_hooks) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("probe", PROBES)
def test_other_dtypes_give_about_the_same_numbers(
    probe: str, dtype: torch.dtype, ids: Tensor
) -> None:
    model = built()
    expected = PROBES[probe](model, ids)
    numbers = PROBES[probe](model.to(dtype), ids)
    assert numbers == {
        name: pytest.approx(values, rel=0.1, abs=0.02) for name, values in expected.items()
    }


# activations


@pytest.mark.parametrize("norm", ["rmsnorm", "none"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_norms_are_those_of_the_stream_and_of_what_the_sublayers_add_to_it(
    placement: str, norm: str, ids: Tensor
) -> None:
    """before + attention + feed-forward = after; under Post-norm with a norm around each sum."""
    model = built(placement=placement, norm=norm)
    added = probes.observe(
        model,
        ids,
        [part for block in model.layers for part in probes._added(block)],
        lambda _m, _i, out: out,
    )
    for block, (before, after), attention, feed_forward in zip(
        model.layers, entering(model, ids), added[::2], added[1::2], strict=True
    ):
        if placement == "post":
            step = block.post_feedforward_layernorm(
                block.post_attention_layernorm(before + attention) + feed_forward
            )
        else:
            step = before + attention + feed_forward
        torch.testing.assert_close(step, after, rtol=1e-4, atol=1e-4)
    numbers = activation_norms(model, ids)
    assert numbers["residual"] == pytest.approx(
        [rms(after) for _, after in entering(model, ids)], rel=1e-5
    )
    assert numbers["attention"] == pytest.approx([rms(x) for x in added[::2]], rel=1e-5)
    assert numbers["feed_forward"] == pytest.approx([rms(x) for x in added[1::2]], rel=1e-5)


def test_sublayers_that_write_nothing_leave_the_stream_at_the_embeddings(ids: Tensor) -> None:
    model = built()
    for block in model.layers:
        nn.init.zeros_(block.self_attn.o_proj.weight)
        nn.init.zeros_(block.mlp.down_proj.weight)
    embedded = rms(model.embed_tokens(ids))
    expected = {
        "residual": pytest.approx([embedded] * 3),
        "attention": [0] * 3,
        "feed_forward": [0] * 3,
    }
    assert activation_norms(model, ids) == expected


def test_post_norm_holds_the_stream_at_the_norms_weights(ids: Tensor) -> None:
    model = built(placement="post", norm_eps=1e-12)
    for block in model.layers:
        nn.init.constant_(block.post_feedforward_layernorm.weight, 2.5)
    assert activation_norms(model, ids)["residual"] == pytest.approx([2.5] * 3)


# gradients


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 11}, {"feed_forward": "relu"}, {"placement": "post"}, {"tie_embeddings": True}],
)
def test_the_gradient_norms_are_those_of_a_backward_pass(
    changes: dict[str, Any], ids: Tensor
) -> None:
    """With eleven layers too, where the names of layer 10 begin like those of layer 1."""
    model = built(**changes)
    numbers = gradient_norms(model, ids)
    F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    for index, block in enumerate(model.layers):
        every = torch.cat([parameter.grad.flatten() for parameter in block.parameters()])
        assert numbers["block"][index] == pytest.approx(every.norm().item(), rel=1e-4)
        for matrix in {"gate_proj", "up_proj", "down_proj"} & set(dict(block.mlp.named_children())):
            assert numbers[matrix][index] == pytest.approx(
                getattr(block.mlp, matrix).weight.grad.norm().item(), rel=1e-4
            )
    assert ("gate_proj" in numbers) == (model.config.feed_forward in GATED)


def test_a_layer_cut_off_from_the_loss_has_no_gradient(ids: Tensor) -> None:
    """W_down = 0 in the last layer: nothing reaches what stands before it, and W_down itself still
    learns.
    """
    model = built()
    nn.init.zeros_(model.layers[-1].mlp.down_proj.weight)
    numbers = gradient_norms(model, ids)
    assert numbers["gate_proj"][-1] == numbers["up_proj"][-1] == 0
    assert numbers["down_proj"][-1] > 0


def test_one_id_a_row_has_nothing_to_predict(ids: Tensor) -> None:
    with pytest.raises(
        ValueError, match="1 id a row has no next token to predict: give rows of 2 or more"
    ):
        gradient_norms(built(), ids[:, :1])


# dead units


@pytest.mark.parametrize(
    ("feed_forward", "matrix"), [("relu", "up_proj"), ("relu2", "up_proj"), ("reglu", "gate_proj")]
)
def test_a_unit_with_a_hugely_negative_bias_is_dead(
    feed_forward: str, matrix: str, ids: Tensor
) -> None:
    """10 of 40 in the second layer."""
    model = built(feed_forward=feed_forward, feed_forward_bias=True)
    for block in model.layers:
        nn.init.constant_(block.mlp.get_submodule(matrix).bias, 100.0)
    nn.init.constant_(model.layers[1].mlp.get_submodule(matrix).bias[:10], -1e6)
    assert dead_units(model, ids) == {"share": [0, 0.25, 0]}


def test_a_relu_unit_open_at_one_position_only_is_alive() -> None:
    model = built(feed_forward="relu", num_layers=1, placement="reordered", norm="none")
    block = model.layers[0]
    nn.init.zeros_(block.self_attn.o_proj.weight)  # the feed-forward layer reads the embeddings
    nn.init.zeros_(model.embed_tokens.weight)
    with torch.no_grad():
        model.embed_tokens.weight[7, 0] = 1e-9
        # beside the last, the others are next to nothing
        block.mlp.up_proj.weight.zero_()[:4, 0] = torch.tensor([1.0, 1.0, 1.0, 1e6])
    assert dead_units(model, torch.tensor([[1, 2, 7, 3]])) == {"share": [0.9]}
    assert dead_units(model, torch.tensor([[1, 2, 6, 3]])) == {"share": [1.0]}


@pytest.mark.parametrize("feed_forward", ["gelu", "swish", "glu", "bilinear", "geglu", "swiglu"])
def test_where_nothing_is_exactly_zero_dead_is_a_thousandth_of_the_rms(
    feed_forward: str, ids: Tensor
) -> None:
    """8 units scaled far below the bound (by a factor that smooth activations keep), the rest far
    above it.
    """
    model = built(feed_forward=feed_forward)
    assert dead_units(model, ids) == {"share": [0, 0, 0]}
    with torch.no_grad():
        model.layers[0].mlp.up_proj.weight[:8] *= 1e-5
    assert dead_units(model, ids) == {"share": [0.2, 0, 0]}


def test_sparse_is_not_dead(ids: Tensor) -> None:
    """About half of the entries of a fresh ReLU layer are 0, and no unit always."""
    model = built(feed_forward="relu")
    hidden: list[Tensor] = probes.observe(
        model, ids, [model.layers[0].mlp.down_proj], lambda _m, inputs, _o: inputs[0]
    )
    assert 0.3 < (hidden[0] == 0).float().mean() < 0.7
    assert dead_units(model, ids)["share"][0] == 0


# gates


def test_a_gate_at_a_constant_has_that_mean_and_quantiles(ids: Tensor) -> None:
    """sigmoid(0) = 1/2 with W_gate = 0; a bias of ln 3 makes it 3/4."""
    model = built(feed_forward="glu", feed_forward_bias=True)
    for block, bias in zip(model.layers, (0.0, math.log(3), -100.0), strict=True):
        nn.init.zeros_(block.mlp.gate_proj.weight)
        nn.init.constant_(block.mlp.gate_proj.bias, bias)
    numbers = gate_statistics(model, ids)
    assert list(numbers) == ["mean", "near_zero", "q05", "q25", "q50", "q75", "q95"]
    for name in ("mean", "q05", "q25", "q50", "q75", "q95"):
        assert numbers[name] == pytest.approx([0.5, 0.75, 0], abs=1e-6)


@pytest.mark.parametrize("feed_forward", GATED)
def test_the_gates_are_those_that_the_layer_multiplies_by(feed_forward: str, ids: Tensor) -> None:
    """With a value of 1 at every unit, what W_down reads is the gate itself."""
    model = built(feed_forward=feed_forward, feed_forward_bias=True)
    for block in model.layers:
        nn.init.zeros_(block.mlp.up_proj.weight)
        nn.init.ones_(block.mlp.up_proj.bias)
    gates = probes.observe(
        model,
        ids,
        [block.mlp.down_proj for block in model.layers],
        lambda _m, inputs, _o: inputs[0],
    )
    numbers = gate_statistics(model, ids)
    assert numbers["mean"] == pytest.approx(
        [gate.mean().item() for gate in gates], rel=1e-4, abs=1e-5
    )
    assert numbers["q75"] == pytest.approx(
        [gate.quantile(0.75).item() for gate in gates], rel=1e-4, abs=1e-5
    )
    near_zero = [(gate.abs() <= 0.1 * rms(gate)).float().mean().item() for gate in gates]
    assert numbers["near_zero"] == pytest.approx(near_zero, abs=1e-3)


def test_a_cut_gate_is_read_as_cut(ids: Tensor) -> None:
    model = built(feed_forward="bilinear")
    layer = model.layers[0].mlp
    assert isinstance(layer, GatedFeedForward)
    layer.limit = 1e-3
    assert gate_statistics(model, ids)["q95"][0] == pytest.approx(1e-3)


# attention


@pytest.mark.parametrize(
    "part", ["LLaMA", "placement post", "qk-norm", "sliding window", "position learned"]
)
def test_without_queries_attention_is_even_over_all_keys_seen(part: str, ids: Tensor) -> None:
    """W_q = 0: the entropy of query t is log of the keys that it sees, so normalised 1 in every
    head.
    """
    model = built(**PARTS[part])
    for block in model.layers:
        nn.init.zeros_(block.self_attn.q_proj.weight)
    numbers = attention_entropy(model, ids)
    window = model.config.sliding_window or 12
    expected = sum(math.log(min(t, window)) for t in range(1, 13)) / 12
    assert numbers["entropy"] == pytest.approx([expected] * 3)
    assert numbers["normalised"] == pytest.approx([1] * 3)
    assert numbers["heads_of_layer_2"] == pytest.approx([1] * 4)


def test_one_collapsed_head_shows_in_its_own_number(ids: Tensor) -> None:
    model = built()
    projection = model.layers[0].self_attn.q_proj.weight
    nn.init.zeros_(projection)
    nn.init.normal_(projection[8:12], std=1e5)  # head 2 of 4, of width 4
    heads = attention_entropy(model, ids)["heads_of_layer_0"]
    assert isinstance(heads, list)
    assert heads[2] < 0.1
    assert [heads[0], heads[1], heads[3]] == pytest.approx([1, 1, 1])


def test_steep_slopes_give_the_entropy_of_a_geometric_row(ids: Tensor) -> None:
    """ALiBi with W_q = 0: the weights of query t are softmax(-slope * distance), slopes 1/4, 1/16,
    1/64, 1/256 for four heads.
    """
    model = built(position="alibi")
    for block in model.layers:
        nn.init.zeros_(block.self_attn.q_proj.weight)
    numbers = attention_entropy(model, ids)
    for head, slope in enumerate((1 / 4, 1 / 16, 1 / 64, 1 / 256)):
        shares = []
        for seen in range(2, 13):
            weights = [math.exp(-slope * distance) for distance in range(seen)]
            p = [weight / sum(weights) for weight in weights]
            shares.append(-sum(x * math.log(x) for x in p) / math.log(seen))
        assert numbers["heads_of_layer_0"][head] == pytest.approx(
            sum(shares) / len(shares), rel=1e-4
        )


@pytest.mark.parametrize("part", PARTS)
def test_the_scores_are_those_of_the_layer(part: str, ids: Tensor) -> None:
    """softmax(scores) times the values, through W_o, is what the layer itself gives, whichever
    kernel it took.
    """
    model = built(**PARTS[part])

    def check(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        v = (
            module.v_proj(inputs[0])
            .unflatten(-1, (2, 4))
            .transpose(1, 2)
            .repeat_interleave(2, dim=1)
        )
        x, rotary, _cache, mask = inputs
        heads = attention_scores(*module.queries_and_keys(x, rotary), mask).softmax(-1) @ v
        torch.testing.assert_close(
            module.o_proj(heads.transpose(1, 2).flatten(2)), output, rtol=1e-4, atol=1e-4
        )

    assert len(probes.observe(model, ids, [block.self_attn for block in model.layers], check)) == 3
