"""Folders: read by transformers with equal ids, other models' files understood, damaged ones
rejected with a reason.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from said import said
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from puna.errors import TokenizerError
from puna.tokenizer.byte_level import byte_characters
from puna.tokenizer.pretokenize import Digits
from puna.tokenizer.tokenizer import Tokenizer

Edit = Callable[[Callable[[dict[str, Any]], None]], str]


@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("digits", ["one", "two", "three", "off"])
def test_transformers_reads_equal_ids(
    tokenizers_by_digits: Mapping[Digits, Tokenizer],
    stdlib_texts: list[str],
    digits: Digits,
    with_model: bool,
    tmp_path: Path,
) -> None:
    """Also beside a LLaMA's config.json, which must not make transformers rebuild the tokenizer its
    own way.
    """
    tokenizer = tokenizers_by_digits[digits]
    tokenizer.save(tmp_path)
    if with_model:
        (tmp_path / "config.json").write_text(
            '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
        )
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*stdlib_texts[-3:], "In 2024: HE'LL\n\n\t go  ", "  ", "é🦙\u200d\r\n", ""):
        ids = tokenizer.encode(text)
        assert reader(text, add_special_tokens=False).input_ids == ids
        assert reader(text).input_ids == [tokenizer.bos_id, *ids]
        assert reader.decode(ids) == text
    spelled = "an <|eot_id|> in the text"
    split = reader(spelled, add_special_tokens=False, split_special_tokens=True).input_ids
    assert split == tokenizer.encode(spelled)
    assert (reader.bos_token_id, reader.eos_token_id, reader.pad_token_id) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    assert len(reader) == tokenizer.vocab_size


def test_the_byte_table_is_gpt2s() -> None:
    assert set(byte_characters()) == set(pre_tokenizers.ByteLevel.alphabet())
    backend = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ascii_bytes = "".join(map(chr, range(128)))
    assert backend.pre_tokenize_str(ascii_bytes)[0][0] == byte_characters()[:128]
    assert byte_characters()[ord(" ")] == "Ġ"


def other_models_file() -> tokenizers.Tokenizer:
    """GPT-2 style: ByteLevel with its own pattern, <|endoftext|> inside the vocabulary, an added
    token that is text.
    """
    vocab = {character: id_ for id_, character in enumerate(sorted(byte_characters()))}
    backend = tokenizers.Tokenizer(
        models.BPE({**vocab, "<|endoftext|>": 256, "ab": 257}, [("a", "b")])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    backend.add_tokens([AddedToken("<think>", special=False)])
    return backend


def test_reads_and_keeps_another_models_folder(tmp_path: Path) -> None:
    folder, copy = tmp_path / "other", tmp_path / "copy"
    folder.mkdir()
    other_models_file().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "kept": 1}'
    )
    (folder / "chat_template.jinja").write_text("{{ 'theirs' }}")
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.digits, tokenizer.special_tokens) == ("off", {"<|endoftext|>": 256})
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.eot_id, tokenizer.pad_id) == (
        256,
        None,
        None,
        None,
    )
    assert (
        tokenizer.decode(tokenizer.encode("ab <think> <|endoftext|>")) == "ab <think> <|endoftext|>"
    )
    assert 256 not in tokenizer.encode("<|endoftext|>")
    assert tokenizer.encode("<think>") == [258]  # the file calls it text, not special
    assert tokenizer.token_bytes(258) == b"<think>"
    tokenizer.save(copy)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "kept": 1,
        "chat_template": "{{ 'theirs' }}",
    }


def test_a_vocabulary_without_end_of_text_says_so_when_asked(tokenizer: Tokenizer) -> None:
    bare = Tokenizer.from_json(tokenizer.to_json().replace("<|end_of_text|>", "<|other|>"))
    with pytest.raises(
        TokenizerError, match=r"no end-of-text token.*<\|end_of_text\|>, <\|endoftext\|>"
    ):
        _ = bare.eos_id


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError, match=said("no tokenizer ... tokenizer.json ... puna tokenizer train")
    ):
        Tokenizer.load(tmp_path)


def test_a_file_that_is_cut_short_is_rejected(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TokenizerError, match=r"(?s)not whole JSON.*again") as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match=said("tokenizer_config.json ... JSON object")):
        Tokenizer.load(tmp_path)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match="read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("model"), "'model'"),
        (lambda c: c["model"].update(type="Unigram"), "damaged"),
        (lambda c: c["model"]["merges"].append(["nothing", "known"]), "damaged"),
        (lambda c: c["model"]["vocab"].update(a=2**40), "'a' has the id 1099511627776"),
        (lambda c: c["model"]["vocab"].update(a=2**31), "'a' has the id 2147483648"),
        (lambda c: c["added_tokens"][0].update(id=2**22), "<|begin_of_text|> ... 4194304"),
        (lambda c: c["added_tokens"][0].pop("content"), "added token ... content"),
        (lambda c: c.update(added_tokens=[7]), "added token 7"),
        (lambda c: c["added_tokens"][0].update(id=5), "id 5 ... edited or cut"),
        (lambda c: c.update(decoder={"type": "Unknown"}), "damaged"),
    ],
)
def test_a_damaged_definition_is_rejected(
    edited: Edit, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    with pytest.raises(TokenizerError, match=said(reason)):
        Tokenizer.from_json(edited(change))


def test_deep_nesting_is_rejected() -> None:
    for text in ("[" * 100_000, '{"model": ' * 100_000, '{"model": {"a":' + "[" * 50_000):
        with pytest.raises(TokenizerError, match="JSON"):
            Tokenizer.from_json(text)


def test_a_file_cut_anywhere_is_rejected(tokenizer: Tokenizer) -> None:
    text = tokenizer.to_json().rstrip()
    for length in range(0, len(text), len(text) // 50):
        with pytest.raises(TokenizerError, match="not whole JSON"):
            Tokenizer.from_json(text[:length])


def test_added_tokens_keep_the_ids_of_the_file(edited: Edit, tokenizer: Tokenizer) -> None:
    """`tokenizers` would number them by their order, and give each another token's id."""

    def cut(content: dict[str, Any]) -> None:
        content["added_tokens"] = content["added_tokens"][2:6]
        content["added_tokens"][-1]["id"] = 1200

    gapped = Tokenizer.from_json(edited(cut))
    assert gapped.special_tokens == {
        "<|start_header_id|>": 994,
        "<|end_header_id|>": 995,
        "<|eom_id|>": 996,
        "<|eot_id|>": 1200,
    }
    assert gapped.vocab_size == 1201
    assert gapped.encode_with_special("a<|eot_id|>") == [*tokenizer.encode("a"), 1200]
    assert gapped.decode([994, 992, 1000, 1200]) == "<|start_header_id|><|eot_id|>"
    assert gapped.token_lengths()[[992, 1000, 1200]].tolist() == [0, 0, 0]
    assert gapped.encode("a <|eot_id|>") == tokenizer.encode("a <|eot_id|>")


