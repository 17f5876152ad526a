"""Adapter folders that cannot be honoured: one ModelFolderError each, that says all that is wrong,
and a model that stays as it was.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_adapters import save_adapter, save_llama
from safetensors.torch import load_file, save_file
from torch import Tensor

from puna.errors import ModelFolderError
from puna.model.adapter_config import CONFIG
from puna.model.adapters import TENSORS, attach, merge, read_adapter
from puna.model.weights import read_model
from puna.nn import quantize_linears
from puna.nn.lora import LoRALinear

PLAIN: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("adapters") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    save_adapter(base.parent / "whole", base, **PLAIN)
    return base.parent / "whole"


@pytest.fixture
def copied(adapter: Path, tmp_path: Path) -> Path:
    """A copy of the adapter, to be damaged."""
    for name in (CONFIG, TENSORS):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    return tmp_path


def rewrite(folder: Path, **changes: Any) -> None:
    """Change keys of the adapter_config.json; None deletes one."""
    values = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(
        json.dumps(
            {key: value for key, value in values.items() if key not in changes or value is not None}
        )
    )


# Configurations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\] is not supported"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices = \[3\] is not supported"),
        ({"layer_replication": [[0, 2]]}, r"layer_replication = \[\[0, 2\]\] is not supported"),
        (
            {"target_parameters": ["experts.w"]},
            r"target_parameters = \['experts.w'\] is not supported",
        ),
        ({"lora_bias": True}, "lora_bias = True is not supported"),
        ({"use_qalora": True}, "use_qalora = True is not supported"),
        (
            {"alora_invocation_tokens": [1, 2]},
            r"alora_invocation_tokens = \[1, 2\] is not supported",
        ),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config = {'loftq_bits': 4} is not supported"),
        ({"eva_config": {"rho": 2.0}}, "eva_config = {'rho': 2.0} is not supported"),
        ({"corda_config": {"verbose": False}}, "corda_config = .* is not supported"),
        ({"megatron_config": {"tensor_parallel": 2}}, "megatron_config = .* is not supported"),
        ({"some_later_invention": 0.5}, "some_later_invention = 0.5 is not supported"),
        ({"some_count": 0}, "some_count = 0 is not supported"),
        ({"bias": "all"}, "bias = 'all': Input should be 'none'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True: Input should be False"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights.* = 'pissa_niter_4': Input should be 'gaussian' or 'orthogonal'",
        ),
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA': Input should be 'LORA'"),
        ({"peft_type": None}, "peft_type is required"),
        ({"r": 0}, "r = 0: Input should be greater than 0"),
        ({"r": "4"}, "r = '4': Input should be a valid integer"),
        ({"r": None}, "r is required"),
        ({"lora_alpha": None}, "lora_alpha is required"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan: Input should be a finite number"),
        (
            {"rank_pattern": {"q_proj": 0}},
            "rank_pattern.q_proj = 0: Input should be greater than 0",
        ),
        ({"rank_pattern": {"q_(proj": 3}}, r"rank_pattern: 'q_\(proj' is not a regular expression"),
        ({"target_modules": "(q_proj"}, r"target_modules: '\(q_proj' is not a regular expression"),
        ({"target_modules": None}, "target_modules is required"),
        (
            {"target_modules": "q_proj", "layers_to_transform": [1]},
            "layers_to_transform goes with a list of target_modules",
        ),
        (
            {"layers_to_transform": [0], "layers_pattern": "h"},
            "layers_pattern.* = 'h': Input should be 'layers'",
        ),
    ],
    ids=str,
)
def test_what_would_change_the_result_is_rejected(
    changes: dict[str, Any], message: str, copied: Path, base: Path
) -> None:
    rewrite(copied, **changes)
    with pytest.raises(ModelFolderError, match=message) as caught:
        read_adapter(copied, read_model(base))
    assert str(caught.value).startswith(
        f"{copied / CONFIG} describes an adapter that cannot be applied here"
    )
    assert str(caught.value).endswith(
        "merge it there (merge_and_unload, then save_pretrained) and use the merged folder"
    )


def test_one_error_lists_every_key(copied: Path, base: Path) -> None:
    rewrite(copied, use_dora=True, bias="all", r=-1, use_qalora=True)
    with pytest.raises(ModelFolderError) as caught:
        read_adapter(copied, read_model(base))
    assert all(
        key in str(caught.value)
        for key in ("use_dora = True", "use_qalora = True", "bias = 'all'", "r = -1")
    )


def test_unknown_keys_that_are_empty_say_nothing(copied: Path, base: Path) -> None:
    rewrite(copied, later={}, invented=[], by=False, someone="")
    values = json.loads((copied / CONFIG).read_text()) | {"else": None}
    (copied / CONFIG).write_text(json.dumps(values))
    assert len(read_adapter(copied, read_model(base))) == 6


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}], ids=str
)
def test_what_peft_itself_writes_of_these_is_rejected(
    options: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    save_adapter(tmp_path / "adapter", base, **PLAIN, **options)
    with pytest.raises(ModelFolderError, match=next(iter(options))):
        read_adapter(tmp_path / "adapter", read_model(base))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_embeddings_and_the_output_layer_have_no_adapter(
    target: str, tied: bool, tmp_path: Path
) -> None:
    base = save_llama(tmp_path / "base", tie_word_embeddings=tied)
    save_adapter(tmp_path / "adapter", base, **{**PLAIN, "target_modules": ["q_proj", target]})
    with pytest.raises(
        ModelFolderError,
        match=rf"puts an adapter on (model\.)?{target}, but here only linear layers of the blocks",
    ):
        read_adapter(tmp_path / "adapter", read_model(base))


def test_targets_that_the_model_does_not_have(copied: Path, base: Path) -> None:
    rewrite(copied, target_modules=["c_attn"])
    with pytest.raises(
        ModelFolderError,
        match=(
            r"target_modules = \['c_attn'\], which no linear layer .* down_proj, gate_proj, k_proj"
        ),
    ):
        read_adapter(copied, read_model(base))


def test_layers_of_four_bits_have_no_adapter(copied: Path, base: Path) -> None:
    model = read_model(base)
    quantize_linears(model, group=8)
    with pytest.raises(ModelFolderError, match="layers of four bits take no adapter"):
        read_adapter(copied, model)


# Damaged folders

PREFIX = "base_model.model.model.layers."


def without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name != f"{PREFIX}1.self_attn.q_proj.lora_A.weight"
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, f"{PREFIX}1.self_attn.q_proj.lora_A.weight is missing"),
        (
            lambda t: t | {f"{PREFIX}0.mlp.up_proj.lora_A.weight": torch.zeros(4, 24)},
            f"{PREFIX}0.mlp.up_proj.lora_A.weight is unexpected",
        ),
        (
            lambda t: t | {"base_model.model.lm_head.weight": torch.zeros(50, 24)},
            "base_model.model.lm_head.weight is unexpected",
        ),
        (
            lambda t: t | {f"{PREFIX}2.self_attn.v_proj.lora_B.weight": torch.zeros(16, 5)},
            f"{PREFIX}2.self_attn.v_proj.lora_B.weight has shape [16, 5] instead of [16, 4]",
        ),
        (
            lambda t: (
                t
                | {
                    f"{PREFIX}2.self_attn.v_proj.lora_A.weight": torch.zeros(
                        4, 24, dtype=torch.int8
                    )
                }
            ),
            (
                f"{PREFIX}2.self_attn.v_proj.lora_A.weight has dtype torch.int8 instead of one of"
                " torch.float32, torch.bfloat16, torch.float16"
            ),
        ),
        (
            lambda t: (
                t | {f"{PREFIX}0.self_attn.q_proj.lora_B.weight": torch.full((32, 4), torch.inf)}
            ),
            f"{PREFIX}0.self_attn.q_proj.lora_B.weight holds infinities or NaN",
        ),
    ],
    ids=["missing", "not a target", "an output layer", "shape", "dtype", "infinite"],
)
def test_tensors_that_do_not_fit(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, copied: Path, base: Path
) -> None:
    save_file(change(load_file(copied / TENSORS)), copied / TENSORS)
    with pytest.raises(ModelFolderError) as caught:
        read_adapter(copied, read_model(base))
    assert (
        f"does not fit the model and its {CONFIG}: {message}; use the model that the adapter was"
        f" trained on, {base}" in str(caught.value)
    )


def test_an_adapter_of_another_model_is_told_in_a_few_lines(
    base: Path, tmp_path: Path, small_model: Any
) -> None:
    save_adapter(tmp_path, base, **{**PLAIN, "target_modules": "all-linear"})
    with pytest.raises(ModelFolderError, match="; and 20 more; use the model") as caught:
        read_adapter(tmp_path, small_model(width=32))
    assert str(caught.value).count(";") == 9


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:4],
        lambda data: data[:0],
        lambda data: b"\xff" * 64 + data,
    ],
    ids=["half", "four bytes", "empty", "shifted"],
)
def test_a_damaged_file_leaves_the_model_as_it_was(
    damage: Callable[[bytes], bytes], copied: Path, adapter: Path, base: Path
) -> None:
    (copied / TENSORS).write_bytes(damage((copied / TENSORS).read_bytes()))
    model = read_model(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ModelFolderError, match=r"adapter_model\.safetensors is not a whole safetensors file"
    ):
        attach(model, {"whole": adapter, "damaged": copied})
    with pytest.raises(
        ModelFolderError, match=r"adapter_model\.safetensors is not a whole safetensors file"
    ):
        merge(model, copied)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_is_overwritten_later_changes_nothing(copied: Path, base: Path) -> None:
    """Tensors come from the file as it is mapped into memory; one that was written over under a
    running model used to change it.
    """
    model = read_model(base)
    attach(model, {"one": copied}).select([("one", 0, 5)])
    ids = torch.arange(5)[None]
    before = model(ids)
    with (copied / TENSORS).open("r+b") as file:
        file.write(bytes((copied / TENSORS).stat().st_size))
    assert torch.equal(model(ids), before)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickles_are_rejected_with_the_reason(name: str, copied: Path, base: Path) -> None:
    (copied / TENSORS).rename(copied / name)
    with pytest.raises(
        ModelFolderError,
        match=(
            rf"as a pickle \({name}\), which can run code when opened; open it with PEFT on a"
            r" machine"
        ),
    ):
        read_adapter(copied, read_model(base))


def test_a_folder_without_tensors(copied: Path, base: Path) -> None:
    (copied / TENSORS).unlink()
    with pytest.raises(ModelFolderError, match=r"holds no adapter_model\.safetensors"):
        read_adapter(copied, read_model(base))


def test_a_folder_that_is_no_adapter(base: Path, tmp_path: Path) -> None:
    for folder in (base, base / "config.json", tmp_path / "gone"):
        with pytest.raises(
            ModelFolderError, match=r"is no adapter: it has no adapter_config\.json; name a folder"
        ):
            read_adapter(folder, read_model(base))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b"null"])
def test_a_config_that_is_no_json_object(content: bytes, copied: Path, base: Path) -> None:
    (copied / CONFIG).write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"adapter_config\.json"):
        read_adapter(copied, read_model(base))
