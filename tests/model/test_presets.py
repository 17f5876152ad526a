"""Every published LLaMA on the meta device: its exact number of parameters, its tree, its
constants.
"""

import pytest

from puna.model.accounting import count_parameters
from puna.model.config import ModelConfig
from puna.model.presets import PRESETS
from puna.model.transformer import build_transformer

PUBLISHED = {
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
}


def config_of(name: str) -> ModelConfig:
    return ModelConfig.model_validate({"preset": name})


def test_every_llama_is_checked() -> None:
    assert PUBLISHED.keys() == {name for name in PRESETS if name.startswith("llama")}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_the_published_number_and_the_accounted_one(name: str) -> None:
    config = config_of(name)
    built = sum(p.numel() for p in build_transformer(config, "meta").parameters())
    assert built == count_parameters(config).total
    if name in PUBLISHED:
        assert built == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - PUBLISHED.keys()))
def test_names_of_the_small_ones_say_their_size(name: str) -> None:
    millions = int(name.removeprefix("puna-").removesuffix("m"))
    assert count_parameters(config_of(name)).total / 1e6 == pytest.approx(millions, abs=0.5)


def test_the_printed_tree_of_65b() -> None:
    model = build_transformer(config_of("llama-65b"), "meta")
    tree = repr(model)
    assert len(model.layers) == 80
    assert "(0-79): 80 x PreNormBlock(" in tree
    for line in (
        "(embed_tokens): Embedding(32000, 8192, padding_idx=0)",
        "(q_proj): Linear(in_features=8192, out_features=8192, bias=False)",
        "(k_proj): Linear(in_features=8192, out_features=8192, bias=False)",
        "(v_proj): Linear(in_features=8192, out_features=8192, bias=False)",
        "(o_proj): Linear(in_features=8192, out_features=8192, bias=False)",
        "(gate_proj): Linear(in_features=8192, out_features=22016, bias=False)",
        "(up_proj): Linear(in_features=8192, out_features=22016, bias=False)",
        "(down_proj): Linear(in_features=22016, out_features=8192, bias=False)",
        "(input_layernorm): RMSNorm((8192,), eps=1e-05)",
        "(post_attention_layernorm): RMSNorm((8192,), eps=1e-05)",
        "(lm_head): Linear(in_features=8192, out_features=32000, bias=False)",
    ):
        assert tree.count(line) == 1, line


@pytest.mark.parametrize(
    ("name", "context", "base", "factor", "eps", "kv_heads", "tied"),
    [
        ("llama-7b", 2048, 1e4, None, 1e-6, 32, False),
        ("llama-65b", 2048, 1e4, None, 1e-5, 64, False),
        ("llama-2-13b", 4096, 1e4, None, 1e-5, 40, False),
        ("llama-2-70b", 4096, 1e4, None, 1e-5, 8, False),
        ("llama-3-8b", 8192, 5e5, None, 1e-5, 8, False),
        ("llama-3.1-405b", 131072, 5e5, 8.0, 1e-5, 8, False),
        ("llama-3.2-1b", 131072, 5e5, 32.0, 1e-5, 8, True),
        ("llama-3.2-3b", 131072, 5e5, 32.0, 1e-5, 8, True),
    ],
)
def test_constants(
    name: str,
    context: int,
    base: float,
    factor: float | None,
    eps: float,
    kv_heads: int,
    tied: bool,
) -> None:
    config = config_of(name)
    assert (config.context_length, config.rope_base, config.norm_eps) == (context, base, eps)
    assert (config.num_kv_heads, config.tie_embeddings) == (kv_heads, tied)
    assert (config.rope_scaling and config.rope_scaling.factor) == factor
