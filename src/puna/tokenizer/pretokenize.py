r"""Pre-tokenization, the cuts of a text before byte-level BPE: three published patterns and one
between two of them, by their treatment of digits.

BPE merges only inside the pieces ("words") that these patterns cut, so the pattern decides what no
token can ever join: two words, a word and a line break, or more digits than the mode allows. But
for `two`, the patterns are those of published models, character for character, because every engine
that reads a `tokenizer.json` or a GGUF file has them built in; `formats` has llama.cpp's
names of them. `two` has Llama 3's pattern with another limit, as nanochat has GPT-4's.

    digits   pattern     a number is cut into                       "2024 + 12345"
    one      Qwen 2's    single digits, as LLaMA does               2 0 2 4 _+ _ 1 2 3 4 5
    two      no model's  runs of up to two digits from the left     20 24 _+ _ 12 34 5
    three    Llama 3's   runs of up to three digits from the left   202 4 _+ _ 123 45
    off      GPT-2's     whole numbers, with the space before       2024 _+ _12345

This file does not merge (that is `tokenizers`' BPE model) and does not count (that is
`training.py`).
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from tokenizers import Regex, pre_tokenizers

from puna.errors import TokenizerError

Digits = Literal["one", "two", "three", "off"]
"""Digits that one token may hold: one (LLaMA), up to two, to three (Llama 3), no limit (GPT-2)."""

DIGITS_MODES: tuple[Digits, ...] = get_args(Digits)

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    r"%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLIT_PATTERNS: Mapping[Digits, str] = MappingProxyType(
    {
        "one": _WORDS % r"\p{N}",
        "two": _WORDS % r"\p{N}{1,2}",
        "three": _WORDS % r"\p{N}{1,3}",
        "off": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    }
)
r"""Each mode's regular expression in Oniguruma syntax; `one`, `three` and `off` as in the
`tokenizer.json` of Qwen 2, Llama 3 and GPT-2.
"""

_CUT = re.compile(r"[^\W_](?=[\s,.\u3001\u3002\uFF0C])")


def check_digits(digits: str) -> Digits:
    """Return `digits` as a mode, or raise TokenizerError naming those that exist."""
    for mode in DIGITS_MODES:
        if digits == mode:
            return mode
    raise TokenizerError(f"digits is {digits!r}; choose one of {', '.join(DIGITS_MODES)}")


def build_pre_tokenizer(digits: Digits) -> pre_tokenizers.PreTokenizer:
    """Cut with the mode's pattern, then spell each piece in the 256 byte characters.

    The usual mistake is `ByteLevel()` with its defaults, which puts a space before every text (so
    decoding is not lossless) and cuts a second time with GPT-2's pattern.
    """
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERNS[digits]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def recognise_digits(pre_tokenizer: Mapping[str, Any]) -> Digits | None:
    """The mode of a `tokenizer.json`'s `pre_tokenizer` entry, or None for a pattern that is not
    among them.
    """
    # GPT-2's file has its pattern inside ByteLevel; later ones split first, and ByteLevel only maps
    match pre_tokenizer:
        case {"type": "ByteLevel"}:
            return "off" if pre_tokenizer.get("use_regex", True) else None
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": str(pattern)},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "use_regex": False},
            ],
        }:
            return next((mode for mode, known in SPLIT_PATTERNS.items() if known == pattern), None)
        case _:
            return None


def cut_text(text: str, characters: int) -> Iterator[str]:
    """Cut a long text into pieces of at least `characters`, but the last, whose tokens together are
    those of the text.

    `tokenizers` needs about 150 bytes of memory for each byte of one text (measured: 1.1 GB for 7.2
    MB), so a book-sized document is encoded in pieces. A cut falls only between a letter or digit
    and the white space, comma or full stop after it: in all patterns a run of letters or
    digits ends there, whatever follows, and none looks back. A text without such a position stays
    whole.
    """
    start = 0
    while (found := _CUT.search(text, start + characters - 1)) is not None:
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def encode_utf8(text: str) -> bytes:
    """The UTF-8 bytes of `text`; TokenizerError for a lone surrogate, half of a UTF-16 pair and no
    character.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text holds the lone surrogate U+{ord(text[error.start]):04X} at character"
            f" {error.start}, which UTF-8 cannot write; read the file with errors='replace', or"
            " drop such characters"
        ) from error
