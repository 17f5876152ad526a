"""Folders of LLaMA's relatives as people have them: each gives transformers' logits, or a message
that says what it is.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folder_shapes import (
    SHAPES,
    SIZES,
    Shape,
    difference,
    families,
    quietly,
    random_model,
    tolerance,
)
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from puna.errors import ModelFolderError
from puna.model.adapters import write_merged
from puna.model.weights import read_model, write_model

quietly()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_folder_gives_the_same_logits_or_says_what_it_is(shape: Shape, tmp_path: Path) -> None:
    if not shape.refusal:
        assert difference(shape, tmp_path / "model") <= tolerance(shape)
        return
    with pytest.raises(ModelFolderError) as caught:
        difference(shape, tmp_path / "model")
    assert shape.refusal in str(caught.value)
    assert len(str(caught.value)) < 1500, "a message is to be read"


def test_the_readme_counts_the_shapes() -> None:
    refused = sum(bool(shape.refusal) for shape in SHAPES)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"{len(SHAPES) - refused} shapes of folder with logits equal" in readme
    assert f"{refused} more refused by message" in readme


@pytest.mark.parametrize("name", ["mistral, window", "smollm3", "granite", "olmo2", "qwen2, yarn"])
def test_the_comparison_sees_a_part_that_is_left_out(name: str, tmp_path: Path) -> None:
    """Read as the family's plainest member, each of these is off by far more than rounding."""
    (shape,) = (shape for shape in SHAPES if shape.name == name)
    theirs = random_model(shape)
    theirs.save_pretrained(tmp_path)
    plain = {
        "mistral": {"sliding_window": None},
        "smollm3": {"no_rope_layers": [1] * SIZES["num_hidden_layers"]},
        "granite": {"residual_multiplier": 1.0},
        "olmo2": {"rms_norm_eps": 0.5},
        "qwen2": {"rope_parameters": None},
    }
    ids = torch.randint(3, 48, (2, 24))
    with torch.no_grad():
        expected = theirs(ids).logits
        theirs.config.update(plain[shape.model_type])
        theirs.config.save_pretrained(tmp_path)
        off = float((read_model(tmp_path)(ids) - expected).abs().max())
    assert off > 50 * tolerance(shape)


def test_folded_multipliers_are_no_worse_in_bfloat16(tmp_path: Path) -> None:
    """Weights times a multiplier are rounded once; transformers rounds what it multiplies at run
    time. Both are held against float32.
    """
    (shape,) = (shape for shape in SHAPES if shape.name == "granite")
    half, whole = random_model(replace(shape, dtype=torch.bfloat16)), random_model(shape)
    half.save_pretrained(tmp_path)
    whole.load_state_dict({name: tensor.float() for name, tensor in half.state_dict().items()})
    ids = torch.randint(3, 48, (8, 24))
    with torch.no_grad():
        exact = whole(ids).logits
        ours, theirs = read_model(tmp_path)(ids), half(ids).logits
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).square().mean() < 1.5 * (theirs - exact).square().mean()


# what differs from its neighbour in the output layer or in a key that does nothing is left out
SAME = ("tied", "switched off", "in no layer", "multi-head", "left out", "no multipliers")
READ = [
    shape
    for shape in families()
    if not shape.refusal and not shape.name.endswith(SAME) and "ignored" not in shape.name
]


@pytest.mark.parametrize("shape", READ, ids=lambda shape: shape.name)
def test_what_was_read_is_written_so_that_it_is_read_again(shape: Shape, tmp_path: Path) -> None:
    """Written again, a folder gives the same logits, in transformers too: all but a partial
    rotation have a model_type of its.
    """
    random_model(shape).save_pretrained(tmp_path / "theirs")
    if shape.change is not None:
        shape.change(tmp_path / "theirs")
    ours = read_model(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    write_model(tmp_path / "ours", ours)
    ids = torch.randint(3, 48, (2, 24))
    assert torch.equal(read_model(tmp_path / "ours")(ids), ours(ids))
    if "partial" in shape.name:
        assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "puna"
        return
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    with torch.no_grad():
        assert float((ours(ids) - again(ids).logits).abs().max()) <= tolerance(shape)


@pytest.mark.parametrize("name", ["granite", "phi3, window", "mistral, window", "llama, tied"])
def test_a_merged_folder_says_what_its_weights_are(name: str, tmp_path: Path) -> None:
    """Folded and split weights beside the source's config.json would be multiplied twice, or be
    sought under other names; here an adapter of zeros is merged.
    """
    (shape,) = (shape for shape in SHAPES if shape.name == name)
    theirs = random_model(shape)
    theirs.save_pretrained(tmp_path / "source")
    adapter = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
    tensors = {
        f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_{letter}.weight": torch.zeros(size)
        for layer in range(SIZES["num_hidden_layers"])
        for letter, size in {"A": (2, 32), "B": (40, 2)}.items()
    }
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    write_merged(tmp_path / "source", tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert (merged.config.bos_token_id, merged.config.eos_token_id) == (1, 2)
    ids = torch.randint(3, 48, (2, 24))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert float((merged(ids).logits - expected).abs().max()) <= tolerance(shape)
        assert float((read_model(tmp_path / "merged")(ids) - expected).abs().max()) <= 2e-5
