"""vocab.json with merges.txt: ids equal to those that transformers reads from them."""

import json
from pathlib import Path

import pytest
import transformers
from many_scripts import TEXTS
from said import said
from trained_kinds import byte_level

from puna.errors import TokenizerError
from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = json.loads(byte_level().to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    return tmp_path


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_ids_are_transformers(folder: Path, name: str) -> None:
    config = {
        "tokenizer_class": name,
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ours = Tokenizer.load(folder)
    theirs = getattr(transformers, name).from_pretrained(folder)
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode_with_special(text) == ids
        if "<|endoftext|>" not in text:
            assert ours.encode(text) == ids
    assert ours.eos_id == theirs.eos_token_id


def test_either_file_names_the_pair(folder: Path) -> None:
    loaded = [Tokenizer.load(folder / name) for name in ("vocab.json", "merges.txt", ".")]
    assert len({tokenizer.hash for tokenizer in loaded}) == 1


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("vocab.json", "{", "vocab.json is not whole JSON"),
        ("vocab.json", "[" * 100_000, "vocab.json is not whole JSON"),
        ("vocab.json", "[]", "vocab.json must be an object"),
        ("vocab.json", '{"a": 1099511627776}', "'a' has the id 1099511627776"),
        ("merges.txt", "a b\nabc\n", "line 2 of merges.txt is 'abc'"),
        ("merges.txt", "zz zzz\n", "damaged ... zz"),
        ("merges.txt", None, "merges.txt"),
    ],
)
def test_damaged_files_are_named(folder: Path, file: str, content: str | None, reason: str) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(TokenizerError, match=said(reason)):
        Tokenizer.load(folder)
