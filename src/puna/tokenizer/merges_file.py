"""A byte-level vocabulary as GPT-2 keeps it, `vocab.json` (tokens with ids) beside `merges.txt` (a
merge on each line, the first to be made on top), as the content of a `tokenizer.json`.

The files do not say where a text is cut: the class of `tokenizer_config.json` does. Qwen 2's has a
pattern and a normalizer of its own, every other is read as GPT-2's.
"""

import json
from collections.abc import Mapping
from typing import Any

from puna.errors import TokenizerError
from puna.tokenizer.definition_text import (
    BYTE_LEVEL_DECODER,
    bpe_model,
    definition_text,
    split_then_bytes,
)
from puna.tokenizer.pretokenize import SPLIT_PATTERNS


def read_merges(vocab: str, merges: str, config: Mapping[str, Any] | None) -> str:
    """The content of a `tokenizer.json` from those of both files and of `tokenizer_config.json`."""
    try:
        ids = json.loads(vocab)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"vocab.json is not whole JSON ({error}); copy it again") from error
    if not isinstance(ids, dict) or not ids:
        raise TokenizerError("vocab.json must be an object of tokens with ids; copy it again")
    pairs = []
    for number, line in enumerate(merges.split("\n"), 1):
        if not line.strip() or line.startswith("#version"):
            continue
        left, _, right = line.rstrip("\r").partition(" ")
        if not left or not right or " " in right:
            raise TokenizerError(
                f"line {number} of merges.txt is {line[:60]!r}; it must be two tokens with a space"
                " between them: copy it again"
            )
        pairs.append((left, right))
    qwen = str((config or {}).get("tokenizer_class", "")).startswith("Qwen2")
    return definition_text(
        bpe_model(ids, pairs),
        special={},
        begin=None,
        normalizer={"type": "NFC"} if qwen else None,
        pre_tokenizer=(
            split_then_bytes(SPLIT_PATTERNS["one"])
            if qwen
            else {**BYTE_LEVEL_DECODER, "add_prefix_space": False}
        ),
        decoder=BYTE_LEVEL_DECODER,
    )
