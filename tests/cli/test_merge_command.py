"""`puna merge`: one folder that every program opens, as PEFT would have merged it, or none at all;
and the page about adapters.
"""

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import read_page
from peft_adapters import save_adapter, save_llama
from safetensors.torch import load_file
from said import said
from transformers import AutoTokenizer, LlamaForCausalLM

from puna.model.config import ModelConfig
from puna.model.transformer import build_transformer
from puna.tokenizer.tokenizer import Tokenizer

PAGE = read_page("docs/adapters.md")

Puna = Callable[..., Any]

OPTIONS: dict[str, Any] = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj", "down_proj"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer."""
    tokenizer = Tokenizer.train(["the llama reads old pages " * 20], 270)
    folder = save_llama(tmp_path_factory.mktemp("merge") / "model", vocab_size=tokenizer.vocab_size)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    save_adapter(model.parent / "adapter", model, **OPTIONS)
    return model.parent / "adapter"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_written_is_what_peft_would_have_merged(
    puna: Puna, model: Path, tmp_path: Path
) -> None:
    theirs = save_adapter(tmp_path / "adapter", model, **OPTIONS)
    before = contents(model), contents(tmp_path / "adapter")
    result = puna("merge", model, tmp_path / "adapter", tmp_path / "merged")
    assert (result.code, result.err) == (0, "")
    assert (
        result.out
        == f"{tmp_path / 'merged'}: {model} with {tmp_path / 'adapter'} merged into 9 weights\n"
    )
    assert (contents(model), contents(tmp_path / "adapter")) == before, "neither folder is changed"

    expected, ours = (
        theirs.merge_and_unload(),
        LlamaForCausalLM.from_pretrained(tmp_path / "merged"),
    )
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=0, atol=1e-6, msg=name)
    ids = torch.arange(40).view(2, 20)
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids).logits, expected(ids).logits, rtol=0, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert (
        tokenizer("the llama").input_ids
        == AutoTokenizer.from_pretrained(model)("the llama").input_ids
    )


def test_the_merged_folder_generates(
    puna: Puna, model: Path, adapter: Path, tmp_path: Path
) -> None:
    puna("merge", model, adapter, tmp_path / "merged")
    options = ("the llama", "--temperature", 0, "--max-tokens", 8, "--device", "cpu")
    merged, plain = (
        puna("generate", tmp_path / "merged", *options),
        puna("generate", model, *options),
    )
    assert merged.code == plain.code == 0
    assert merged.out != plain.out


def test_the_hash_of_the_tokenizer_stays_with_the_model(
    puna: Puna, model: Path, adapter: Path, tmp_path: Path
) -> None:
    base, expected = tmp_path / "base", Tokenizer.load(model).hash
    shutil.copytree(model, base)
    (base / "puna.json").write_text(json.dumps({"tokenizer_hash": expected, "step": 3}))
    assert puna("merge", base, adapter, tmp_path / "out").code == 0
    provenance = json.loads((tmp_path / "out" / "puna.json").read_text())
    assert provenance.keys() == {"model", "merged", "tokenizer_hash"}
    assert provenance["tokenizer_hash"] == expected


