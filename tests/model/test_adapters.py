"""Adapters that PEFT made: the same logits attached, merged and mixed in a batch. What is rejected
is in test_adapter_folders.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_adapters import save_adapter, save_llama
from safetensors.torch import load_file
from torch import Tensor

from puna.errors import ModelFolderError, RequestError
from puna.model.adapter_config import CONFIG
from puna.model.adapters import TENSORS, attach, merge, read_adapter
from puna.model.transformer import Transformer
from puna.model.weights import read_model
from puna.nn.lora import LoRALinear

PLAIN: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
IDS = torch.arange(36).view(2, 18) * 7 % 50


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("adapters") / "base")


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    """Three adapters of unlike ranks and targets."""
    options: dict[str, dict[str, Any]] = {
        "tales": PLAIN,
        "sums.v2": {
            "r": 2,
            "lora_alpha": 9,
            "target_modules": ["gate_proj", "down_proj", "q_proj"],
            "layers_to_transform": [1],
        },
        "wide": {"r": 30, "use_rslora": True, "target_modules": "all-linear"},
    }
    folders = {name: base.parent / name for name in options}
    for seed, (name, folder) in enumerate(folders.items()):
        save_adapter(folder, base, seed=seed, **options[name])
    return folders


@torch.inference_mode()
def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    found = model(ids)
    return found if isinstance(found, Tensor) else found.logits


# Parity with PEFT


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"r": 8, "lora_alpha": 3},
        {"target_modules": "all-linear"},
        {"target_modules": ["gate_proj", "up_proj", "down_proj", "o_proj", "k_proj"], "r": 1},
        {"target_modules": r".*\.layers\.[02]\.(self_attn|mlp)\.(q|k|up)_proj"},
        {"target_modules": ["model.layers.2.mlp.down_proj", "self_attn.q_proj"]},
        {"use_rslora": True, "r": 9},
        {"rank_pattern": {"v_proj": 7, r"layers\.1\.self_attn\.q_proj": 2}},
        {"alpha_pattern": {"q_proj": 1, "^model.layers.0.self_attn.v_proj": 30}},
        {
            "use_rslora": True,
            "rank_pattern": {"q_proj": 9},
            "alpha_pattern": {"layers.2.self_attn.q_proj": 2.5},
        },
        {"layers_to_transform": [0, 2]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"layers_to_transform": 1, "target_modules": ["q_proj", "model.layers.0.mlp.up_proj"]},
        {"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj", "k_proj"]},
        {"target_modules": ["up_proj", "o_proj"], "exclude_modules": r".*layers\.1\..*"},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.3, "task_type": "CAUSAL_LM"},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=str,
)
def test_an_adapter_computes_what_it_does_in_peft(
    options: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    theirs = save_adapter(tmp_path / "adapter", base, **{**PLAIN, **options})
    model = read_model(base)
    plain = logits(model)
    adapters = attach(model, {"one": tmp_path / "adapter"})
    assert torch.equal(logits(model), plain), "until rows are selected the model is what it was"
    adapters.select([("one", 0, IDS.numel())])
    expected = logits(theirs)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    assert (expected - plain).abs().max() > 0.01, "an adapter this weak would agree by chance"
    merged = read_model(base)
    merge(merged, tmp_path / "adapter")
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"tie_word_embeddings": True}, {"mlp_bias": True}, {"num_key_value_heads": 4}],
    ids=str,
)
def test_other_shapes_of_the_model(changes: dict[str, Any], tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", **changes)
    theirs = save_adapter(tmp_path / "adapter", base, **{**PLAIN, "target_modules": "all-linear"})
    model = read_model(base)
    attach(model, {"one": tmp_path / "adapter"}).select([("one", 0, IDS.numel())])
    torch.testing.assert_close(logits(model), logits(theirs), rtol=0, atol=1e-5)


def test_an_adapter_in_float32_of_a_model_in_bfloat16(tmp_path: Path) -> None:
    """PEFT trains and keeps A and B in float32 beside bfloat16 weights; here all arithmetic is in
    the model's dtype.
    """
    base = save_llama(tmp_path / "base", torch.bfloat16)
    theirs = save_adapter(tmp_path / "adapter", base, **PLAIN)
    assert load_file(tmp_path / "adapter" / TENSORS).popitem()[1].dtype == torch.float32
    model = read_model(base)
    attach(model, {"one": tmp_path / "adapter"}).select([("one", 0, IDS.numel())])
    found, expected = logits(model), logits(theirs)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected.float()).norm() < 0.02 * expected.float().norm()


def test_merging_rounds_once(tmp_path: Path) -> None:
    """Each weight is the bfloat16 number nearest to the sum in full width, which a delta that is
    rounded first would miss.
    """
    base = save_llama(tmp_path / "base", torch.bfloat16)
    save_adapter(tmp_path / "adapter", base, **PLAIN)
    model: Transformer = read_model(base)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    changed = merge(model, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / TENSORS)
    for name, parameter in model.named_parameters():
        layer = name.removesuffix(".weight")
        if layer in changed:
            a, b = (
                tensors[f"base_model.model.model.{layer}.lora_{letter}.weight"].double()
                for letter in "AB"
            )
            exact = before[name].double() + 2.0 * b @ a
            # of the last of bfloat16's 8 significant bits
            half_unit = torch.exp2(exact.frexp().exponent - 9.0)
            assert ((parameter.double() - exact).abs() <= 1.001 * half_unit).all(), name
        else:
            assert torch.equal(parameter, before[name]), name
    assert changed == [
        f"layers.{layer}.self_attn.{kind}_proj" for layer in range(3) for kind in "qv"
    ]


def test_all_linear_that_was_never_spelled_out(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT writes the names that it found; a configuration from elsewhere may still say the
    word.
    """
    model, values = read_model(base), json.loads((adapters["wide"] / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(values | {"target_modules": "All-Linear"}))
    (tmp_path / TENSORS).write_bytes((adapters["wide"] / TENSORS).read_bytes())
    assert read_adapter(tmp_path, model).keys() == read_adapter(adapters["wide"], model).keys()


# Several at a time


def test_a_mixed_batch_is_each_adapter_alone(base: Path, adapters: dict[str, Path]) -> None:
    names: list[str | None] = ["wide", None, "tales", "sums.v2", None, "tales"]
    ids = torch.randint(0, 50, (6, 9), generator=torch.Generator().manual_seed(0))
    alone = []
    for row, name in enumerate(names):
        model = read_model(base)
        if name is not None:
            merge(model, adapters[name])
        alone.append(logits(model, ids[row : row + 1]))
    model = read_model(base)
    attached = attach(model, adapters)
    assert attached.names == ("tales", "sums.v2", "wide")
    attached.select([(name, 9 * row, 9 * row + 9) for row, name in enumerate(names)])
    torch.testing.assert_close(logits(model, ids), torch.cat(alone), rtol=0, atol=1e-5)


def test_rows_without_an_adapter_keep_their_bits(base: Path, adapters: dict[str, Path]) -> None:
    model = read_model(base)
    plain = logits(model)
    attach(model, adapters).select([("wide", 18, 36)])
    mixed = logits(model)
    assert torch.equal(mixed[0], plain[0])
    assert not torch.allclose(mixed[1], plain[1], atol=0.1)


def test_selecting_nothing_gives_the_model_back(base: Path, adapters: dict[str, Path]) -> None:
    model = read_model(base)
    plain, names = logits(model), list(model.state_dict())
    attached = attach(model, adapters)
    attached.select([("tales", 0, 36)])
    assert not torch.equal(logits(model), plain)
    attached.select([])
    assert torch.equal(logits(model), plain)
    assert list(model.state_dict()) == names


def test_only_layers_that_an_adapter_aims_at_are_changed(
    base: Path, adapters: dict[str, Path]
) -> None:
    model = read_model(base)
    attach(model, {name: adapters[name] for name in ("tales", "sums.v2")})
    changed = {
        name: list(module.factors)
        for name, module in model.named_modules()
        if isinstance(module, LoRALinear)
    }
    expected = {
        f"layers.{layer}.self_attn.{kind}_proj": ["tales"] for layer in range(3) for kind in "qv"
    }
    expected["layers.1.self_attn.q_proj"] = ["tales", "sums.v2"]
    assert changed == expected | {
        f"layers.1.mlp.{kind}_proj": ["sums.v2"] for kind in ("gate", "down")
    }


def test_an_adapter_that_is_not_there(base: Path, adapters: dict[str, Path]) -> None:
    attached = attach(read_model(base), adapters)
    with pytest.raises(
        RequestError, match=r"there is no adapter 'tale'; the model has tales, sums\.v2, wide"
    ):
        attached.select([("tales", 0, 3), ("tale", 3, 4)])


@pytest.mark.parametrize(
    "segments",
    [[("tales", 0, 3), ("wide", 2, 4)], [("tales", 3, 4), ("wide", 0, 2)], [("tales", -2, 4)]],
    ids=str,
)
def test_segments_in_disorder_are_a_bug(
    segments: list[tuple[str, int, int]], base: Path, adapters: dict[str, Path]
) -> None:
    attached = attach(read_model(base), adapters)
    with pytest.raises(AssertionError):
        attached.select(segments)


def test_adapters_are_attached_once(base: Path, adapters: dict[str, Path]) -> None:
    model = read_model(base)
    attach(model, adapters)
    with pytest.raises(
        ModelFolderError, match="has adapters already: attach all of them in one call"
    ):
        attach(model, adapters)
