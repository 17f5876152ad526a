"""Every part by its name: each single change and some combinations build, learn, save, load and use
a cache.
"""

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_cache import CachedModel

from puna.choices import Choice
from puna.config import validate
from puna.errors import ConfigError
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.parts import (
    FEED_FORWARDS,
    GATED,
    NORMS,
    PLACEMENTS,
    POSITIONS,
    ROPE_SCALINGS,
    UNGATED,
)
from puna.model.transformer import Transformer, build_transformer
from puna.model.weights import read_model, write_model
from puna.nn import CenterNorm, linear_cross_entropy
from puna.training.recipe import OPTIMIZERS
from puna.training.schedule import SCHEDULES

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "width": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "context_length": 24,
}
SCALINGS: dict[str, dict[str, Any]] = {
    "llama3": {"original_context": 12},
    "linear": {"factor": 2.0},
    "ntk": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_context": 12},
    "listed": {"factors": [1.0, 1.5, 2.0, 2.0], "mscale": 1.1},
}
SINGLE: dict[str, dict[str, Any]] = {
    "LLaMA": {},
    **{f"norm {name}": {"norm": name} for name in NORMS},
    "norm prmsnorm, ceil": {"norm": "prmsnorm", "norm_fraction": 0.3, "norm_rounding": "ceil"},
    "norm with eps outside": {"norm_eps_place": "outside", "norm_eps": 1e-8},
    "norm with bias": {"norm_bias": True},
    **{f"placement {name}": {"placement": name} for name in PLACEMENTS},
    **{f"feed-forward {name}": {"feed_forward": name} for name in FEED_FORWARDS},
    "convolution over five, with biases": {
        "feed_forward": "convolution",
        "feed_forward_kernel": 5,
        "feed_forward_bias": True,
    },
    "convolution over one": {"feed_forward": "convolution", "feed_forward_kernel": 1},
    "self-gated with biases": {"feed_forward": "self_gated", "feed_forward_bias": True},
    "feed-forward with biases": {"feed_forward_bias": True},
    "swish beta 2": {"swish_beta": 2.0},
    "swish beta learned": {"swish_beta": "scalar"},
    "swish beta per channel": {"feed_forward": "swish", "swish_beta": "channel"},
    **{f"position {name}": {"position": name} for name in POSITIONS},
    **{
        f"rope scaling {kind}": {"rope_scaling": {"kind": kind, **SCALINGS[kind]}}
        for kind in ROPE_SCALINGS
    },
    "yarn without rounding": {
        "rope_scaling": {"kind": "yarn", **SCALINGS["yarn"], "mscale": 1.0, "truncate": False}
    },
    "no rotation in a layer": {"layers_without_rope": [1]},
    "rotation of half the entries": {"rope_fraction": 0.5},
    "gelu by tanh": {"feed_forward": "gelu", "gelu_approximate": "tanh"},
    "geglu by tanh": {"feed_forward": "geglu", "gelu_approximate": "tanh"},
    "biases of q, k and v": {"attention_bias": "qkv"},
    "biases of all of attention": {"attention_bias": "all"},
    "qk-norm": {"qk_norm": True},
    "qk-norm over all heads": {"qk_norm": True, "qk_norm_over": "width"},
    "sliding window": {"sliding_window": 5},
    "padding": {"padding_id": 3},
}
COMBINED: dict[str, dict[str, Any]] = {
    "all at once": {
        "norm": "layernorm",
        "placement": "post",
        "feed_forward": "geglu",
        "position": "alibi",
    },
    "gated convolutions alone": {
        "attention": "none",
        "placement": "parallel",
        "feed_forward": "convolution",
        "feed_forward_kernel": 4,
        "position": "none",
    },
    "OLMo 2": {"placement": "reordered", "qk_norm": True, "qk_norm_over": "width"},
    "PaLM": {
        "norm": "layernorm",
        "norm_bias": False,
        "placement": "parallel",
        "num_kv_heads": 1,
        "feed_forward_width": 128,
    },
    "GPT-2": {
        "norm": "layernorm",
        "feed_forward": "gelu",
        "feed_forward_bias": True,
        "position": "learned",
        "tie_embeddings": True,
    },
    "the first Transformer": {
        "norm": "layernorm",
        "placement": "post",
        "feed_forward": "relu",
        "feed_forward_bias": True,
        "position": "sinusoidal",
    },
    "a window with slopes": {
        "position": "alibi",
        "sliding_window": 4,
        "num_heads": 6,
        "num_kv_heads": 3,
        "head_width": 6,
    },
}
EVERY = SINGLE | COMBINED


