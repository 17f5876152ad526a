"""A vocabulary as the metadata of a GGUF file, or the reason that llama.cpp would give other ids.

llama.cpp reads no tokenizer.json: a byte-level vocabulary needs a cut that it has built in under a
name, and a SentencePiece one scores for which the best pair is the first merge. Both are checked
against the whole vocabulary here. The one difference that passes is the normalizer NFC of Qwen's
vocabularies, which llama.cpp leaves out for them too: texts with composed accents, the usual form,
give the same ids.

Source: llama.cpp's src/llama-vocab.cpp and converter.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from puna.errors import TokenizerError
from puna.formats.gguf_file import Value
from puna.formats.gguf_pretokenizers import PRE_TOKENIZERS, patterns_of
from puna.formats.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    merges_of_scores,
)
from puna.tokenizer.byte_level import byte_characters
from puna.tokenizer.tokenizer import Tokenizer

_KEY = "tokenizer.ggml."
_END_ROLES = ("eos", "eot", "eom")


def vocabulary_metadata(tokenizer: Tokenizer, rows: int) -> dict[str, Value]:
    """Keys and values for a model whose embedding has `rows` rows; ids without a token get an
    unused one.

    Raises TokenizerError with the reason for a vocabulary that llama.cpp cannot hold.
    """
    definition = json.loads(tokenizer.to_json())
    config = tokenizer.config
    model = definition["model"]
    tokens, types = _tokens(definition, rows)
    if model.get("byte_fallback"):
        found = {"model": "llama", **_sentencepiece(definition, tokens, types)}
    else:
        found = {
            "model": "gpt2",
            "pre": pre_tokenizer_name(definition),
            "merges": [" ".join(pair) for pair in _pairs(model)],
        }
    found |= {"tokens": tokens, "token_type": np.array(types, np.int32)}
    metadata: dict[str, Value] = {f"{_KEY}{key}": value for key, value in found.items()}
    metadata |= {f"{_KEY}{role}_token_id": id_ for role, id_ in _ends(tokenizer).items()}
    ids = {token: id_ for id_, token in enumerate(tokens)}
    for role, key in (("bos", "bos"), ("unk", "unknown"), ("pad", "padding")):
        name = config.get(f"{role}_token")
        name = name.get("content") if isinstance(name, Mapping) else name
        id_ = ids.get(name) if isinstance(name, str) else None
        id_ = tokenizer.bos_id if role == "bos" and tokenizer.bos_id is not None else id_
        if id_ is not None:
            metadata[f"{_KEY}{key}_token_id"] = id_
    begins = len(tokenizer.encode_document("a")) > len(tokenizer.encode("a"))
    metadata |= {f"{_KEY}add_bos_token": begins, f"{_KEY}add_eos_token": False}
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {each.get("name"): each.get("template") for each in template}
        template = named.get("default")
    if isinstance(template, str):
        metadata["tokenizer.chat_template"] = template
    return metadata


def _ends(tokenizer: Tokenizer) -> dict[str, int]:
    """End ids by the roles that llama.cpp has for them."""
    eos, eot = tokenizer.eos_id, tokenizer.eot_id
    ends = sorted(tokenizer.end_ids, key=lambda id_: (id_ != eos, id_ != eot, id_))
    if len(ends) > len(_END_ROLES):
        raise TokenizerError(
            f"the model ends at {len(ends)} ids ({', '.join(map(str, ends))}), but a GGUF file"
            f" names {len(_END_ROLES)}: leave some out of generation_config.json"
        )
    return dict(zip(_END_ROLES, ends, strict=False))


def _tokens(definition: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Token and type of every id below `rows`."""
    vocab: Mapping[str, int] = definition["model"]["vocab"]
    added = {token["id"]: token for token in definition.get("added_tokens") or []}
    unknown = definition["model"].get("unk_token")
    named = {id_: token for token, id_ in vocab.items()}
    named |= {id_: token["content"] for id_, token in added.items()}
    if max(named) >= rows:
        raise TokenizerError(
            f"the vocabulary has ids up to {max(named)}, but the model {rows} rows: take the"
            " tokenizer that the model was trained with"
        )
    tokens, types = [], []
    for id_ in range(rows):
        token = named.get(id_)
        if token is None:
            types.append(UNUSED)
        elif token == unknown:
            types.append(UNKNOWN)
        elif id_ in added:
            types.append(CONTROL if added[id_]["special"] else USER_DEFINED)
        elif definition["model"].get("byte_fallback") and token in _BYTE_NAMES:
            types.append(BYTE)
        else:
            types.append(NORMAL)
        tokens.append(f"[PAD{id_}]" if token is None else token)
    if len(set(tokens)) < rows:
        raise TokenizerError("two ids of the vocabulary have one name, which llama.cpp cannot hold")
    return tokens, types


