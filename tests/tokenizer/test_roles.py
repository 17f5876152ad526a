"""The tokens that begin and end: by what the folder says, as in transformers, before any name."""

import json
import pickle
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import transformers
from said import said
from trained_kinds import byte_level, llama2

from puna.errors import TokenizerError
from puna.tokenizer.tokenizer import Tokenizer

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@pytest.fixture(scope="module")
def definition() -> dict[str, Any]:
    """Byte-level, special tokens <|endoftext|> 0 and <s> 1, <s> before every text."""
    content: dict[str, Any] = json.loads(byte_level().to_str())
    return content


def folder_of(
    folder: Path, definition: Mapping[str, Any], roles: Mapping[str, Any] | None, **files: Any
) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    if roles is not None:
        values = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
        (folder / "tokenizer_config.json").write_text(json.dumps(values))
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("add_bos", "add_eos", "processor", "role"),
    [*product((None, True, False), (None, False), (True, False), ("<s>", "<|endoftext|>", None))],
)
def test_documents_begin_as_transformers_begins_them(
    definition: dict[str, Any],
    tmp_path: Path,
    add_bos: bool | None,
    add_eos: bool | None,
    processor: bool,
    role: str | None,
) -> None:
    content = definition if processor else {**definition, "post_processor": None}
    given = {"bos_token": role, "add_bos_token": add_bos, "add_eos_token": add_eos}
    config = {key: value for key, value in given.items() if value is not None}
    folder = folder_of(tmp_path, content, config)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)("they carry").input_ids
    ours = Tokenizer.load(folder)
    ids = ours.encode("they carry")
    if add_bos and role and not processor:  # see roles.py
        theirs = [ours.special_tokens[role], *ids]
    assert ours.encode_document("they carry") == theirs
    assert [*[ours.bos_id][: len(theirs) - len(ids)], *ids] == theirs


@pytest.mark.parametrize("kind", ["Sequence", "RobertaProcessing", "two"])
def test_other_processors_are_understood(definition: dict[str, Any], kind: str) -> None:
    template = definition["post_processor"]
    other = {
        "Sequence": {
            "type": "Sequence",
            "processors": [
                {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": False,
                    "use_regex": True,
                },
                template,
            ],
        },
        "RobertaProcessing": {
            "type": "RobertaProcessing",
            "sep": ["<|endoftext|>", 0],
            "cls": ["<s>", 1],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        "two": {**template, "single": [template["single"][0], *template["single"]]},
    }
    tokenizer = Tokenizer(json.dumps({**definition, "post_processor": other[kind]}), {})
    begin = [1, 1] if kind == "two" else [1]
    assert tokenizer.encode_document("carry") == [*begin, *tokenizer.encode("carry")]
    assert tokenizer.bos_id == 1


def test_without_a_configuration_the_names_begin(
    definition: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = Tokenizer(json.dumps({**definition, "post_processor": None}))
    assert tokenizer.bos_id == 1
    assert tokenizer.config["add_bos_token"] is True
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode_document("carry") == [1, *tokenizer.encode("carry")]


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"generation_config": {"eos_token_id": [7, 9]}, "config": {"eos_token_id": 3}}, {7, 9}),
        ({"generation_config": {"eos_token_id": 7}, "config": {"eos_token_id": 3}}, {7}),
        ({"generation_config": {}, "config": {"eos_token_id": 3}}, {3}),
        ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": [3]}}, {3}),
        ({"generation_config": {"eos_token_id": [7, 10**6]}}, {7}),
        ({"generation_config": {"eos_token_id": 10**6}}, {1, 5}),
        ({}, {1, 5}),
    ],
)
def test_ends_are_what_the_folder_says(
    definition: dict[str, Any], tmp_path: Path, files: dict[str, Any], ends: set[int]
) -> None:
    """Id 1 has the role eos_token, 5 eot_token; 0 has the name of an end."""
    added = {**PLAIN, "id": 5, "special": True, "content": _name(definition, 5)}
    content = {**definition, "added_tokens": [*definition["added_tokens"], added]}
    config = {"eos_token": "<s>", "eot_token": {"content": added["content"]}}
    tokenizer = Tokenizer.load(folder_of(tmp_path, content, config, **files))
    assert tokenizer.end_ids == ends
    assert (tokenizer.eos_id, tokenizer.eot_id) == (1, 5)
    tokenizer.save(tmp_path / "saved")
    for copy in (pickle.loads(pickle.dumps(tokenizer)), Tokenizer.load(tmp_path / "saved")):
        assert (copy.end_ids, copy.eos_id) == (ends, 1)


