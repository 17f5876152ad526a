"""tiktoken's vocabulary file, the `tokenizer.model` of Llama 3, as a `tokenizer.json`.

A line of it is a token: its bytes in base64, a space and its rank, which is its id.

tiktoken merges the neighbours whose joined bytes have the lowest rank, so the merges are all ways
to cut a token in two tokens, by rank. The file says nothing of the pattern that cuts a text nor of
special tokens: the pattern is Llama 3's; special tokens are those of a `tokenizer_config.json`
(added_tokens_decoder) beside the file, or else Llama 3's 256. Source: llama-models 0.3.0,
models/llama3/tokenizer.py. Reading takes about 2 s for 128,000 tokens.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from puna.errors import TokenizerError
from puna.tokenizer.byte_level import byte_characters
from puna.tokenizer.definition_text import (
    BYTE_LEVEL_DECODER,
    bpe_model,
    definition_text,
    split_then_bytes,
)
from puna.tokenizer.pretokenize import SPLIT_PATTERNS
from puna.tokenizer.special import (
    BEGIN_OF_TEXT,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TEXT,
    END_OF_TURN,
    PAD,
    PYTHON_TAG,
    START_HEADER,
)

RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]{1,9}")

_RESERVED = "<|reserved_special_token_{}|>"
_NAMED = (
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    _RESERVED.format(0),
    _RESERVED.format(1),
    PAD,
    "<|step_id|>",
    START_HEADER,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TURN,
    PYTHON_TAG,
    "<|image|>",
)
_SPECIAL_TOKENS = 256


def read_ranks(data: bytes, config: Mapping[str, Any] | None = None, *, begins: bool = True) -> str:
    """The content of a `tokenizer.json` from a file's bytes. begins: put <|begin_of_text|> before
    every text. Raises TokenizerError for a line that is no token with its rank, and for a rank that
    occurs twice.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if line and not RANK_LINE.fullmatch(line):
            raise _damaged(number, line, "it must be a token in base64, a space and its rank")
        if line:
            token, rank = line.split()
            try:
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except binascii.Error as error:
                raise _damaged(number, line, f"its base64 is not whole ({error})") from error
    if len(set(ranks.values())) != len(ranks) or len(ranks) != data.count(b" "):
        raise TokenizerError(
            "the tiktoken file gives a token or a rank twice; copy tokenizer.model again"
        )
    table = byte_characters()
    spelled = {token: "".join(table[byte] for byte in token) for token in ranks}
    splits = sorted(
        (rank, ranks[token[:cut]], ranks[token[cut:]], token, cut)
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    )
    special = _special_tokens(max(ranks.values()) + 1, config)
    return definition_text(
        bpe_model(
            {spelled[token]: rank for token, rank in ranks.items()},
            [(spelled[token[:cut]], spelled[token[cut:]]) for _, _, _, token, cut in splits],
            ignore_merges=True,
        ),
        special=special,
        begin=BEGIN_OF_TEXT if begins and BEGIN_OF_TEXT in special else None,
        pre_tokenizer=split_then_bytes(SPLIT_PATTERNS["three"]),
        decoder=BYTE_LEVEL_DECODER,
    )


def _special_tokens(first: int, config: Mapping[str, Any] | None) -> dict[str, int]:
    if config and config.get("added_tokens_decoder"):
        return {}  # the configuration's are added when the definition is read
    reserved = [_RESERVED.format(2 + index) for index in range(_SPECIAL_TOKENS - len(_NAMED))]
    return {name: first + index for index, name in enumerate((*_NAMED, *reserved))}


def _damaged(number: int, line: bytes, rule: str) -> TokenizerError:
    return TokenizerError(
        f"line {number} of the tiktoken file is {line[:60]!r}; {rule}: copy tokenizer.model again"
    )
