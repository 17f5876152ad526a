"""Model folders: what is written, what comes back, one file or many."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaForCausalLM

from puna.errors import ModelFolderError
from puna.model.folder_files import INDEX, WEIGHTS, weight_files
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors, read_config, read_model, write_model
from puna.nn import quantize_linears


def assert_same_model(one: Transformer, other: Transformer) -> None:
    assert one.config == other.config
    expected = dict(other.named_parameters())
    assert expected.keys() == dict(one.named_parameters()).keys()
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"rope_base": 500000.0, "rope_scaling": {"factor": 32.0, "original_context": 16}},
        {"head_width": 10, "norm_eps": 1e-6},
    ],
)
def test_round_trip(small_model: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    write_model(tmp_path, model)
    again = read_model(tmp_path)
    assert_same_model(again, model)
    assert not again.training
    ids = torch.randint(0, 50, (2, 9))
    assert torch.equal(again(ids), model(ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_the_file_s_unless_asked_otherwise(
    small_model: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = small_model().to(dtype)
    write_model(tmp_path, model)
    assert_same_model(read_model(tmp_path), model)
    assert {p.dtype for p in read_model(tmp_path).parameters()} == {dtype}
    assert {p.dtype for p in read_model(tmp_path, dtype=torch.float32).parameters()} == {
        torch.float32
    }
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == str(
        dtype
    ).removeprefix("torch.")


def test_a_folder_that_mixes_dtypes_is_read_as_float32(small_model: Any, tmp_path: Path) -> None:
    model = small_model().bfloat16()
    model.norm.float()
    write_model(tmp_path, model)
    assert {p.dtype for p in read_model(tmp_path).parameters()} == {torch.float32}


def test_tensors_have_hugging_face_s_names(small_model: Any, tmp_path: Path) -> None:
    model = small_model()
    write_model(tmp_path, model)
    with torch.device("meta"):
        theirs = LlamaForCausalLM(
            LlamaForCausalLM.config_class.from_pretrained(tmp_path)
        ).state_dict()
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        assert {name: file.get_slice(name).get_shape() for name in file.keys()} == {  # noqa: SIM118  (not a dict)
            name: list(tensor.shape) for name, tensor in theirs.items()
        }
        assert file.metadata() == {"format": "pt"}


def test_tied_weights_are_stored_once(small_model: Any, tmp_path: Path) -> None:
    write_model(tmp_path, small_model(tie_embeddings=True))
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118  (not a dict)


def test_shards_follow_the_index_and_come_back(small_model: Any, tmp_path: Path) -> None:
    """Every shard within the limit but for a tensor that is larger alone; every tensor in exactly
    the file that the index says.
    """
    model, limit = small_model(), 6000
    write_model(tmp_path, model, shard_bytes=limit)
    index = json.loads((tmp_path / INDEX).read_text())
    files = weight_files(tmp_path)
    assert not (tmp_path / WEIGHTS).exists()
    assert len(files) > 3
    assert [file.name for file in files] == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    held: dict[str, str] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118  (not a dict)
        assert sum(sizes.values()) <= limit or len(sizes) == 1
        held |= dict.fromkeys(sizes, path.name)
    assert held == index["weight_map"]
    assert held.keys() == dict(named_tensors(model)).keys()
    assert_same_model(read_model(tmp_path), model)


def test_transformers_reads_shards(small_model: Any, tmp_path: Path) -> None:
    model = small_model()
    write_model(tmp_path, model, shard_bytes=6000)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path).state_dict()
    for name, tensor in named_tensors(model):
        assert torch.equal(theirs[name], tensor), name


def test_config_json_says_what_transformers_asks(small_model: Any, tmp_path: Path) -> None:
    write_model(tmp_path, small_model(rope_scaling={"factor": 4.0}), bos_id=1, eos_ids=(2,))
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["architectures"] == ["LlamaForCausalLM"]
    expected = {
        "model_type": "llama",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_hidden_layers": 2,
        "vocab_size": 50,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_theta": 10000.0,
    }
    assert {key: values[key] for key in expected} == expected
    assert values["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize(("ends", "written"), [((), None), ((2,), 2), ((2, 3), [2, 3])])
def test_generation_config_says_where_to_stop(
    small_model: Any, tmp_path: Path, ends: tuple[int, ...], written: object
) -> None:
    write_model(tmp_path, small_model(), bos_id=0, eos_ids=ends)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": written,
    }
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == written


def test_puna_json_holds_the_whole_config_and_the_provenance(
    small_model: Any, tmp_path: Path
) -> None:
    model = small_model()
    write_model(tmp_path, model, provenance={"recipe": "0123456789abcdef", "tokens": 12})
    values = json.loads((tmp_path / "puna.json").read_text())
    assert type(model.config).model_validate(values["model"]) == model.config
    assert {key: value for key, value in values.items() if key != "model"} == {
        "recipe": "0123456789abcdef",
        "tokens": 12,
    }


def test_reading_leaves_the_shape_alone_if_there_are_no_weights(
    small_model: Any, tmp_path: Path
) -> None:
    """`read_config` needs no weights, `read_model` does."""
    model = small_model()
    write_model(tmp_path, model)
    (tmp_path / WEIGHTS).unlink()
    assert read_config(tmp_path) == model.config
    with pytest.raises(ModelFolderError, match=f"holds no {WEIGHTS} and no {INDEX}"):
        read_model(tmp_path)


def test_reads_to_the_meta_device_without_memory(small_model: Any, tmp_path: Path) -> None:
    write_model(tmp_path, small_model())
    assert all(p.is_meta for p in read_model(tmp_path, "meta").parameters())


def test_a_model_with_layers_of_four_bits_is_not_written(small_model: Any, tmp_path: Path) -> None:
    """Its matrices are no parameters: once a folder without them was written, and nobody was
    told.
    """
    model = small_model()
    quantize_linears(model)
    with pytest.raises(
        ModelFolderError,
        match="layers of four bits cannot be written: write the one that it was made from",
    ):
        write_model(tmp_path, model)
    assert not list(tmp_path.iterdir())