def _name(definition: Mapping[str, Any], id_: int) -> str:
    return next(name for name, of in definition["model"]["vocab"].items() if of == id_)


def test_names_count_where_nothing_is_said(definition: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_of(tmp_path, definition, {}))
    assert (tokenizer.end_ids, tokenizer.eos_id) == ({0}, 0)


@pytest.mark.parametrize("value", ["2", 2.5, True, {"a": 1}, [1, "2"]])
def test_ends_that_are_no_ids_are_rejected(
    definition: dict[str, Any], tmp_path: Path, value: object
) -> None:
    folder = folder_of(tmp_path, definition, {}, generation_config={"eos_token_id": value})
    with pytest.raises(TokenizerError, match=said("eos_token_id of ... generation_config.json")):
        Tokenizer.load(folder)


@pytest.mark.parametrize("written", ["{", "[]", "[" * 100_000, '"\xff"'])
def test_damaged_files_beside_are_named(
    definition: dict[str, Any], tmp_path: Path, written: str
) -> None:
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        folder = folder_of(tmp_path, definition, {})
        (folder / name).write_text(written, encoding="latin-1")
        with pytest.raises(TokenizerError, match=said(f"cannot be read ({name}")):
            Tokenizer.load(folder)
        (folder / name).unlink()


@pytest.mark.parametrize("legacy", [True, False])
def test_tokens_that_only_the_configuration_knows(
    definition: dict[str, Any], tmp_path: Path, legacy: bool
) -> None:
    """special_tokens_map.json beside no added_tokens_decoder, or added_tokens_decoder itself: new
    tokens behind the vocabulary, and one that it has as an ordinary token.
    """
    known = _name(definition, 300)
    config: dict[str, Any] = {"eos_token": "<|end|>", "pad_token": known}
    files: dict[str, Any] = {}
    if legacy:
        files["special_tokens_map"] = {"additional_special_tokens": ["<|more|>"], **config}
        config = {}
    else:
        first = len(definition["model"]["vocab"])
        config["added_tokens_decoder"] = {
            str(first): {"content": "<|more|>", **PLAIN, "special": True},
            str(first + 1): {"content": "<think>", **PLAIN, "special": False},
        }
    folder = folder_of(tmp_path, definition, config, **files)
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for name in ("<|end|>", "<|more|>", known, "<s>"):
        assert ours.special_tokens[name] == theirs.convert_tokens_to_ids(name)
    text = f"carry<|end|> <|more|>{known} <think>"
    assert ours.encode_with_special(text) == theirs(text, add_special_tokens=False).input_ids
    assert not set(ours.encode(text)) & set(ours.special_tokens.values()) - {300}
    assert (ours.eos_id, ours.pad_id) == (theirs.eos_token_id, theirs.pad_token_id)
    copy = Tokenizer.from_json(ours.to_json())
    assert copy.special_tokens == ours.special_tokens


def test_a_role_makes_a_token_special(definition: dict[str, Any]) -> None:
    """An end that the file calls an ordinary added token could be forged."""
    content = json.loads(json.dumps(definition))
    content["added_tokens"][1]["special"] = False
    assert Tokenizer(json.dumps(content)).encode("a<s>")[-1] == 1
    tokenizer = Tokenizer(json.dumps(content), {"eos_token": "<s>"})
    assert 1 not in tokenizer.encode("a<s>")
    assert tokenizer.decode(tokenizer.encode("a<s>")) == "a<s>"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"eos_token": 5}, "eos_token of tokenizer_config.json is 5"),
        ({"bos_token": ["<s>"]}, "bos_token ... null"),
        ({"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"5": "text"}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder"),
        ({"end_ids": "all"}, "end_ids of tokenizer_config.json is 'all'"),
    ],
)
def test_a_damaged_configuration_is_named(
    definition: dict[str, Any], config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TokenizerError, match=said(reason)):
        Tokenizer(json.dumps(definition), config)


def test_llama_2_begins_and_ends() -> None:
    tokenizer = Tokenizer(llama2().to_str(), {"add_bos_token": True, "bos_token": "<s>"}, [2])
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.end_ids) == (1, 2, {2})
    assert tokenizer.config["bos_token"] == "<s>"
