"""Vocabularies of GGUF files: ids equal to those of the program that they came from, both ways, and
a reason where there is no way.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_examples import (
    SAMPLES,
    TEXT,
    AnyTokenizer,
    backend_of,
    tokenizer_of,
    vocabulary_file,
)
from said import said

from puna.errors import ModelFolderError, PunaError, TokenizerError
from puna.formats.gguf_pretokenizers import GPT2, PRE_TOKENIZERS
from puna.formats.gguf_tokens import pre_tokenizer_name, vocabulary_metadata
from puna.formats.gguf_vocabulary import SPACE, merges_of_scores, read_vocabulary
from puna.tokenizer.tokenizer import Tokenizer

NAMES = {"one": "qwen2", "three": "llama-bpe", "off": "gpt-2"}


def edited(digits: Any, change: Callable[[dict[str, Any]], None]) -> AnyTokenizer:
    definition = json.loads(tokenizer_of(digits).to_json())
    change(definition)
    return AnyTokenizer(definition, dict(tokenizer_of().config), bos=None, eos=351)


@pytest.mark.parametrize(("digits", "name"), NAMES.items())
def test_ids_survive_a_byte_level_vocabularys_journey(
    tmp_path: Path, digits: Any, name: str
) -> None:
    tokenizer = tokenizer_of(digits)
    metadata = vocabulary_metadata(tokenizer, tokenizer.vocab_size + 3)
    assert metadata["tokenizer.ggml.pre"] == name
    found = read_vocabulary(vocabulary_file(tmp_path / "x.gguf", metadata))
    assert found is not None
    backend = backend_of(found.definition)
    for text in (*SAMPLES, TEXT):
        assert backend.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
        assert backend.encode(text).ids == tokenizer.encode_document(text)
    assert found.definition == json.loads(tokenizer.to_json())  # without the three unused ids


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_every_known_cut_loads_and_loses_nothing(tmp_path: Path, name: str) -> None:
    """A pattern that the library cannot compile, or that drops text, fails here."""
    metadata = vocabulary_metadata(tokenizer_of(), tokenizer_of().vocab_size)
    metadata["tokenizer.ggml.pre"] = name
    found = read_vocabulary(vocabulary_file(tmp_path / "x.gguf", metadata))
    assert found is not None
    backend = backend_of(found.definition)
    for text in SAMPLES:
        assert backend.decode(backend.encode(text, add_special_tokens=False).ids) == text
    assert found.definition["model"]["ignore_merges"] == PRE_TOKENIZERS[name].ignore_merges
    assert pre_tokenizer_name(found.definition) in PRE_TOKENIZERS


def test_a_digits_step_and_gpt2s_own_pattern_are_smollm() -> None:
    """As SmolLM's file spells it, with the pattern inside ByteLevel."""

    def change(definition: dict[str, Any]) -> None:
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        digits = {"type": "Digits", "individual_digits": True}
        steps = [digits, level | {"use_regex": True}]
        definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}

    definition = json.loads(edited("off", change).to_json())
    assert pre_tokenizer_name(definition) == "smollm"
    assert PRE_TOKENIZERS["smollm"].patterns == (r"\p{N}", GPT2)


def test_a_piece_that_is_a_token_is_taken_whole_only_where_that_changes_nothing() -> None:
    """llama-bpe does not merge towards such a piece, so a vocabulary that does needs all its tokens
    to be reached by merges.
    """
    definition = json.loads(tokenizer_of("three").to_json())
    definition["model"]["ignore_merges"] = False
    assert pre_tokenizer_name(definition) == "llama-bpe"
    del definition["model"]["merges"][40:]
    assert pre_tokenizer_name(definition) == "dbrx"  # the same pattern without that rule


