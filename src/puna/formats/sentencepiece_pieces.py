"""The pieces of a SentencePiece BPE vocabulary, from a `tokenizer.json` and as a `tokenizer.model`.

A piece has a score; SentencePiece merges the neighbours whose joined piece has the best one, where
a `tokenizer.json` ranks the merges themselves. Written back, a piece has the rank of its first
merge as its score, so the order of merging stays.

Source: sentencepiece_model.proto of SentencePiece 0.2, of which the needed fields are written.
Reading such files is `Tokenizer.load`'s.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
FIRST_BYTE = 3
"""Id of the token of byte 0, behind <unk>, <s> and </s>; run.c counts on it."""

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


@dataclass(frozen=True)
class Piece:
    """One token: its text with `SPACE` for a space, its score, its type in the format."""

    text: str
    score: float
    kind: int


def special_pieces() -> list[Piece]:
    """The first 259 tokens of every LLaMA vocabulary: <unk>, <s>, </s>, and a token for each
    byte.
    """
    roles = [Piece("<unk>", 0.0, _UNKNOWN), Piece("<s>", 0.0, _CONTROL)]
    roles.append(Piece("</s>", 0.0, _CONTROL))
    return roles + [Piece(f"<0x{byte:02X}>", 0.0, _BYTE) for byte in range(256)]


def normal_piece(text: str, score: float) -> Piece:
    """A token of text."""
    return Piece(text, score, _NORMAL)


def pieces_of(definition: str) -> list[Piece] | str:
    """The pieces of a `tokenizer.json`'s content, or the reason why SentencePiece's format cannot
    hold it.
    """
    content = json.loads(definition)
    model = content["model"]
    if model.get("type", "BPE") != "BPE" or not model.get("byte_fallback"):
        return (
            "its vocabulary is byte-level BPE, not SentencePiece's BPE with a token for each byte"
        )
    if not _prepends_space(content.get("normalizer")) or content.get("pre_tokenizer"):
        return "its vocabulary treats spaces in another way than LLaMA 1 and 2"
    by_id = {id_: token for token, id_ in model["vocab"].items()}
    extra = [token["content"] for token in content.get("added_tokens") or []]
    first = special_pieces()
    if [by_id.get(id_) for id_ in range(len(first))] != [piece.text for piece in first]:
        return "its first 259 ids are not <unk>, <s>, </s> and the 256 bytes"
    if sorted(by_id) != list(range(len(by_id))) or set(extra) - {"<unk>", "<s>", "</s>"}:
        return "it has added tokens, or ids that do not follow each other"
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    return first + [
        normal_piece(by_id[id_], -float(ranks.get(by_id[id_], len(ranks))))
        for id_ in range(len(first), len(by_id))
    ]


def _prepends_space(normalizer: Any) -> bool:
    """True for LLaMA's treatment of spaces: one more at the start, each as `SPACE`."""
    steps = (normalizer or {}).get("normalizers", [])
    return [(step.get("type"), step.get("prepend", step.get("content"))) for step in steps] == [
        ("Prepend", SPACE),
        ("Replace", SPACE),
    ]


def model_file(pieces: list[Piece]) -> bytes:
    """The content of a `tokenizer.model` with these pieces: BPE with byte fallback, a space before
    the text, no other normalisation.
    """
    settings = {3: 2, 4: len(pieces), 35: 1, 40: 0, 41: 1, 42: 2}
    trainer = b"".join(_number(field, value) for field, value in settings.items())
    trainer += _number(43, (1 << 64) - 1)  # no padding: -1
    normalizer = _bytes(1, b"identity") + _number(3, 1) + _number(4, 0) + _number(5, 1)
    return b"".join(
        _bytes(1, _bytes(1, text.encode()) + _float(2, score) + _number(3, kind))
        for text, score, kind in ((piece.text, piece.score, piece.kind) for piece in pieces)
    ) + (_bytes(2, trainer) + _bytes(3, normalizer))


def _varint(value: int) -> bytes:
    return bytes(_sevens(value))


def _sevens(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
