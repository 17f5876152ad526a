"""Every kind of vocabulary that `tokenizers` runs: ids and text equal to transformers', streaming
equal to the whole, no special token from text, and what is lost is said.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from many_scripts import TEXTS
from said import said
from trained_kinds import KINDS, SMOLLM_LACKS, byte_level

from puna.errors import TokenizerError
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer

LOSSLESS = ("byte_level", "lacks_never_used")
EVERY_BYTE = (*LOSSLESS, "smollm", "llama2", "gemma")
"""Kinds that give back every text here but for characters that they name."""

any_kind = pytest.mark.parametrize("kind", KINDS)
unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def definitions() -> Mapping[str, str]:
    return {kind: train().to_str() for kind, train in KINDS.items()}


@pytest.fixture(scope="module")
def kinds(definitions: Mapping[str, str]) -> Mapping[str, Tokenizer]:
    return {kind: Tokenizer(text) for kind, text in definitions.items()}


@pytest.fixture(scope="module")
def theirs(
    definitions: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, transformers.PreTrainedTokenizerFast]:
    found = {}
    for kind, text in definitions.items():
        folder = tmp_path_factory.mktemp(kind)
        (folder / "tokenizer.json").write_text(text)
        (folder / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast"}'
        )
        found[kind] = transformers.AutoTokenizer.from_pretrained(folder)
    return found


def encodable(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer.encode(text)
    except TokenizerError:
        return False
    return True


@any_kind
def test_ids_and_text_are_transformers(
    kinds: Mapping[str, Tokenizer],
    theirs: Mapping[str, transformers.PreTrainedTokenizerFast],
    kind: str,
) -> None:
    ours, other = kinds[kind], theirs[kind]
    for text in filter(lambda text: encodable(ours, text), TEXTS):
        marked = other(text, add_special_tokens=False).input_ids
        assert ours.encode_with_special(text) == marked
        ids = ours.encode(text)
        if not any(name in text for name in ours.special_tokens):
            assert ids == marked
            assert ours.encode_document(text) == other(text).input_ids
        assert ours.encode_batch([text, text]) == [ids, ids]
        for skip in (False, True):
            assert ours.decode(marked, skip) == other.decode(
                marked, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )


@any_kind
def test_text_never_yields_a_special_token(kinds: Mapping[str, Tokenizer], kind: str) -> None:
    tokenizer = kinds[kind]
    unknown = {tokenizer.special_tokens.get(name) for name in ("<unk>", "[UNK]")}
    forbidden = set(tokenizer.special_tokens.values()) - unknown
    names = "".join(tokenizer.special_tokens)
    for text in (*tokenizer.special_tokens, names, f"a {names} b", f"\n{' '.join(names)}\u2581<s>"):
        assert not set(tokenizer.encode(text)) & forbidden
        if kind in EVERY_BYTE:
            assert tokenizer.decode(tokenizer.encode(text)) == text.replace(
                "\u2581", " " if kind in ("llama2", "gemma") else "\u2581"
            )


@given(data=st.data())
@any_kind
def test_pieces_join_to_the_decoded_whole(
    kinds: Mapping[str, Tokenizer],
    theirs: Mapping[str, transformers.PreTrainedTokenizerFast],
    kind: str,
    data: st.DataObject,
) -> None:
    """Of any ids: runs of bytes that are no UTF-8, spaces in front, special tokens between."""
    tokenizer = kinds[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=24))
    skip = data.draw(st.booleans())
    stream = StreamDecoder(tokenizer, skip)
    for _ in range(2):  # ready for a second stream
        text = "".join(map(stream.feed, ids)) + stream.flush()
        assert text == tokenizer.decode(ids, skip)
        assert text == theirs[kind].decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )


@given(data=st.data())
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "end_of_word"])
def test_what_continues_a_text_keeps_its_space(
    kinds: Mapping[str, Tokenizer], kind: str, data: st.DataObject
) -> None:
    """A model's answer begins behind a prompt, so a space in front of it is one. (A vocabulary with
    </w> decides by the token before.)
    """
    tokenizer = kinds[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    before = tokenizer.encode("carry")
    stream = StreamDecoder(tokenizer, inside_text=True)
    for _ in range(2):
        text = "".join(map(stream.feed, ids)) + stream.flush()
        assert tokenizer.decode([*before, *ids]) == tokenizer.decode(before) + text
        assert tokenizer.decode(ids, inside_text=True) == text


@given(text=unicode_text)
@pytest.mark.parametrize("kind", [*EVERY_BYTE, "metaspace", "unigram", "prefixed_bytes"])
def test_text_inside_another_has_its_own_bytes(
    kinds: Mapping[str, Tokenizer], kind: str, text: str
) -> None:
    tokenizer = kinds[kind]
    text = text.replace("\u2581", "").translate(dict.fromkeys(map(ord, SMOLLM_LACKS)))
    assert tokenizer.decode_bytes(tokenizer.encode(text, inside_text=True)) == text.encode()
    whole = tokenizer.encode(f"a {text}")
    split = tokenizer.encode("a") + tokenizer.encode(f" {text}", inside_text=True)
    assert tokenizer.decode(split) == tokenizer.decode(whole)
    assert not set(tokenizer.encode("<s>", inside_text=True)) & {tokenizer.special_tokens["<s>"]}


@given(text=unicode_text)
@pytest.mark.parametrize("kind", EVERY_BYTE)
def test_every_text_comes_back(kinds: Mapping[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = kinds[kind]
    if kind == "smollm":
        text = text.translate(dict.fromkeys(map(ord, SMOLLM_LACKS)))
    if kind in ("llama2", "gemma"):
        text = text.replace("\u2581", "")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    lengths = tokenizer.byte_lengths(np.array(ids, dtype=np.int64))
    assert lengths.sum() == len(text.encode("utf-8"))
    if kind != "llama2":
        assert lengths.tolist() == tokenizer.token_lengths()[ids].tolist()


@given(text=unicode_text)
@pytest.mark.parametrize("kind", EVERY_BYTE)
def test_streamed_text_holds_no_half_character(
    kinds: Mapping[str, Tokenizer], kind: str, text: str
) -> None:
    tokenizer = kinds[kind]
    text = text.translate(dict.fromkeys(map(ord, SMOLLM_LACKS + "\ufffd")))
    stream = StreamDecoder(tokenizer)
    assert "\ufffd" not in "".join(map(stream.feed, tokenizer.encode(text))) + stream.flush()


def test_a_space_put_before_a_text_is_no_byte_of_it(kinds: Mapping[str, Tokenizer]) -> None:
    tokenizer = kinds["llama2"]
    texts = ["The llamas", " carry", "", "\u00e9 it"]
    ids = [id_ for text in texts for id_ in [*tokenizer.encode_document(text), tokenizer.eos_id]]
    assert tokenizer.byte_lengths(np.array(ids)).sum() == sum(len(text.encode()) for text in texts)
    assert tokenizer.token_lengths()[ids].sum() == sum(len(text.encode()) + 1 for text in texts) - 1
    assert tokenizer.byte_lengths(np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("byte_level", None),
        ("lacks_never_used", None),
        ("smollm", "rejects text ... 0x02, 0x05, 0x06, 0x07, 0x14, 0x16, 0x1D, 0x1E"),
        ("llama2", "does not give back the character U+2581"),
        ("metaspace", "a space at the beginning, the character U+2581"),
        ("metaspace_decoded", "a space at the beginning ... Chinese"),
        ("prefixed_bytes", "the beginning of a text"),
        ("nfc", "give back an accent as a character of its own"),
        ("wordpiece", "capital letters"),
    ],
)
def test_what_is_lost_is_said(kinds: Mapping[str, Tokenizer], kind: str, lost: str | None) -> None:
    loss = kinds[kind].loss
    if lost is None:
        assert loss is None
    else:
        with pytest.raises(TokenizerError, match=said(lost)):
            raise TokenizerError(loss or "")


def test_text_with_a_byte_that_has_no_token_is_rejected(kinds: Mapping[str, Tokenizer]) -> None:
    """`tokenizers` would leave the character out without a word."""
    tokenizer = kinds["smollm"]
    with pytest.raises(TokenizerError, match=said("U+0005 ... at character 6 ... 0x05")):
        tokenizer.encode("\u00e9\U0001f999 na\u00ef\x05f")
    with pytest.raises(TokenizerError, match=said("U+001E ... at character 0")):
        tokenizer.encode_batch(["fine", "\x1e"])
    assert tokenizer.decode(tokenizer.encode("\x01\x03 fine")) == "\x01\x03 fine"


def test_a_character_of_several_bytes_that_lacks_one_is_named() -> None:
    tokenizer = Tokenizer(byte_level(lacking="\xb1").to_str())
    with pytest.raises(TokenizerError, match=said("U+00F1 ... at character 2 ... 0xB1")):
        tokenizer.encode("pi\u00f1a")
    assert tokenizer.decode(tokenizer.encode("pi\u00e9a")) == "pi\u00e9a"


def test_an_unknown_character_never_becomes_the_end_of_a_text(
    definitions: Mapping[str, str],
) -> None:
    content = json.loads(definitions["metaspace_decoded"])
    content["model"]["unk_token"] = "</s>"
    tokenizer = Tokenizer(json.dumps(content))
    with pytest.raises(TokenizerError, match=said("behind 'a' ... no token ... '</s>' ... remove")):
        tokenizer.encode("a\u6771")
    assert tokenizer.encode("carry")


@any_kind
def test_pickle_folder_and_text_carry_everything(
    kinds: Mapping[str, Tokenizer], kind: str, tmp_path: Path
) -> None:
    tokenizer = kinds[kind]
    tokenizer.save(tmp_path)
    for copy in (
        pickle.loads(pickle.dumps(tokenizer)),
        Tokenizer.load(tmp_path),
        Tokenizer(tokenizer.to_json(), tokenizer.config, tokenizer.end_ids),
    ):
        assert copy.hash == tokenizer.hash
        assert copy.encode_document("they carry <s>") == tokenizer.encode_document("they carry <s>")
        assert (copy.end_ids, copy.bos_id) == (tokenizer.end_ids, tokenizer.bos_id)
