"""The native core behind `load`: its choice, and the packed file beside the model."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_llama import build_llama, save_llama_folder, vocabulary

from puna.errors import ConfigError, NativeError
from puna.formats.gguf_model import write_gguf
from puna.inference import language_model, packed_file
from puna.inference.engine_config import EngineConfig
from puna.inference.executor import ScheduledChunk
from puna.inference.language_model import LanguageModel, load
from puna.inference.native_executor import NativeExecutor, open_native
from puna.inference.packed_file import packed_path
from puna.inference.torch_executor import TorchExecutor
from puna.model.weights import write_model
from puna.native import library
from puna.native.library import available_tiers
from puna.native.packing import pack_codes, take_turns
from puna.quantization.stored import quantized_matrices
from puna.workflow.quantizing import QuantizePlan, quantize

pytestmark = pytest.mark.skipif(not available_tiers(), reason="the native core is not built")
PROMPT = "the llama reads "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_llama_folder(tmp_path / "model", build_llama())


def opened(path: Path, **options: Any) -> LanguageModel:
    return load(path, options=EngineConfig(cache_bytes=1 << 20, threads=1, **options))


def greedy(model: LanguageModel) -> tuple[int, ...]:
    return tuple(model.complete(PROMPT, temperature=0.0, max_tokens=12)[0].ids)


def kind_of(model: LanguageModel) -> type:
    return type(model.engine.executor)


def distance_to_torch(folder: Path) -> float:
    """The largest difference of logits, of the largest."""
    chunk = ScheduledChunk(range(3, 43), 0, range(3), 40)
    twin, found = (
        np.asarray(opened(folder, isa=isa).engine.executor.run([chunk]).logits)
        for isa in ("torch", "auto")
    )
    return float(np.abs(found - twin).max() / np.abs(twin).max())


def files_beside(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".puna").glob("*"))


def read_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise AssertionError("the model is opened with PyTorch")

    monkeypatch.setattr(language_model, "open_weights", fails)


def test_it_is_chosen_and_packs_the_model_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(folder)
    assert kind_of(first) is NativeExecutor
    (name,) = files_beside(folder)
    assert name.startswith("auto-")
    assert name.endswith(".packed")
    wanted = greedy(opened(folder, isa="torch"))
    assert greedy(first) == wanted
    read_no_more(monkeypatch)
    again = opened(folder)
    assert greedy(again) == wanted
    assert again.placement == ("cpu", "float32")
    assert files_beside(folder) == [name]


def test_a_model_that_changed_is_packed_anew(folder: Path) -> None:
    before = greedy(opened(folder))
    (old,) = files_beside(folder)
    other = build_llama()
    with torch.no_grad():
        other.embed_tokens.weight.copy_(other.embed_tokens.weight.flip(0))
    shutil.rmtree(folder.with_name("other"), ignore_errors=True)
    made = save_llama_folder(folder.with_name("other"), other)
    shutil.copy(made / "model.safetensors", folder / "model.safetensors")
    found = greedy(opened(folder))
    assert found == greedy(opened(folder, isa="torch")) != before
    (new,) = files_beside(folder)
    assert new != old


def test_files_of_other_formats_stay(folder: Path) -> None:
    opened(folder)
    opened(folder, weights="int8")
    assert [name.split("-")[0] for name in files_beside(folder)] == ["auto", "int8"]


@pytest.mark.parametrize("damage", ["cut off", "empty", "other"])
def test_a_damaged_file_is_made_anew(
    damage: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = greedy(opened(folder))
    (name,) = files_beside(folder)
    path = folder / ".puna" / name
    whole = path.read_bytes()
    path.write_bytes({"cut off": whole[:-100], "empty": b"", "other": b"x" * 5000}[damage])
    with caplog.at_level(logging.WARNING, "puna.inference"):
        assert greedy(opened(folder)) == wanted
    assert f"{name} is no packed model" in caplog.text
    assert path.read_bytes() == whole


@pytest.mark.parametrize("fails", ["mkdir", "write"])
def test_where_nothing_can_be_written_it_runs_from_memory(
    fails: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    if fails == "mkdir":
        monkeypatch.setattr(packed_file.Path, "mkdir", refused)
    else:
        monkeypatch.setattr(packed_file, "write_packed", refused)
    with caplog.at_level(logging.WARNING, "puna.inference"):
        model = opened(folder)
    assert "cannot be written" in caplog.text
    assert kind_of(model) is NativeExecutor
    assert greedy(model) == greedy(opened(folder, isa="torch"))
    assert files_beside(folder) == []


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"norm": "layernorm"}, "norm layernorm"),
    ({"placement": "post"}, "placement post"),
    ({"feed_forward": "gelu"}, "feed_forward gelu"),
    ({"position": "alibi"}, "position alibi"),
    ({"qk_norm": True}, "qk_norm"),
    ({"sliding_window": 8}, "sliding_window"),
]


@pytest.mark.parametrize(("changes", "reason"), UNSUPPORTED)
def test_what_it_has_no_kernel_for_runs_on_pytorch(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama(**changes))
    model = opened(folder)
    assert kind_of(model) is TorchExecutor
    assert len(greedy(model)) > 0
    tier = available_tiers()[-1]
    for options in ({"isa": tier}, {"weights": "int8"}):
        with pytest.raises(ConfigError, match=f"has {reason}, for which the native core"):
            opened(folder, **options)
    assert files_beside(folder) == []


def test_pytorch_runs_where_it_is_asked_for(folder: Path) -> None:
    assert kind_of(opened(folder, isa="torch")) is TorchExecutor
    assert kind_of(opened(folder, block_size=8)) is TorchExecutor
    assert kind_of(load(folder, dtype=torch.float32)) is TorchExecutor
    assert not (folder / ".puna").exists()


@pytest.mark.parametrize("isa", ["auto", "torch"])
def test_an_int8_cache_has_more_blocks_in_the_same_memory(isa: str, tmp_path: Path) -> None:
    """Of 16 tokens: keys and values of 2 layers, 2 heads, 16 entries, and a scale in float32."""
    folder = save_llama_folder(tmp_path / "model", build_llama(head_width=16))
    for dtype, width in (("auto", 16 * 4), ("int8", 16 + 4)):
        model = opened(folder, isa=isa, kv_cache_dtype=dtype)
        assert model.engine.executor.num_blocks == (1 << 20) // (16 * 2 * 2 * 2 * width)
        assert len(greedy(model)) == 12


def test_pytorch_runs_where_the_core_was_not_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_path", lambda tier: folder / f"no_{tier}.so")
    assert kind_of(opened(folder)) is TorchExecutor
    with pytest.raises(NativeError, match="not built"):
        opened(folder, isa="scalar")


def test_options_of_the_core_and_of_pytorch_exclude_each_other(folder: Path) -> None:
    with pytest.raises(ConfigError, match="isa and weights choose the native core"):
        load(folder, dtype=torch.float32, options=EngineConfig(weights="int8"))


@pytest.mark.parametrize(
    ("weights", "kind"),
    [("int8", "int8"), ("int4", "int4"), ("bfloat16", "bfloat16"), ("auto", "float32")],
)
@pytest.mark.parametrize("tier", available_tiers())
def test_weights_are_in_the_format_that_is_asked_for(
    weights: str, kind: str, tier: str, folder: Path
) -> None:
    model = opened(folder, weights=weights, isa=tier)
    assert model.placement == ("cpu", kind)
    executor = model.engine.executor
    assert isinstance(executor, NativeExecutor)
    assert executor.runner.tier == tier
    assert {each.kind for each in executor.runner.model.linears.values()} == {kind}
    assert executor.runner.model.half == (kind != "float32")
    assert len(greedy(model)) > 0


def test_a_model_in_bfloat16_stays_in_it(tmp_path: Path) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama().bfloat16())
    model = opened(folder)
    assert model.placement == ("cpu", "bfloat16")


def test_an_executor_is_opened_without_a_tokenizer(tmp_path: Path) -> None:
    """As the start of a shape with random weights is measured."""
    write_model(tmp_path / "model", build_llama())
    assert open_native(tmp_path / "model").vocab_size == build_llama().config.vocab_size


@pytest.mark.parametrize(("to", "eight"), [("int8", ()), ("int4", ()), ("int4", ("down_proj",))])
def test_a_quantized_folder_gives_its_own_codes(
    to: Any, eight: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plan = QuantizePlan(group=32, measure=("python-stdlib",), to=to, int8=eight, measured_tokens=64)
    quantize(folder, out, plan)
    packed = open_native(out).runner.model
    stored, lanes = quantized_matrices(out), packed.lanes

    def expected(*names: str) -> Any:
        matrices = [stored[f"model.layers.1.{name}_proj.weight"] for name in names]
        return pack_codes(
            np.concatenate([each.codes for each in matrices]),
            np.concatenate([each.scales for each in matrices]),
            bits=matrices[0].bits,
            group=matrices[0].group,
            lanes=lanes,
        )

    pairs = {
        "1.qkv": expected("self_attn.q", "self_attn.k", "self_attn.v"),
        "1.attention_output": expected("self_attn.o"),
        "1.gate_up": take_turns(expected("mlp.gate"), expected("mlp.up")),
        "1.down": expected("mlp.down"),
    }
    for name, wanted in pairs.items():
        found = packed.linears[name]
        kind = "int8" if eight and name == "1.down" else to
        # one group that is the whole row is read as one
        assert (found.kind, found.group) == (kind, 32 if (kind, name) == ("int4", "1.down") else 0)
        assert np.array_equal(found.weights, wanted.weights)
        assert found.scales is not None
        assert np.array_equal(found.scales, wanted.scales)
    assert packed.linears["embedding"].kind == "int8"
    assert packed.half
    assert distance_to_torch(out) < 0.04  # what it rounds are activations alone


def test_a_gguf_file_has_its_packed_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, build_llama(), vocabulary(), "f32")
    first = greedy(opened(path))
    assert first == greedy(opened(path, isa="torch"))
    (packed,) = tmp_path.glob("*.packed")
    assert packed.name.startswith("x.gguf.auto-")
    read_no_more(monkeypatch)
    assert greedy(opened(path)) == first


def test_a_weight_that_is_no_number_ends_the_request(tmp_path: Path) -> None:
    model = build_llama()
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight[3, 2] = torch.nan
    folder = save_llama_folder(tmp_path / "model", model)
    messages = []
    for isa in ("torch", "auto"):
        with pytest.raises(Exception, match=r"(?i)nan|finite|number") as caught:
            greedy(opened(folder, isa=isa))
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]


def test_the_place_follows_names_sizes_and_times(folder: Path) -> None:
    place = packed_path(folder, "int8", 16)
    assert place.parent == folder / ".puna"
    assert place.name.startswith("int8-16-")
    assert packed_path(folder, "int8", 8) != place
    (folder / "other.txt").write_text("x")
    assert packed_path(folder, "int8", 16) == place
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(1, weights.stat().st_mtime_ns + 1))
    assert packed_path(folder, "int8", 16).name.startswith("int8-16-")
    assert packed_path(folder, "int8", 16) != place


def test_a_second_start_needs_no_torch(folder: Path) -> None:
    wanted = greedy(opened(folder))
    code = (
        "import sys, puna\n"
        "from puna.inference.engine_config import EngineConfig\n"
        "from puna.inference.language_model import load\n"
        f"model = load({str(folder)!r}, options=EngineConfig(threads=1, cache_bytes=1 << 20))\n"
        f"print(*model.complete({PROMPT!r}, temperature=0.0, max_tokens=12)[0].ids)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    ids, torch_there = done.stdout.splitlines()
    assert tuple(map(int, ids.split())) == wanted
    assert torch_there == "False"