def config_of(changes: dict[str, Any]) -> ModelConfig:
    """The shape with these changes, and a gated layer's width rounded up to a multiple of 8."""
    gated = changes.get("feed_forward", "swiglu") in GATED
    rounding = {"feed_forward_multiple": 8} if gated else {}
    return validate(ModelConfig, {**SHAPE, **rounding, **changes}, "a recipe")


def built(changes: dict[str, Any]) -> Transformer:
    model = build_transformer(config_of(changes))
    init_weights(model, seed=0)
    return model


@pytest.mark.parametrize("name", EVERY)
def test_it_learns(name: str) -> None:
    """Thirty steps on one batch: every parameter that the loss reaches moves, and the loss falls by
    a fifth.

    Without any norm, or with one that does not re-scale, it falls too, at this depth.
    """
    model, ids = (
        built(EVERY[name]).train(),
        torch.randint(4, 40, (4, 17), generator=torch.Generator().manual_seed(1)),
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = (
            linear_cross_entropy(model.hidden_states(ids[:, :-1]), model.output_weight, ids[:, 1:])
            / 64
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(40.0).log().item(), abs=0.25)
    assert losses[-1] < 0.8 * losses[0]
    assert not [
        name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])
    ]


def roughened(changes: dict[str, Any]) -> Transformer:
    """The model with every parameter moved from where it starts, so that a part left out would
    show.
    """
    model = built(changes).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", EVERY)