_BYTE_NAMES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges; older files hold each as one text with a space."""
    return [
        (str(left), str(right))
        for merge in model["merges"]
        for left, right in [merge.split(" ") if isinstance(merge, str) else merge]
    ]


def pre_tokenizer_name(definition: Mapping[str, Any]) -> str:
    """The value of `tokenizer.ggml.pre` under which llama.cpp gives the ids of a byte-level
    tokenizer.json. Raises TokenizerError where there is none.
    """
    model, normalizer = definition["model"], definition.get("normalizer")
    patterns = patterns_of(definition.get("pre_tokenizer"))
    if model.get("type") != "BPE" or patterns is None:
        raise TokenizerError(
            "the vocabulary is neither byte-level BPE nor SentencePiece's BPE with bytes, the kinds"
            " that a GGUF file of a LLaMA can hold"
        )
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise TokenizerError(
            f"the tokenizer changes texts by the normalizer {normalizer.get('type')}, which"
            " llama.cpp does not have for byte-level vocabularies"
        )
    for name, known in PRE_TOKENIZERS.items():
        if known.patterns == patterns and (
            known.ignore_merges == bool(model.get("ignore_merges")) or _merges_reach_all(definition)
        ):
            return name
    raise TokenizerError(
        f"texts are cut by a pattern that llama.cpp does not have: {' then '.join(patterns)[:200]};"
        " train with digits one, three or off, which it calls qwen2, llama-bpe and gpt-2"
    )


def _merges_reach_all(definition: Mapping[str, Any]) -> bool:
    """True where `ignore_merges` changes nothing: each token that is a text is merged to itself."""
    table = {character: byte for byte, character in enumerate(byte_characters())}
    texts = []
    for token in definition["model"]["vocab"]:
        try:
            texts.append(bytes(table[character] for character in token).decode("utf-8"))
        except (KeyError, UnicodeDecodeError):
            continue  # an added token, or no text by itself
    merged, whole = (
        tokenizers.Tokenizer.from_str(
            json.dumps({**definition, "model": definition["model"] | {"ignore_merges": ignored}})
        ).encode_batch_fast(texts, add_special_tokens=False)
        for ignored in (False, True)
    )
    return all(a.ids == b.ids for a, b in zip(merged, whole, strict=True))


def _sentencepiece(
    definition: Mapping[str, Any], tokens: list[str], types: list[int]
) -> dict[str, Value]:
    """Scores and the space before a text. Raises TokenizerError where llama.cpp's rule, the best
    score first, would merge otherwise.
    """
    pairs = _pairs(definition["model"])
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    # a token without a merge is never the best pair
    scores = [float(-ranks.get(token, len(pairs))) for token in tokens]
    given = [tuple(pair) for pair in merges_of_scores(tokens, types, scores)]
    same_order = [a + b for a, b in given] == [a + b for a, b in pairs]
    missing_bytes = len(_BYTE_NAMES - set(tokens))
    if missing_bytes or not same_order or set(given) != set(pairs):
        raise TokenizerError(
            f"{missing_bytes} bytes have no token"
            if missing_bytes
            else "the merges are not those that scores of the tokens would give, which is what"
            " llama.cpp goes by for a SentencePiece vocabulary"
        )
    return {
        "scores": np.array(scores, np.float32),
        "add_space_prefix": _prepends_space(definition),
    }


def _prepends_space(definition: Mapping[str, Any]) -> bool:
    normalizer = definition.get("normalizer") or {}
    steps: Sequence[Any] = normalizer.get("normalizers", [normalizer] if normalizer else [])
    cut = definition.get("pre_tokenizer")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    if cut is None and list(steps) in ([replace], [prepend, replace]):
        return len(steps) == 2
    if (
        not steps
        and isinstance(cut, dict)
        and cut.get("type") == "Metaspace"
        and cut.get("replacement") == SPACE
        and not cut.get("split", True)
    ):
        return bool(cut.get("prepend_scheme", "always") != "never")
    raise TokenizerError(
        "the tokenizer changes texts before it merges in a way that llama.cpp does not have for"
        " SentencePiece vocabularies: only spaces may be replaced, and one put before the text"
    )
