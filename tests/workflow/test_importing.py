"""Imports: kinds by content, the tokenizer, provenance, and nothing half-written."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from said import said
from small_llama import TEXT, build_llama, vocabulary
from transformers import AutoModelForCausalLM

from puna.errors import ModelFolderError, PunaError, TokenizerError
from puna.formats.llama2c import write_llama2c
from puna.formats.meta_checkpoint import write_meta
from puna.formats.source_kind import source_kind
from puna.workflow.importing import import_model


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    folder = tmp_path / "meta"
    folder.mkdir()
    write_meta(folder, build_llama())
    return folder


def test_a_meta_folder_becomes_a_model_folder(meta: Path, tmp_path: Path) -> None:
    vocabulary().save(meta)
    written = import_model(meta, tmp_path / "out", context_length=96)
    assert all(row.holds for row in written.proof)
    provenance = json.loads((tmp_path / "out" / "puna.json").read_text())
    imported = provenance["imported"]
    digest = hashlib.sha256((meta / "consolidated.00.pth").read_bytes()).hexdigest()
    assert (imported["kind"], imported["source"]) == ("meta", "meta")
    assert imported["sha256"]["consolidated.00.pth"] == digest
    assert imported["sha256"].keys() == {"consolidated.00.pth", "params.json"}
    assert provenance["tokenizer_hash"] == vocabulary().hash
    ids = torch.tensor([vocabulary().encode(TEXT)])
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
        torch.testing.assert_close(theirs, build_llama()(ids), rtol=1e-4, atol=1e-4)


def test_number_formats_stay(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    write_meta(tmp_path / "meta", build_llama(), torch.bfloat16)
    written = import_model(tmp_path / "meta" / "params.json", tmp_path / "out")
    assert written.number_type == "bfloat16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_without_a_tokenizer_it_is_said(meta: Path, tmp_path: Path) -> None:
    written = import_model(meta, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert any("no tokenizer" in note and "--tokenizer" in note for note in written.notes)
    assert {row.name: row.holds for row in written.proof}["ids"] is None


def test_none_leaves_out_the_one_beside(meta: Path, tmp_path: Path) -> None:
    (meta / "tokenizer.json").write_text("damaged")
    with pytest.raises(TokenizerError, match="--tokenizer none"):
        import_model(meta, tmp_path / "out")
    import_model(meta, tmp_path / "out", tokenizer=Path("none"))
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_llama2c(tmp_path / "model.bin", build_llama(vocab_size=100))
    vocabulary().save(tmp_path / "other")
    with pytest.raises(TokenizerError, match=said("ids ... 100 rows ... --tokenizer PATH")):
        import_model(tmp_path / "model.bin", tmp_path / "out", tokenizer=tmp_path / "other")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"hello, world", "none of the files ... b'hello, w' ... copy it again"),
        ("a.pt", b"\x80\x02}q\x00.", "bare pickle ... torch.save(state_dict)"),
        ("a.bin", struct.pack("<7i", 8, 8, 1, 2, 2, 9, 4), "none of the files"),
        ("empty", b"", "none of the files"),
    ],
)
def test_files_of_no_kind_are_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=said(message)):
        import_model(tmp_path / name, tmp_path / "far" / "out")
    assert not (tmp_path / "far").exists()


def test_folders_of_no_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=said("no file or folder")):
        source_kind(tmp_path / "gone")
    with pytest.raises(ModelFolderError, match=said("consolidated.00.pth ... config.json")):
        source_kind(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFolderError, match=said("a model folder ... puna generate")):
        source_kind(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ModelFolderError, match=said("neither nanoGPT's ... it holds a")):
        source_kind(tmp_path / "a.pt")


@pytest.mark.parametrize("kind", ["meta", "llama2c", "nanogpt", "nanochat"])
def test_a_wrong_kind_is_one_error(kind: Any, meta: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"PK\x03\x04 and no more")
    for source in (tmp_path / "file", tmp_path / "gone", tmp_path):
        with pytest.raises(PunaError):
            import_model(source, tmp_path / "out", kind=kind)
    assert not (tmp_path / "out").exists()