def test_it_is_saved_and_loaded_whole(name: str, tmp_path: Path) -> None:
    model, ids = roughened(EVERY[name]), torch.randint(0, 40, (2, 20))
    write_model(tmp_path, model, bos_id=1, eos_ids=(2,))
    again = read_model(tmp_path)
    assert dict(again.state_dict()).keys() == dict(model.state_dict()).keys()
    with torch.inference_mode():
        torch.testing.assert_close(again(ids), model(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_cache_changes_nothing_at_any_split(name: str) -> None:
    model, ids = roughened(EVERY[name]), torch.randint(0, 40, (2, 9))
    with torch.inference_mode():
        whole = model(ids)
        for cuts in itertools.chain.from_iterable(
            itertools.combinations(range(1, 9), n) for n in (0, 1, 8)
        ):
            cached = CachedModel(model, 2, 9)
            pieces = [cached(ids[:, a:b]) for a, b in itertools.pairwise((0, *cuts, 9))]
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_it_generates_with_its_cache_as_without(name: str) -> None:
    """Greedy, from a prompt of three to the end of the context."""
    model = roughened(EVERY[name])
    cached = CachedModel(model, 1, 24)
    with_cache, without, new = [5, 17, 8], [5, 17, 8], [5, 17, 8]
    with torch.inference_mode():
        while len(without) < 24:
            new = [int(cached(torch.tensor([new]))[0, -1].argmax())]
            with_cache += new
            without.append(int(model(torch.tensor([without]))[0, -1].argmax()))
    assert with_cache == without


@pytest.mark.parametrize(
    "name", [name for name in EVERY if name not in ("norm none", "norm centernorm")]
)
def test_bfloat16_stays_near(name: str) -> None:
    model, ids = roughened(EVERY[name]), torch.randint(0, 40, (2, 20))
    with torch.inference_mode():
        exact = model(ids)
        logits = model.bfloat16()(ids)
    assert logits.dtype == torch.bfloat16
    assert (logits - exact).norm() < 0.05 * exact.norm()


def test_every_name_says_what_it_is() -> None:
    """The class that stands in the model, for the names whose text says it all."""
    model = built({"norm": "layernorm", "placement": "peri", "feed_forward": "geglu"})
    tree = str(model)
    assert tree.count("LayerNorm((32,), eps=1e-05)") == 4 + 1
    assert "2 x PeriNormBlock(" in tree
    assert "act_fn=gelu" in tree


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"norm": "batchnorm"},
            (
                r"norm: there is no 'batchnorm'; choose one of rmsnorm, layernorm, prmsnorm,"
                r" centernorm, scalenorm, none"
            ),
        ),
        (
            {"placement": "mid"},
            r"placement: there is no 'mid'; choose one of pre, post, peri, reordered",
        ),
        (
            {"feed_forward": "swigloo"},
            (
                r"there is no 'swigloo'; choose one of relu, relu2, gelu, swish, glu, bilinear,"
                r" reglu, geglu, swiglu"
            ),
        ),
        (
            {"position": "absolute"},
            r"there is no 'absolute'; choose one of rope, learned, sinusoidal, alibi, none",
        ),
        (
            {"position": "alibi", "rope_scaling": {}},
            r"rope_scaling = \{\} means nothing with position = alibi: leave it out \(null\)",
        ),
        ({"head_width": 7}, r"head_width 7 is odd, but rotary positions turn pairs"),
        ({"num_heads": 4, "num_kv_heads": 3}, r"num_heads 4 is not a multiple of num_kv_heads 3"),
        (
            {"norm": "prmsnorm", "norm_fraction": 0.01},
            r"norm_fraction 0.01 of 32 entries is less than one: raise it to 0.03125 or more",
        ),
        (
            {"norm": "prmsnorm", "qk_norm": True},
            r"norm_fraction 0.0625 of 8 entries is less than one: raise it to 0.125",
        ),
        (
            {"norm_fraction": 0.5},
            r"norm_fraction = 0.5 means nothing with norm = rmsnorm: .* takes it \(prmsnorm\)",
        ),
        ({"norm_rounding": "ceil"}, r"norm_rounding = 'ceil' means nothing with norm = rmsnorm"),
        (
            {"norm": "layernorm", "norm_eps_place": "outside"},
            (
                r"norm_eps_place = 'outside' means nothing with norm = layernorm: leave it out"
                r" \(null\), or choose one that takes it \(rmsnorm, prmsnorm\)"
            ),
        ),
        (
            {"norm": "centernorm", "norm_bias": True},
            r"norm_bias = True means nothing with norm = centernorm",
        ),
        ({"norm": "centernorm", "norm_eps": 1e-3}, r"norm_eps = 0.001 means nothing with norm = c"),
        ({"norm": "none", "norm_eps": 1e-3}, r"norm_eps = 0.001 means nothing with norm = none"),
        ({"position": "alibi", "rope_base": 5e5}, r"rope_base = 500000.0 means nothing with pos"),
        (
            {"feed_forward": "relu", "feed_forward_multiple": 64},
            (
                r"feed_forward_multiple = 64 means nothing with feed_forward = relu: leave it out"
                r" \(null\), or choose one that takes it \(glu, bilinear, reglu, geglu, swiglu\)"
            ),
        ),
        (
            {"norm": "none", "norm_eps": 1e-3, "position": "none", "rope_base": 3.0},
            r"norm_eps = 0.001 means .*; rope_base = 3.0 means nothing with position",
        ),
        (
            {"norm": "none", "qk_norm": True},
            r"qk_norm normalises with the model's norm, but norm is none",
        ),
        (
            {"feed_forward": "gelu", "swish_beta": 2.0},
            r"swish_beta = 2.0 means nothing with feed_forward = gelu: .* \(swish, swiglu\)",
        ),
        (
            {"position": "sinusoidal", "width": 33, "num_heads": 3, "num_kv_heads": 3},
            r"width 33 is odd, but sinusoidal",
        ),
        (
            {"attention": "none"},
            (
                r"attention none with feed_forward swiglu sees one position: choose convolution"
                r".*; placement pre has norms for .*; position rope works in attention"
            ),
        ),
        ({"sliding_window": 0}, r"sliding_window = 0: .*greater than 0"),
        ({"padding_id": 40}, r"padding_id 40 is not below vocab_size 40"),
        (
            {"rope_scaling": {"kind": "dynamic"}},
            r"rope_scaling.kind: there is no 'dynamic'; choose one of llama3, linear, ntk, yarn",
        ),
        (
            {"rope_scaling": {"kind": "linear", "beta_fast": 3.0}},
            r"beta_fast = 3.0 means nothing with kind = linear: leave it out",
        ),
        ({"rope_scaling": {"kind": "yarn"}}, r"yarn requires original_context"),
        (
            {"rope_scaling": {"kind": "yarn", "original_context": 8, "beta_slow": 99.0}},
            r"beta_slow 99.0 must be below beta_fast 32.0",
        ),
    ],
)
def test_the_impossible_is_rejected_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(changes)


@pytest.mark.parametrize("name", EVERY)
def test_a_dumped_config_is_read_back(name: str) -> None:
    config = config_of(EVERY[name])
    assert ModelConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", list(UNGATED))
def test_an_ungated_layer_is_four_times_as_wide(name: str) -> None:
    assert config_of({"feed_forward": name}).feed_forward_width == 128