def test_a_character_that_is_a_special_token_is_no_text(edited: Edit) -> None:
    def take(content: dict[str, Any]) -> None:
        token = {**content["added_tokens"][0], "id": content["model"]["vocab"]["a"], "content": "a"}
        content["added_tokens"].insert(0, token)

    taken = Tokenizer.from_json(edited(take))
    with pytest.raises(TokenizerError, match=said("'a' (U+0061) at character 1")):
        taken.encode("bad")
    assert taken.decode(taken.encode("bed")) == "bed"


def test_tokens_of_other_characters_stand_for_themselves() -> None:
    def with_vocab(vocab: dict[str, int]) -> str:
        backend = tokenizers.Tokenizer(models.BPE(vocab, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return backend.to_str()

    alphabet = {character: id_ for id_, character in enumerate(byte_characters())}
    assert Tokenizer.from_json(with_vocab({**alphabet, "▁the": 256})).decode([256]) == "▁the"
    del alphabet["Ġ"]
    with pytest.raises(TokenizerError, match=said("' ' ... at character 1 ... 0x20")):
        Tokenizer.from_json(with_vocab(alphabet)).encode("a b")


def test_a_model_folder_with_another_tokenizer_is_rejected(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Its ids would mean other text, and nothing but nonsense in the output would say so."""
    other_models_file().save(str(tmp_path / "tokenizer.json"))
    theirs = Tokenizer.load(tmp_path)
    puna_json = tmp_path / "puna.json"
    for values in ({"model": {}}, {"tokenizer_hash": theirs.hash}, ["no object"]):
        puna_json.write_text(json.dumps(values))
        assert Tokenizer.load(tmp_path).hash == theirs.hash
    puna_json.write_text(json.dumps({"tokenizer_hash": tokenizer.hash}))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(
            TokenizerError, match=said(f"{theirs.hash[:12]} ... {tokenizer.hash[:12]} ... copy")
        ):
            Tokenizer.load(path)
    puna_json.write_text("{")
    with pytest.raises(TokenizerError, match=said("puna.json cannot be read ... copy")):
        Tokenizer.load(tmp_path)
