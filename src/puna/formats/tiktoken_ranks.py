"""tiktoken's ranks, the `tokenizer.model` of Llama 3, written from a byte-level `tokenizer.json`.

A line is a token: its bytes in base64, a space, its id. tiktoken merges the neighbours whose joined
bytes have the lowest id, so ids must follow the order of merging. The pattern that cuts a text is
not in the file; Meta's code has Llama 3's, with up to three digits.

Source: github.com/meta-llama/llama-models, models/llama3/tokenizer.py. Reading such files is
`Tokenizer.load`'s.
"""

import base64
import json

from puna.formats.sentencepiece_pieces import model_file, pieces_of
from puna.tokenizer.tokenizer import Tokenizer

SPECIAL_TOKENS = 256
"""Special tokens that Meta's code puts behind the ranks."""


def meta_vocabulary(tokenizer: Tokenizer) -> bytes | str:
    """The content of a `tokenizer.model` for Meta's code: ranks, or SentencePiece's pieces; or the
    reason why neither holds the vocabulary.
    """
    pieces = pieces_of(tokenizer.to_json())
    if not isinstance(pieces, str):
        return model_file(pieces)
    content = json.loads(tokenizer.to_json())
    if tokenizer.digits != "three" or content.get("normalizer"):
        return (
            f"its pattern (digits {tokenizer.digits or 'of its own'}) is not Llama 3's (digits"
            " three), the only one in Meta's code"
        )
    special = set(tokenizer.special_tokens.values())
    ids = sorted(set(range(tokenizer.vocab_size)) - special)
    tokens = {tokenizer.token_bytes(id_): id_ for id_ in ids}
    if ids != list(range(len(ids))) or len(tokens) != len(ids) or b"" in tokens:
        return "its special tokens do not stand behind all others"
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    # "a b" in older files, ["a", "b"] in newer ones; a token may be made in several ways
    joined = (m.replace(" ", "") if isinstance(m, str) else "".join(m) for m in merges)
    first = list(dict.fromkeys(vocab[token] for token in joined))
    if first != sorted(first):
        return "its ids do not follow the order of its merges"
    return b"".join(base64.b64encode(token) + f" {id_}\n".encode() for token, id_ in tokens.items())


def special_note(tokenizer: Tokenizer) -> str | None:
    """A sentence where the special tokens are not those that Meta's code puts behind the ranks."""
    count = len(tokenizer.special_tokens)
    if count == SPECIAL_TOKENS or not isinstance(pieces_of(tokenizer.to_json()), str):
        return None
    return (
        f"tokenizer.model holds no special tokens, and Meta's code puts {SPECIAL_TOKENS} behind it"
        f" where this vocabulary has {count}: their ids are in tokenizer.json"
    )
