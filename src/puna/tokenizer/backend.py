"""The library's tokenizer of a `tokenizer.json`: as it stands, or with special tokens that no text
can forge.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any

import tokenizers

from puna.errors import TokenizerError

Content = Mapping[str, Any]


def build_backend(text: str, encode_special: bool = False) -> tokenizers.Tokenizer:
    """The library's tokenizer of a content; with `encode_special` a special token spelled in a text
    becomes its id.
    """
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # plain Exception for every fault, and its own for a panic
        raise TokenizerError(
            f"the tokenizer file is damaged ({error}); copy or train it again"
        ) from error
    # What a file may have left on from training: it would cut texts short, lengthen them, or cut
    # them at random
    backend.no_truncation()
    backend.no_padding()
    if hasattr(backend.model, "dropout"):
        backend.model.dropout = None
    backend.encode_special_tokens = not encode_special
    return backend


def without_prefix(content: Content) -> Content:
    """The content with every step changed that puts a space before a text: Prepend, Metaspace, and
    add_prefix_space of a ByteLevel pre-tokenizer.
    """

    def changed(step: Any) -> Any:
        match step:
            case {"type": "Sequence"}:
                key = "normalizers" if "normalizers" in step else "pretokenizers"
                kept = [changed(each) for each in step[key] if each.get("type") != "Prepend"]
                return {**step, key: kept}
            case {"type": "Prepend"}:
                return None
            case {"type": "Metaspace"}:
                return {**step, "prepend_scheme": "never", "add_prefix_space": False}
            case {"type": "ByteLevel"}:
                return {**step, "add_prefix_space": False}
            case _:
                return step

    parts = ("normalizer", "pre_tokenizer")
    return {**content, **{part: changed(content.get(part)) for part in parts}}


def forgeable(content: Content, special: Mapping[str, int]) -> set[str]:
    """The special tokens that the model may make of text which spells them.

    BPE makes a token only by merges, unless it looks up whole words; other models look up. The
    token for what is unknown marks nothing, and stays where the model knows it by name.
    """
    model = content["model"]
    vocab = model.get("vocab") or {}
    listed = set(vocab) if isinstance(vocab, dict) else {piece[0] for piece in vocab}
    names = (special.keys() & listed) - {model.get("unk_token")}
    if "merges" not in model or model.get("ignore_merges"):
        return names
    made = {
        merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)
        for merge in model["merges"]
    }
    return {name for name in names if len(name) == 1 or name in made}


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def text_backend(content: Content, forgeable: set[str]) -> tokenizers.Tokenizer:
    """The encoder of text with names for these special tokens that nobody can guess."""
    secret = secrets.token_hex(16)
    names = {name: f"{name}\0{secret}" for name in forgeable}
    model = dict(content["model"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): id_ for token, id_ in vocab.items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    if "merges" in model:
        model["merges"] = [
            merge
            for merge in model["merges"]
            if not forgeable & {*_pair(merge), "".join(_pair(merge))}
        ]
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in content["added_tokens"]
    ]
    return build_backend(
        json.dumps({**content, "model": model, "added_tokens": added, "post_processor": None})
    )
