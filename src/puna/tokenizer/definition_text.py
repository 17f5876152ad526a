"""The text of a `tokenizer.json` from its parts, for vocabularies that come in another form."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Part = Mapping[str, Any]


def definition_text(
    model: Part,
    *,
    special: Mapping[str, int],
    begin: str | None,
    normalizer: Part | None = None,
    pre_tokenizer: Part | None = None,
    decoder: Part | None = None,
) -> str:
    """The content as the library `tokenizers` writes it. special: added tokens that are special,
    with their ids. begin: the one that the post-processor puts before every text.
    """
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": id_, "content": name, **plain, "special": True}
                for name, id_ in sorted(special.items(), key=lambda item: item[1])
            ],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": None if begin is None else _begin_before(begin, special[begin]),
            "decoder": decoder,
            "model": model,
        },
        ensure_ascii=False,
    )


def bpe_model(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    unk_token: str | None = None,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> Part:
    """A `model` entry. ignore_merges: a piece that is a token is taken whole."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback or unk_token is not None,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": dict(vocab),
        "merges": [list(pair) for pair in merges],
    }


def split_then_bytes(pattern: str) -> Part:
    """A `pre_tokenizer` entry: cut by a regular expression, then spell in byte characters."""
    return {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": False,
            },
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
        ],
    }


BYTE_LEVEL_DECODER: Part = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}


def _begin_before(name: str, id_: int) -> Part:
    token = {"SpecialToken": {"id": name, "type_id": 0}}
    text: list[Part] = [{"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"SpecialToken": {"id": name, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": [token, *text],
        "pair": [token, *text, *pair],
        "special_tokens": {name: {"id": name, "ids": [id_], "tokens": [name]}},
    }
