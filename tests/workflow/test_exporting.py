"""Exports: what is written reads back as the same model, what is altered is seen, what cannot be
held is refused before anything is written.
"""

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch
from peft_adapters import save_adapter
from safetensors.torch import load_file, save_file
from said import said
from small_llama import build_llama, save_llama_folder, vocabulary
from transformers import AutoModelForCausalLM, AutoTokenizer

from puna.errors import ConfigError, ModelFolderError
from puna.model.adapters import write_merged
from puna.model.weights import named_tensors, read_model
from puna.tokenizer.pretokenize import SPLIT_PATTERNS
from puna.tokenizer.tokenizer import Tokenizer
from puna.workflow import exporting
from puna.workflow.exporting import export_model
from puna.workflow.importing import import_model
from puna.workflow.reload_proof import SAMPLES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_llama_folder(tmp_path / "model", build_llama())


@pytest.mark.parametrize("target", ["meta", "llama2c", "hf"])
@pytest.mark.parametrize("tied", [False, True])
def test_out_and_back_is_bit_equal(target: Any, tied: bool, tmp_path: Path) -> None:
    model = build_llama(tie_embeddings=tied)
    folder = save_llama_folder(tmp_path / "model", model)
    written = export_model(folder, tmp_path / "out", target)
    assert {row.name: row.holds for row in written.proof} == dict.fromkeys(
        ("shape", "weights", "ids", "logits", "greedy text"), True
    )
    again = tmp_path / "out"
    if target != "hf":
        source = again / "model.bin" if target == "llama2c" else again
        import_model(source, tmp_path / "again", context_length=96)
        again = tmp_path / "again"
    found = read_model(again)
    assert found.config == model.config
    for (name, ours), (_, theirs) in zip(named_tensors(model), named_tensors(found), strict=True):
        assert torch.equal(ours, theirs), name
    assert Tokenizer.load(again).hash == vocabulary().hash


@pytest.mark.parametrize("number_type", ["f16", "bf16"])
@pytest.mark.parametrize("target", ["meta", "hf"])
def test_narrower_types_are_proven_within_their_rounding(
    target: Any, number_type: str, folder: Path, tmp_path: Path
) -> None:
    written = export_model(folder, tmp_path / "out", target, number_type=number_type)
    assert all(row.holds is not False for row in written.proof)
    assert written.number_type == number_type


def test_an_hf_folder_opens_in_transformers(folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE").write_text("Apache-2.0")
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    export_model(folder, tmp_path / "out", "hf", number_type="bf16")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(30)[None]
    ours = read_model(tmp_path / "out")
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), rtol=0.02, atol=0.05)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in SAMPLES:
        assert tokenizer.encode(text, add_special_tokens=False) == vocabulary().encode(text)
    count = sum(parameter.numel() for parameter in ours.parameters())
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "123456",
        f"{count:,} parameters in bf16",
        "see LICENSE",
        "puna eval",
        "from_pretrained",
    ):
        assert part in card, part
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {
        "temperature": 0.6
    }


def test_an_adapter_is_merged_on_request(folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", folder, r=2, target_modules=["q_proj", "up_proj"])
    write_merged(folder, tmp_path / "adapter", tmp_path / "merged")
    export_model(folder, tmp_path / "out", "hf", adapter=tmp_path / "adapter")
    ours, theirs = load_file(tmp_path / "out" / "model.safetensors"), read_model(folder)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(ours[name], merged[name]) for name in merged)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(ours[name], dict(named_tensors(theirs))[name])
    provenance = json.loads((tmp_path / "out" / "puna.json").read_text())
    assert provenance["merged"] == {"model": "model", "adapter": "adapter"}


def alter_safetensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 0.5
    save_file(tensors, folder / "model.safetensors")


def alter_pth(folder: Path) -> None:
    tensors = torch.load(folder / "consolidated.00.pth", weights_only=True)
    tensors["layers.1.feed_forward.w3.weight"][3, 5] += 0.5
    torch.save(tensors, folder / "consolidated.00.pth")


def alter_bin(folder: Path) -> None:
    data = bytearray((folder / "model.bin").read_bytes())
    data[5003] ^= 1  # one exponent bit of one weight
    (folder / "model.bin").write_bytes(data)