WITHOUT_A_NAME: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another pattern": (
        lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\p{L}+"),
        r"pattern that llama.cpp does not have: \p{L}+ ... digits one",
    ),
    "a space before": (
        lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
        "neither byte-level",
    ),
    "another normalizer": (
        lambda d: d.update(normalizer={"type": "Lowercase"}),
        "normalizer Lowercase ... llama.cpp does not have",
    ),
    "another model": (
        lambda d: d.update(
            model={"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
        ),
        "neither byte-level",
    ),
}


@pytest.mark.parametrize(("change", "message"), WITHOUT_A_NAME.values(), ids=WITHOUT_A_NAME)
def test_a_vocabulary_that_llama_cpp_would_read_otherwise_is_refused(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    tokenizer: Any = edited("one", change)
    with pytest.raises(TokenizerError, match=said(message)):
        vocabulary_metadata(tokenizer, 400)


@pytest.fixture(scope="module")
def sentencepiece_model() -> Any:
    """A processor of SentencePiece's own, trained here on one text."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(model: Any) -> dict[str, Any]:
    """As llama.cpp's converter writes it."""
    ids = range(model.vocab_size())
    types = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in ids
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([model.get_score(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
    }


PLAIN = tuple(text for text in SAMPLES if "<" not in text)
"""Texts that spell no token of the vocabulary: SentencePiece has no forging of its own."""


def test_sentencepieces_ids_both_ways(tmp_path: Path, sentencepiece_model: Any) -> None:
    model = sentencepiece_model
    found = read_vocabulary(vocabulary_file(tmp_path / "x.gguf", sentencepiece_metadata(model)))
    assert found is not None
    assert (found.bos_id, found.eos_ids) == (1, (2,))  # llama.cpp's defaults
    assert found.config["unk_token"] == "<unk>"
    backend = backend_of(found.definition)
    for text in (*PLAIN, TEXT):
        ids = backend.encode(text, add_special_tokens=False).ids
        assert ids == model.encode(text), text
        assert backend.encode(text).ids == [1, *ids]
        assert backend.decode(ids) == text

    tokenizer: Any = AnyTokenizer(found.definition, found.config, bos=1, eos=2)
    metadata = vocabulary_metadata(tokenizer, model.vocab_size() + 2)
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is True
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    again = read_vocabulary(vocabulary_file(tmp_path / "y.gguf", metadata))
    assert again is not None
    assert again.definition == found.definition


def test_no_space_before_where_the_file_says_so(tmp_path: Path, sentencepiece_model: Any) -> None:
    metadata = sentencepiece_metadata(sentencepiece_model)
    metadata["tokenizer.ggml.add_space_prefix"] = False
    found = read_vocabulary(vocabulary_file(tmp_path / "x.gguf", metadata))
    assert found is not None
    backend = backend_of(found.definition)
    assert backend.decode(backend.encode(" two", add_special_tokens=False).ids) == " two"
    tokenizer: Any = AnyTokenizer(found.definition, found.config, bos=1, eos=2)
    written = vocabulary_metadata(tokenizer, sentencepiece_model.vocab_size())
    assert written["tokenizer.ggml.add_space_prefix"] is False


def test_a_begin_token_needs_no_end_token(tmp_path: Path) -> None:
    """A file without an end id, which once was a KeyError."""
    metadata = vocabulary_metadata(tokenizer_of(), tokenizer_of().vocab_size)
    for role in ("eos", "eot", "eom"):
        metadata.pop(f"tokenizer.ggml.{role}_token_id")
    found = read_vocabulary(vocabulary_file(tmp_path / "x.gguf", metadata))
    assert found is not None
    assert found.eos_ids == ()
    assert backend_of(found.definition).encode("a").ids == tokenizer_of().encode_document("a")


def test_merges_that_no_scores_give_are_refused(tmp_path: Path, sentencepiece_model: Any) -> None:
    found = read_vocabulary(
        vocabulary_file(tmp_path / "x.gguf", sentencepiece_metadata(sentencepiece_model))
    )
    assert found is not None
    found.definition["model"]["merges"].pop(0)
    tokenizer: Any = AnyTokenizer(found.definition, found.config, bos=1, eos=2)
    with pytest.raises(TokenizerError, match=said("merges ... scores ... llama.cpp")):
        vocabulary_metadata(tokenizer, 500)


def test_merges_stand_by_score_and_then_by_the_longer_left_part() -> None:
    tokens, scores = ["a", "b", "ab", "abb", "bb", "<s>"], [0.0, 0.0, -2.0, -1.0, -3.0, 9.0]
    assert merges_of_scores(tokens, [1] * 5 + [3], scores) == [
        ["ab", "b"],
        ["a", "bb"],
        ["a", "b"],
        ["b", "b"],
    ]


SENTENCEPIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", SPACE],
    "tokenizer.ggml.token_type": np.array([2, 3, 3, 1], np.int32),
    "tokenizer.ggml.scores": np.zeros(4, np.float32),
}
FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "a role beyond the vocabulary": ({"tokenizer.ggml.bos_token_id": 4}, "bos_token_id is 4 ... 3"),
    "a role in words": ({"tokenizer.ggml.bos_token_id": "<s>"}, "bos_token_id is '<s>' ... int"),
    "types of another number": (
        {"tokenizer.ggml.token_type": np.zeros(3, np.int32)},
        "token_type ... 4 numbers",
    ),
    "no scores": ({"tokenizer.ggml.scores": None}, "needs tokenizer.ggml.scores"),
    "scores without order": (
        {"tokenizer.ggml.scores": np.full(4, np.nan, np.float32)},
        "needs tokenizer.ggml.scores",
    ),
    "a token twice": ({"tokenizer.ggml.tokens": ["a", "b", "c", "a"]}, "stands twice"),
    "a token of 200": ({"tokenizer.ggml.tokens": ["a", "b", "c", "d" * 200]}, "200 characters"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, "tokens ... missing"),
    "a merge of one": (
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.merges": ["ab"],
        },
        "'ab' has no two parts",
    ),
}


