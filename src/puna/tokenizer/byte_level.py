"""Byte-level vocabularies, the kind of GPT-2, Llama 3 and Qwen: every byte is spelled as one
printable character, so a token is a string of such characters, and a vocabulary with all of them
has a spelling for every text.

This file turns tokens back into bytes and finds the text that a vocabulary without some bytes
cannot hold. It does not encode; `tokenizer.py` does.
"""

import codecs
import re
from collections.abc import Collection, Iterable, Mapping

from puna.errors import TokenizerError
from puna.tokenizer.pretokenize import encode_utf8

NEVER_IN_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
"""Bytes that stand in no UTF-8 text (RFC 3629, section 1), so that a vocabulary can lack them."""


def byte_characters() -> str:
    """GPT-2's table: the character at position b spells byte b.

    The 188 bytes that are printable Latin-1 characters spell themselves; the other 68 (controls,
    space, 0x7F-0xA0, 0xAD) take the characters from U+0100 on, in byte order. So a space is "Ġ"
    (U+0120) and a newline "Ċ" (U+010A).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return "".join(chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256))


def spelled_bytes(vocabulary: Mapping[str, int]) -> dict[int, bytes]:
    """The bytes of every token by id. A token with another character than the 256 stands for itself
    in UTF-8, as in `tokenizers`' decoder.
    """
    table, pieces = codecs.charmap_build(byte_characters()), {}
    for token, id_ in vocabulary.items():
        try:
            pieces[id_] = codecs.charmap_encode(token, "strict", table)[0]
        except UnicodeEncodeError:
            pieces[id_] = token.encode("utf-8")
    return pieces


def missing_bytes(vocabulary: Iterable[str], special: Collection[str]) -> bytes:
    """The bytes that text can hold and that have no token of their own, in order; a special token
    is none that text can have.
    """
    known = set(vocabulary) - set(special)
    return bytes(
        byte
        for byte, character in enumerate(byte_characters())
        if character not in known and byte not in NEVER_IN_UTF8
    )


def reject_bytes(text: str, missing: bytes) -> None:
    """Raise TokenizerError where `text` holds one of the `missing` bytes, naming the character and
    its place. `tokenizers` would leave it out without a word.
    """
    encoded = encode_utf8(text)
    found = re.search(b"[" + re.escape(missing) + b"]", encoded)
    if found is None:
        return
    # the whole characters before the byte
    index = len(encoded[: found.start()].decode("utf-8", errors="ignore"))
    raise TokenizerError(
        f"the text holds {text[index]!r} (U+{ord(text[index]):04X}) at character {index}, for which"
        f" this vocabulary has no token (it lacks the byte 0x{encoded[found.start()]:02X}); remove"
        " the character, or use another tokenizer"
    )