def test_everything_but_the_weights_is_the_model_s(
    puna: Puna, model: Path, adapter: Path, tmp_path: Path
) -> None:
    """Of a folder from elsewhere too: its own configuration, byte for byte, its chat template and
    its licence.
    """
    base, out = tmp_path / "base", tmp_path / "far" / "merged"
    save_llama(base, torch.bfloat16, bos_token_id=1, eos_token_id=[2, 3], pad_token_id=2)
    (base / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": [2, 3]}')
    (base / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    for name in (
        "chat_template.jinja",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "LICENSE.txt",
    ):
        (base / name).write_text(f'"{name}"')
    for name in ("README.md", "optimizer.safetensors", "pytorch_model.bin"):
        (base / name).write_text("stays behind")
    save_adapter(tmp_path / "adapter", base, **OPTIONS)
    assert puna("merge", base, tmp_path / "adapter", out).code == 0

    expected, found = contents(base), contents(out)
    weights, provenance = found.pop("model.safetensors"), json.loads(found.pop("puna.json"))
    assert found == {name: expected[name] for name in found}
    assert expected.keys() - found.keys() == {
        "model.safetensors",
        "README.md",
        "optimizer.safetensors",
        "pytorch_model.bin",
    }
    assert weights != expected["model.safetensors"]
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert LlamaForCausalLM.from_pretrained(out).config.eos_token_id == [2, 3]
    merged, tensors = provenance["merged"], tmp_path / "adapter" / "adapter_model.safetensors"
    assert (merged["model"], merged["adapter"]) == ("base", "adapter")
    assert merged["adapter_sha256"] == hashlib.sha256(tensors.read_bytes()).hexdigest()
    assert (merged["adapter_config"]["r"], merged["adapter_config"]["lora_alpha"]) == (4, 8)


@pytest.mark.parametrize("kind", ["folder", "file", "model"])
def test_nothing_is_overwritten(
    kind: str, puna: Puna, model: Path, adapter: Path, tmp_path: Path
) -> None:
    out = model if kind == "model" else tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "precious").write_text("kept")
    if kind == "file":
        out.write_text("kept")
    before = out.read_bytes() if out.is_file() else contents(out)
    result = puna("merge", model, adapter, out)
    assert (result.code, result.out) == (1, "")
    assert re.search(said(f"error: {out} ... not overwritten ... name a folder"), result.err)
    assert (out.read_bytes() if out.is_file() else contents(out)) == before


def test_an_adapter_that_cannot_be_applied_leaves_nothing_behind(
    puna: Puna, model: Path, adapter: Path, tmp_path: Path
) -> None:
    for name, data in contents(adapter).items():
        (tmp_path / name).write_bytes(data)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(values | {"use_dora": True}))
    result = puna("merge", model, tmp_path, tmp_path / "out" / "merged")
    assert result.code == 1
    assert re.search(said("use_dora = True ... not supported ... PEFT"), result.err)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_behind(
    puna: Puna, model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("puna.model.weights.save_file", full)
    result = puna("merge", model, adapter, tmp_path / "merged")
    assert (result.code, result.err) == (1, "error: No space left on device\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("model", "no model folder ... config.json"),
        ("adapter", "no adapter ... adapter_config.json ... name a folder"),
    ],
)
def test_folders_that_are_not_there(
    changed: str, message: str, puna: Puna, model: Path, adapter: Path, tmp_path: Path
) -> None:
    folders = {"model": model, "adapter": adapter} | {changed: tmp_path / "gone"}
    result = puna("merge", folders["model"], folders["adapter"], tmp_path / "merged")
    assert result.code == 1
    assert re.search(said(f"error: {tmp_path / 'gone'} ... {message}"), result.err)


def test_the_help_teaches(puna: Puna) -> None:
    out = puna("merge", "--help").out
    assert "puna merge [OPTIONS]" in out
    assert "(W + alpha/r B A) x" in out
    assert "puna merge" in out.partition("Examples")[2]


def test_the_page_runs(
    puna: Puna, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/adapters.md from the top, in a folder that holds what it names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llama").symlink_to(model)
    save_adapter(Path("models/tales-adapter"), model, seed=1, **OPTIONS)
    save_adapter(Path("models/sums-adapter"), model, seed=2, **OPTIONS)
    scope: dict[str, Any] = {}
    for block in PAGE.all_blocks:
        if block.language == "python":
            exec(compile(block.text, PAGE.origin, "exec"), scope)
        for line in block.text.splitlines() if block.language == "sh" else []:
            assert puna(*shlex.split(line)[1:]).code == 0, line
    assert scope["logits"].shape == (3, 3, scope["llama"].model.config.vocab_size)


def test_the_sizes_on_the_page() -> None:
    llama = build_transformer(ModelConfig(preset="llama-7b"), "meta")
    entries = sum(
        16 * sum(module.weight.shape)
        for module in llama.layers.modules()
        if isinstance(module, torch.nn.Linear)
    )
    whole = sum(parameter.numel() for parameter in llama.parameters())
    assert (round(entries / 1e6, 1), round(100 * entries / whole, 1), round(whole / 1e9, 2)) == (
        40.0,
        0.6,
        6.74,
    )
    assert "has 40.0 million entries, 0.6% of the model's 6.74 billion" in " ".join(
        PAGE.text.split()
    )