@pytest.mark.parametrize(("change", "message"), FAULTY.values(), ids=FAULTY)
def test_a_faulty_vocabulary_is_one_clear_error(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    metadata = {key: value for key, value in (SENTENCEPIECE | change).items() if value is not None}
    with pytest.raises(PunaError, match=said(message)):
        read_vocabulary(vocabulary_file(tmp_path / "x.gguf", metadata))


def test_of_several_templates_the_default_is_written() -> None:
    tokenizer: Any = edited("one", lambda _: None)
    tokenizer.config["chat_template"] = [
        {"name": "tools", "template": "t"},
        {"name": "default", "template": "d"},
    ]
    assert vocabulary_metadata(tokenizer, 400)["tokenizer.chat_template"] == "d"


def test_the_ends_are_those_of_the_model_and_no_more() -> None:
    """A vocabulary has a token that ends a turn, though its model may end at other ids alone."""
    base = tokenizer_of()
    assert base.eot_id is not None
    names = ("eos", "eot", "eom")
    for ends in ([base.eos_id], [base.eos_id, base.eot_id, 300], [300]):
        tokenizer = Tokenizer(base.to_json(), dict(base.config), end_ids=ends)
        written = vocabulary_metadata(tokenizer, base.vocab_size)
        found = [written.get(f"tokenizer.ggml.{name}_token_id") for name in names]
        assert [id_ for id_ in found if id_ is not None] == ends


def test_more_ends_than_roles_are_refused() -> None:
    tokenizer: Any = edited("one", lambda _: None)
    tokenizer.end_ids = frozenset({350, 351, 352, 353})
    with pytest.raises(TokenizerError, match=said("4 ids (351, 350, 352, 353) ... names 3")):
        vocabulary_metadata(tokenizer, 400)


def test_a_number_of_another_type_names_its_key(tmp_path: Path) -> None:
    file = vocabulary_file(tmp_path / "x.gguf", {"k": 1.5, "n": 3})
    assert file.number("n", float) == 3.0
    with pytest.raises(ModelFolderError, match=said("k is '1.5' ... int")):
        file.number("k", int)
