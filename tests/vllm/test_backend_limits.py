"""What vLLM cannot run of a model of type `puna`, and the plugin as an installed package says it.
vLLM itself is asked by run.py.
"""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from parts_beyond_llama import PARTS, SHAPE

import puna.vllm
from puna.auto_model import PunaConfig, PunaForCausalLM
from puna.model.config import ModelConfig
from puna.model.transformer import build_transformer
from puna.vllm.backend_limits import unsupported

ROOT = Path(__file__).parents[2]


def reasons(tensor_parallel: int = 1, pipeline_parallel: int = 1, **parts: Any) -> str:
    shape = ModelConfig.model_validate({**SHAPE, **parts})
    found = unsupported(shape, tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel)
    return "; ".join(found)


@pytest.mark.parametrize("name", PARTS)
def test_on_one_gpu_only_alibi_is_refused(name: str) -> None:
    alibi = PARTS[name].get("position") == "alibi"
    assert bool(reasons(**PARTS[name])) == alibi
    assert not alibi or "position alibi adds a bias" in reasons(**PARTS[name])


def test_what_several_gpus_cannot_share_is_refused_by_name() -> None:
    assert not reasons(2, norm="layernorm")
    assert "tensor_parallel_size 4 does not divide num_kv_heads 2" in reasons(4, norm="layernorm")
    over_width = {"norm": "layernorm", "qk_norm": True, "qk_norm_over": "width"}
    assert "qk_norm_over width normalises: set it to 1" in reasons(2, **over_width)
    assert "pipeline_parallel_size 2" in reasons(1, 2, norm="layernorm")
    assert reasons(4, 2, position="alibi").count("; ") == 2


@pytest.mark.parametrize("name", PARTS)
def test_the_plan_names_layers_that_are_there_and_cuts_none_that_mix(name: str) -> None:
    """A name that fits nothing would leave a layer whole in silence."""
    shape = ModelConfig.model_validate({**SHAPE, **PARTS[name]})
    plan = PunaConfig(shape.model_dump(mode="json")).base_model_tp_plan
    layers = {key for key, _ in build_transformer(shape, "meta").named_modules()}
    gateless = {"layers.*.mlp.gate_proj"}
    missing = {key for key in plan if key.replace("*", "1") not in layers}
    assert missing <= gateless
    mixing = name in ("self gated", "learned beta")
    assert ("layers.*.mlp.down_proj" in plan) != mixing


def test_the_entry_point_is_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    value = project["entry-points"]["vllm.general_plugins"]["puna"]
    module, name = value.split(":")
    assert getattr(import_module(module), name) is puna.vllm.register
    assert PunaForCausalLM.__name__ == puna.vllm.ARCHITECTURE
    file, cls = puna.vllm.BACKEND.split(":")
    source = (ROOT / "src" / f"{file.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert re.search(rf"^class {cls}\(", source, re.MULTILINE)


def test_the_plugin_is_imported_without_vllm_and_without_torch() -> None:
    """vLLM imports it in every process, before it has chosen a device."""
    program = (
        "import puna.vllm, sys; sys.exit(any(m in sys.modules for m in ('vllm', 'torch',"
        " 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