@pytest.mark.parametrize(
    ("target", "number_type", "alter"),
    [
        ("hf", "f32", alter_safetensors),
        ("hf", "bf16", alter_safetensors),
        ("meta", "f16", alter_pth),
        ("llama2c", "f32", alter_bin),
    ],
)
def test_one_altered_weight_is_seen_and_nothing_stays(
    target: Any,
    number_type: str,
    alter: Callable[[Path], None],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = exporting._WRITERS[target]

    def writing(aside: Path, job: exporting.ExportJob) -> list[str]:
        notes = write(aside, job)
        alter(aside)
        return notes

    monkeypatch.setattr(exporting, "_WRITERS", {target: writing})
    shown: list[Any] = []
    with pytest.raises(ModelFolderError, match=said("not written ... weights (off: 1 of ")):
        export_model(
            folder, tmp_path / "out", target, number_type=number_type, on_proof=shown.extend
        )
    assert [row.name for row in shown if row.holds is False] == ["weights"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("hf", {"placement": "post"}, "--to hf cannot hold ... placement = post"),
        ("meta", {"feed_forward": "reglu"}, "feed_forward = reglu (only swiglu)"),
        ("llama2c", {"rope_base": 5e5}, "rope_base = 500000.0 (always 10000.0)"),
    ],
)
def test_what_a_target_cannot_hold_is_refused_before_writing(
    target: Any, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama(**changes))
    with pytest.raises(ModelFolderError, match=said(message)):
        export_model(folder, tmp_path / "far" / "out", target)
    assert not (tmp_path / "far").exists()


def test_a_type_that_the_target_has_not_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said("--to meta has no type q4_0 ... f32, f16, bf16")):
        export_model(folder, tmp_path / "out", "meta", number_type="q4_0")


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelFolderError, match=said("out is there already ... not overwritten")):
        export_model(folder, tmp_path / "out", "meta")


def test_tiktoken_reads_the_ranks_as_the_same_ids(folder: Path, tmp_path: Path) -> None:
    written = export_model(folder, tmp_path / "out", "meta")
    lines = (tmp_path / "out" / "tokenizer.model").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    theirs = tiktoken.Encoding(
        "test", pat_str=SPLIT_PATTERNS["three"], mergeable_ranks=ranks, special_tokens={}
    )
    for text in SAMPLES:
        assert theirs.encode(text) == vocabulary().encode(text)
    assert any("no special tokens" in note and "has 8" in note for note in written.notes)


def test_a_vocabulary_that_meta_s_code_cuts_otherwise_is_said(tmp_path: Path) -> None:
    model = build_llama(vocab_size=vocabulary("one").vocab_size)
    folder = save_llama_folder(tmp_path / "model", model, "one")
    written = export_model(folder, tmp_path / "out", "meta")
    assert not (tmp_path / "out" / "tokenizer.model").exists()
    assert any("no tokenizer.model" in n and "digits one" in n for n in written.notes)


PROGRAM = """
import resource, sys
from pathlib import Path
from puna.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["puna", "export", "{model}", "{out}", "--to", "{target}"]
main()
"""


@pytest.mark.parametrize("target", ["meta", "llama2c", "hf"])
def test_a_full_disk_leaves_nothing_behind(target: str, folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of the disk."""
    out = tmp_path / "far" / "out"
    program = PROGRAM.format(limit=60_000, model=folder, out=out, target=target)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 1, result.stderr
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "far").iterdir()) == []


def test_a_kill_in_the_middle_leaves_no_out(folder: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from puna.workflow import exporting
def killed(aside, job):
    (aside / "consolidated.00.pth").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
exporting._WRITERS = {{"meta": killed}}
exporting.export_model(Path({str(folder)!r}), Path({str(tmp_path / "out")!r}), "meta")
"""
    result = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert result.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    left = [path.name for path in tmp_path.iterdir() if path.name != "model"]
    assert all(name.startswith(".out.") and name.endswith(".partial") for name in left)
    export_model(folder, tmp_path / "out", "meta")
    assert (tmp_path / "out" / "params.json").is_file()
