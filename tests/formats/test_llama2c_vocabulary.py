"""SentencePiece vocabularies between `tokenizer.json`, `tokenizer.model` and llama2.c's
`tokenizer.bin`: held against the library sentencepiece and a reader made of `struct`.
"""

import io
import json
import random
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from said import said
from small_llama import TEXT, vocabulary
from tokenizers import Tokenizer as Library

from puna.errors import PunaError, TokenizerError
from puna.formats.llama2c_vocabulary import read_pieces, read_vocabulary, write_pieces
from puna.formats.sentencepiece_pieces import SPACE, Piece, model_file, pieces_of

SAMPLES = (TEXT, "the  llama, 1024!", "ünknown ☃ \t tab", "a", "llamas read the old river stones")


@pytest.fixture(scope="module")
def trained() -> sentencepiece.SentencePieceProcessor:
    """LLaMA's settings: BPE, byte fallback, no normalisation, a space before the text."""
    out = io.BytesIO()
    rng = random.Random(0)
    words = TEXT.split()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(rng.choices(words, k=20)) for _ in range(100)),
        model_writer=out,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def definition(trained: sentencepiece.SentencePieceProcessor) -> str:
    """The `tokenizer.json` of these pieces, as transformers converts LLaMA's."""
    texts = [trained.id_to_piece(n) for n in range(trained.get_piece_size())]
    ids = {text: n for n, text in enumerate(texts)}
    merges = sorted(
        (-trained.get_score(n), cut, text)
        for n, text in enumerate(texts)
        for cut in range(1, len(text))
        if n > 258 and text[:cut] in ids and text[cut:] in ids
    )
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [
                {"id": n, "content": texts[n], "single_word": False, "lstrip": False}
                | {"rstrip": False, "normalized": False, "special": True}
                for n in range(3)
            ],
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces],
            },
            "model": {
                "type": "BPE",
                "unk_token": "<unk>",
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": ids,
                "merges": [[text[:cut], text[cut:]] for _, cut, text in merges],
            },
        }
    )


def run_c_ids(data: bytes, size: int, text: str) -> list[int]:
    """run.c's encoding without the begin token: characters, then the best pair until none is
    left.
    """
    tokens, scores, offset = [], [], 4
    for _ in range(size):
        score, length = struct.unpack_from("<fi", data, offset)
        tokens.append(data[offset + 8 : offset + 8 + length])
        scores.append(score)
        offset += 8 + length
    assert offset == len(data)
    lookup = {token: n for n, token in enumerate(tokens)}
    ids = [lookup[b" "]]
    for character in text:
        raw = character.encode()
        ids += [lookup[raw]] if raw in lookup else [byte + 3 for byte in raw]
    while True:
        pairs = [
            (scores[lookup[tokens[a] + tokens[b]]], -n)
            for n, (a, b) in enumerate(pairwise(ids))
            if tokens[a] + tokens[b] in lookup
        ]
        if not pairs:
            return ids
        at = -max(pairs)[1]
        ids[at : at + 2] = [lookup[tokens[ids[at]] + tokens[ids[at + 1]]]]


def test_tokenizer_bin_gives_run_c_the_same_ids(trained: Any, tmp_path: Path) -> None:
    pieces = pieces_of(definition(trained))
    assert isinstance(pieces, list)
    write_pieces(tmp_path / "tokenizer.bin", pieces)
    data = (tmp_path / "tokenizer.bin").read_bytes()
    library = Library.from_str(definition(trained))
    for text in SAMPLES:
        expected = trained.encode(text)
        assert run_c_ids(data, len(pieces), text) == expected
        assert library.encode(text, add_special_tokens=False).ids == expected


def test_tokenizer_model_is_read_by_sentencepiece(trained: Any) -> None:
    pieces = pieces_of(definition(trained))
    assert isinstance(pieces, list)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model_file(pieces))
    assert (theirs.bos_id(), theirs.eos_id(), theirs.unk_id()) == (1, 2, 0)
    assert theirs.pad_id() == -1
    for text in SAMPLES:
        assert theirs.encode(text) == trained.encode(text)
        assert theirs.decode(theirs.encode(text)) == trained.decode(trained.encode(text))


def test_pieces_come_back(trained: Any, tmp_path: Path) -> None:
    pieces = pieces_of(definition(trained))
    assert isinstance(pieces, list)
    write_pieces(tmp_path / "tokenizer.bin", pieces)
    assert list(read_pieces(tmp_path / "tokenizer.bin", len(pieces))) == pieces


def test_a_byte_level_vocabulary_has_a_reason() -> None:
    assert "byte-level" in str(pieces_of(vocabulary().to_json()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.pop("normalizer"), "spaces in another way"),
        (lambda content: content["model"]["vocab"].pop("<0x41>"), "first 259 ids"),
        (lambda content: content["model"]["vocab"].update(far=9999), "ids that do not follow"),
        (
            lambda content: content["added_tokens"].append({"content": "<pad>", "id": 9}),
            "added tokens",
        ),
    ],
)
def test_other_vocabularies_have_a_reason(change: Any, reason: str, trained: Any) -> None:
    content = json.loads(definition(trained))
    change(content)
    assert reason in str(pieces_of(json.dumps(content)))


def test_a_file_cut_or_of_another_model_is_refused(trained: Any, tmp_path: Path) -> None:
    pieces = pieces_of(definition(trained))
    assert isinstance(pieces, list)
    path = tmp_path / "tokenizer.bin"
    write_pieces(path, pieces)
    data = path.read_bytes()
    for size in (0, 3, 4, 11, 100, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(TokenizerError, match=said(f"no whole tokenizer.bin of {len(pieces)}")):
            read_vocabulary(path, len(pieces))
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=said("goes on ... belongs to another model")):
        read_vocabulary(path, len(pieces) - 1)
    with pytest.raises(TokenizerError, match=said("no whole tokenizer.bin")):
        read_vocabulary(path, 1 << 30)


@given(st.binary(max_size=200), st.integers(0, 10))
def test_any_bytes_are_pieces_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed-tokenizer.bin"
    path.write_bytes(data)
    try:
        found = list(read_pieces(path, size))
    except PunaError:
        return
    assert all(isinstance(piece, Piece) for piece in found)
