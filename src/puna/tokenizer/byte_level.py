"""The content of a `tokenizer.json`, checked: byte-level BPE or a clear error.

A byte-level vocabulary spells every byte as one printable character (GPT-2's table), so a token is
a string of such characters and every text has a spelling. This file turns tokens back into bytes
and rejects what would not be lossless: another kind of model (SentencePiece with byte fallback,
WordPiece, Unigram), a missing byte, a space put before every text. It does not encode;
`tokenizer.py` does. Reading costs 0.3 s for a vocabulary of 32,000.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers

from puna.errors import TokenizerError
from puna.tokenizer.pretokenize import Digits, recognise_digits


@dataclass(frozen=True)
class Definition:
    """A `tokenizer.json`, read and checked."""

    backend: tokenizers.Tokenizer
    """The encoder; special tokens spelled in a text are ordinary text to it."""
    pieces: Mapping[int, bytes]
    """Every token's bytes by id; a special token's are its name in UTF-8."""
    special_tokens: Mapping[str, int]
    """The added tokens that the file marks as special, in id order."""
    digits: Digits | None
    """The digits mode, or None when the file's pattern is none of those known."""
    can_cut: bool
    """True where `cut_text` keeps the ids: a known pattern, no normalizer, and no added token that
    text can yield.
    """
    sha256: str
    """Hex digest of the content as canonical JSON, so that indentation and key order do not
    count.
    """


def byte_characters() -> str:
    """GPT-2's table: the character at position b spells byte b.

    The 188 bytes that are printable Latin-1 characters spell themselves; the other 68 (controls,
    space, 0x7F-0xA0, 0xAD) take the characters from U+0100 on, in byte order. So a space is "Ġ"
    (U+0120) and a newline "Ċ" (U+010A).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return "".join(chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256))


def read_definition(text: str) -> Definition:
    """Read the content of a `tokenizer.json`, or raise TokenizerError saying what is wrong with
    it.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise TokenizerError(
            f"the tokenizer file is not whole JSON ({error}); copy or train it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise TokenizerError(
            "the tokenizer file has no 'model' entry; it must be a Hugging Face tokenizer.json"
        )
    _check_byte_level(content)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception for every fault of the content
        raise TokenizerError(
            f"the tokenizer file is damaged ({error}); copy or train it again"
        ) from error
    # What a file may have left on from training: it would cut texts short, lengthen them, or cut
    # them at random
    backend.no_truncation()
    backend.no_padding()
    backend.model.dropout = None
    # Special tokens enter by id alone: spelled in a text they are text
    backend.encode_special_tokens = True

    added = {token["id"]: token for token in content.get("added_tokens") or []}
    # The library renumbers added tokens in silence where the file's ids leave a gap
    for id_, token in added.items():
        if backend.token_to_id(token["content"]) != id_:
            raise TokenizerError(
                f"the added token {token['content']!r} has id {id_}, which does not follow the"
                " vocabulary without a gap; the tokenizer file was edited or cut, copy it again"
            )
    special = {token["content"]: id_ for id_, token in sorted(added.items()) if token["special"]}
    for name, id_ in special.items():
        if id_ in backend.encode(name, add_special_tokens=False).ids:
            raise TokenizerError(
                f"the special token {name!r} is also an ordinary word of the vocabulary, so a text"
                " could forge it; give the special token a name that no text is cut into, such as"
                " <|name|>"
            )
    digits = recognise_digits(content["pre_tokenizer"])
    return Definition(
        backend=backend,
        pieces=_token_pieces(content["model"]["vocab"], added),
        special_tokens=special,
        digits=digits,
        can_cut=digits is not None and not content.get("normalizer") and len(special) == len(added),
        sha256=hashlib.sha256(
            json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode(
                "utf-8"
            )
        ).hexdigest(),
    )


def _check_byte_level(content: Mapping[str, Any]) -> None:
    """Raise TokenizerError unless the model is BPE behind a lossless ByteLevel pre-tokenizer."""
    model = content["model"]
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    step = content.get("pre_tokenizer") or {}
    # The step itself, or one of a Sequence's
    byte_level = next(
        (s for s in step.get("pretokenizers", [step]) if s.get("type") == "ByteLevel"), None
    )
    if kind != "BPE" or byte_level is None or not isinstance(model.get("vocab"), dict):
        found = f"a {kind} model with {'a' if byte_level else 'no'} ByteLevel pre-tokenizer"
        raise TokenizerError(
            f"the tokenizer file holds {found}; Puna reads byte-level BPE, the kind of Llama 3,"
            " Qwen and GPT-2 (not of Llama 1 and 2)"
        )
    if byte_level.get("add_prefix_space"):
        raise TokenizerError(
            "the tokenizer puts a space before every text (add_prefix_space is true), so decoding"
            " would not give the text back; set it to false in tokenizer.json if the model was"
            " trained without it"
        )


def _token_pieces(
    vocab: Mapping[str, int], added: Mapping[int, Mapping[str, Any]]
) -> dict[int, bytes]:
    """The bytes of every id, in id order: the vocabulary's through the table, an added token's as
    it is spelled.
    """
    table = {ord(character): byte for byte, character in enumerate(byte_characters())}
    pieces = {id_: token["content"].encode("utf-8") for id_, token in added.items()}
    for token, id_ in vocab.items():
        if id_ in added:
            continue  # some files list added tokens here too, not spelled in byte characters
        try:
            pieces[id_] = bytes(table[ord(character)] for character in token)
        except KeyError as error:
            raise TokenizerError(
                f"token {id_} is {token!r}, and {chr(error.args[0])!r} is none of the 256 byte"
                " characters; the vocabulary is not byte-level"
            ) from error
    missing = {bytes([byte]) for byte in range(256)} - set(pieces.values())
    if missing:
        raise TokenizerError(
            f"{len(missing)} of the 256 single bytes have no token (the first is {min(missing)!r}),"
            " so some texts would lose characters; train with all bytes in the initial alphabet"
        )
    return dict(sorted(pieces.items()))