def test_gated_and_ungated_layers_have_as_many_parameters() -> None:
    """Within the rounding up to a multiple of 8: 8 D^2 = 8192 against 3 D 88 = 8448."""
    sizes = {
        name: sum(p.numel() for p in built({"feed_forward": name}).layers[0].mlp.parameters())
        for name in FEED_FORWARDS
    }
    assert {sizes[name] for name in UNGATED} == {8192}
    assert {sizes[name] for name in GATED} == {8448}
    assert sizes["self_gated"] == 8192
    assert sizes["convolution"] == 7 * 32 * 37  # F = 8 D / 7, rounded up


def test_a_convolution_keeps_no_documents_apart() -> None:
    model = built({"feed_forward": "convolution"})
    with pytest.raises(ValueError, match="cannot be kept apart by feed-forward layers that look"):
        model.hidden_states(torch.zeros(1, 4).long(), documents=torch.zeros(1, 4).long())


FAMILIES = {
    "norm": NORMS,
    "placement": PLACEMENTS,
    "feed-forward": FEED_FORWARDS,
    "position": POSITIONS,
    "rope scaling": ROPE_SCALINGS,
    "schedule": SCHEDULES,
    "optimizer": OPTIMIZERS,
}


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param(choice, id=f"{family} {name}")
        for family, table in FAMILIES.items()
        for name, choice in table.items()
    ],
)
def test_a_line_and_its_class_agree(choice: Choice) -> None:
    """The class exists, takes every option of its line, and has the same default, where it has
    one.
    """
    target = choice.load()
    if not choice.arguments:
        return
    parameters = inspect.signature(target).parameters
    for key, argument in choice.arguments.items():
        default = parameters[argument].default
        if default is not inspect.Parameter.empty and not choice.options[key].is_required():
            assert default == choice.options[key].default, f"{choice.target}: {argument}"


def test_what_a_preset_brings_is_no_request() -> None:
    """LLaMA's epsilon and its rounding are of no use to these parts, and not what was asked for;
    what is given on top of the preset is.
    """
    seven = {"preset": "llama-7b", "norm": "centernorm", "position": "alibi"}
    config = validate(ModelConfig, seven, "a recipe")
    assert (config.norm_eps, config.rope_base) == (1e-6, 10000.0)
    assert ModelConfig.model_validate(config.model_dump(mode="json")) == config
    scaled = {"preset": "llama-3.2-1b", "position": "none"}
    assert validate(ModelConfig, scaled, "a recipe").rope_base == 500000.0
    with pytest.raises(ConfigError, match=r"norm_eps = 1e-07 means nothing with norm = centernorm"):
        validate(ModelConfig, {**seven, "norm_eps": 1e-7}, "a recipe")


class Alpha(torch.nn.Module):
    """tanh(alpha x) * weight: a norm of somebody else's, with a start value of its own."""

    def __init__(self, width: int, alpha_init: float = 0.5) -> None:
        super().__init__()
        self.alpha_init = alpha_init
        self.alpha = torch.nn.Parameter(torch.empty(1))
        self.weight = torch.nn.Parameter(torch.empty(width))

    def reset_parameters(self) -> None:
        torch.nn.init.constant_(self.alpha, self.alpha_init)
        torch.nn.init.ones_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.alpha * x) * self.weight


class Forgetful(CenterNorm):
    """Leaves the start of a further parameter to a class that does not know it."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.alpha = torch.nn.Parameter(torch.full((1,), 0.5))


def with_norm(norm: Callable[[], torch.nn.Module]) -> Transformer:
    """A model with this one as its final norm, without memory for its weights yet."""
    model = build_transformer(config_of({}), "meta")
    model.norm = norm().to("meta")
    return model.to_empty(device="cpu")


def test_a_part_starts_where_it_says() -> None:
    model = with_norm(lambda: Alpha(32, 0.75))
    init_weights(model, seed=0)
    assert model.norm.alpha.tolist() == [0.75]
    assert model.norm.weight.tolist() == [1.0] * 32


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (lambda: Forgetful(32), "the start of Forgetful.alpha is not known here: give the class a"),
        (lambda: torch.nn.ParameterList([torch.zeros(3)]), "ParameterList has parameters without"),
    ],
)
def test_a_part_that_does_not_say_where_it_starts_is_an_error(
    norm: Callable[[], torch.nn.Module], message: str
) -> None:
    """An alpha of 0.5 once became 0, without a word."""
    with pytest.raises(TypeError, match=message):
        init_weights(with_norm(norm), seed=0)
