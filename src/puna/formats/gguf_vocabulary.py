"""The vocabulary of a GGUF file as a tokenizer.json definition and the tokenizer_config.json beside
it.

Two kinds: `gpt2`, byte-level BPE with merges and the name of a cut (`gguf_pretokenizers.py`), and
`llama`, SentencePiece's BPE, where scores take the place of merges and bytes without a token of
their own have one each. Ids stay; unused tokens at the end, which fill up a matrix, are left out.

Source: the GGUF specification, tokenizer.ggml; llama.cpp's src/llama-vocab.cpp for what is meant
where a key is missing; Hugging Face's conversion of SentencePiece for the order of merges.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from puna.errors import TokenizerError
from puna.formats.gguf_file import GGUFFile
from puna.formats.gguf_pretokenizers import PRE_TOKENIZERS, PreTokenizer, pre_tokenizer_definition
from puna.tokenizer.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of `tokenizer.ggml.token_type`."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""The character that SentencePiece writes for a space."""
MAX_PIECE = 128
"""Characters of a SentencePiece token; merges are sought at every place in it."""
_KEY = "tokenizer.ggml."


@dataclass(frozen=True)
class GGUFVocabulary:
    """Text and ids as a GGUF file has them: a tokenizer, and the roles of some ids."""

    definition: dict[str, Any]
    """The content of a tokenizer.json."""
    config: dict[str, Any]
    """The content of the tokenizer_config.json beside it."""
    bos_id: int | None
    eos_ids: tuple[int, ...]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of both. Raises TokenizerError where they make none."""
        return Tokenizer(json.dumps(self.definition), self.config, end_ids=self.eos_ids)


def read_vocabulary(file: GGUFFile) -> GGUFVocabulary | None:
    """The vocabulary, or None in a file without one.

    Raises TokenizerError for a kind of vocabulary that is not read, ids outside it, and a cut whose
    pattern is not known; ModelFolderError for values of another type.
    """
    kind = file.number(f"{_KEY}model", str, "no_vocab")
    if kind in ("no_vocab", "none"):
        return None
    if kind not in ("gpt2", "llama"):
        raise TokenizerError(
            f"{file.path} holds a vocabulary of kind {kind[:60]!r}; Puna reads gpt2 (byte-level"
            " BPE) and llama (SentencePiece): give a tokenizer of your own"
        )
    tokens = file.strings(f"{_KEY}tokens")
    if len(set(tokens)) < len(tokens):
        raise TokenizerError(f"{file.path}: a token stands twice in the vocabulary")
    found = file.array(f"{_KEY}token_type", len(tokens))
    types = [NORMAL] * len(tokens) if found is None else [int(each) for each in found]
    while types and types[-1] == UNUSED:
        types.pop()
    tokens = tokens[: len(types)]
    roles = _roles(file, len(tokens))
    if kind == "gpt2":
        pre = _pre_tokenizer(file)
        definition = _byte_level(file, tokens, types, pre)
        adds_begin = pre.adds_begin
    else:
        # llama.cpp's own defaults, SentencePiece's usual ids
        for role, id_, of in (("unk", 0, UNKNOWN), ("bos", 1, CONTROL), ("eos", 2, CONTROL)):
            if role not in roles and types[id_ : id_ + 1] == [of]:
                roles[role] = id_
        definition = _sentencepiece(file, tokens, types, roles.get("unk"))
        adds_begin = True
    adds = {
        "bos": file.number(f"{_KEY}add_bos_token", bool, adds_begin) and "bos" in roles,
        "eos": file.number(f"{_KEY}add_eos_token", bool, False) and "eos" in roles,
    }
    definition["post_processor"] = _post_processor(tokens, roles, adds)
    ends = (roles[role] for role in ("eos", "eot", "eom") if role in roles)
    return GGUFVocabulary(
        definition=definition,
        config=_config(file, tokens, roles, adds),
        bos_id=roles.get("bos"),
        eos_ids=tuple(dict.fromkeys(ends)),
    )


def _roles(file: GGUFFile, size: int) -> dict[str, int]:
    """Role to id, as far as the file says."""
    keys = {"bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom"} | {
        "unk": "unknown",
        "pad": "padding",
    }
    found = {}
    for role, key in keys.items():
        name = f"{_KEY}{key}_token_id"
        if name not in file.metadata:
            continue
        found[role] = file.number(name, int)
        if not 0 <= found[role] < size:
            raise TokenizerError(
                f"{file.path}: {name} is {found[role]}, but the vocabulary has ids 0 to {size - 1}"
            )
    return found


def _pre_tokenizer(file: GGUFFile) -> PreTokenizer:
    name = file.number(f"{_KEY}pre", str, "default")
    if name not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"{file.path}: texts are cut as {name[:60]!r} says ({_KEY}pre), whose pattern is not"
            f" known here; known are {', '.join(PRE_TOKENIZERS)}: give the model's own tokenizer"
        )
    return PRE_TOKENIZERS[name]


def _added_tokens(tokens: list[str], types: list[int]) -> list[dict[str, Any]]:
    """The tokens that are matched before a text is cut; the special ones only by id."""
    return [
        {
            "id": id_,
            "content": tokens[id_],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for id_, kind in enumerate(types)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _definition(tokens: list[str], types: list[int], **parts: Any) -> dict[str, Any]:
    """A tokenizer.json with a BPE model.

    Added tokens that follow the others without a gap stand in their own list alone, as in Llama
    3's; any others in the vocabulary too, for the library numbers anew what is in neither place.
    """
    added = _added_tokens(tokens, types)
    size = len(tokens) - len(added)
    trailing = [token["id"] for token in added] == list(range(size, len(tokens)))
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: id_ for id_, token in enumerate(tokens[:size] if trailing else tokens)},
        **parts.pop("model"),
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        **parts,
        "model": model,
    }


def _byte_level(
    file: GGUFFile, tokens: list[str], types: list[int], pre: PreTokenizer
) -> dict[str, Any]:
    merges = []
    for merge in file.strings(f"{_KEY}merges"):
        cut = merge.find(" ", 1)
        if cut < 0:
            raise TokenizerError(f"{file.path}: the merge {merge[:60]!r} has no two parts")
        merges.append([merge[:cut], merge[cut + 1 :]])
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    return _definition(
        tokens,
        types,
        pre_tokenizer=pre_tokenizer_definition(pre),
        decoder=decoder | {"use_regex": True},
        model={"merges": merges, "ignore_merges": pre.ignore_merges},
    )


def _sentencepiece(
    file: GGUFFile, tokens: list[str], types: list[int], unknown: int | None
) -> dict[str, Any]:
    total = len(file.strings(f"{_KEY}tokens"))
    scores = file.array(f"{_KEY}scores", total)
    if scores is None or not bool(np.isfinite(scores.astype(np.float64)).all()):
        raise TokenizerError(f"{file.path}: a SentencePiece vocabulary needs {_KEY}scores")
    prepends = file.number(f"{_KEY}add_space_prefix", bool, True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = [{"type": "Prepend", "prepend": SPACE}] if prepends else []
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prepends else []
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return _definition(
        tokens,
        types,
        normalizer={"type": "Sequence", "normalizers": [*before, spaces]},
        decoder={
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *after],
        },
        model={
            "merges": merges_of_scores(tokens, types, scores.tolist()),
            "unk_token": None if unknown is None else tokens[unknown],
            "fuse_unk": True,
            "byte_fallback": BYTE in types,
        },
    )


def merges_of_scores(
    tokens: list[str], types: list[int], scores: Iterable[float]
) -> list[list[str]]:
    """Every pair of tokens that together are a token, the best score first.

    SentencePiece merges the neighbours whose joined token has the highest score, of equal ones the
    leftmost; ranks of pairs say the same but for two pairs of one token, where the longer left part
    comes first. Raises TokenizerError for a token of more than `MAX_PIECE` characters.
    """
    normal = {token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    known = set(tokens)
    found = []
    for token, score in zip(tokens, scores, strict=False):
        if token not in normal:
            continue
        if len(token) > MAX_PIECE:
            raise TokenizerError(
                f"the token {token[:20]!r}... has {len(token)} characters, more than {MAX_PIECE};"
                " no SentencePiece vocabulary has such"
            )
        for cut in range(len(token) - 1, 0, -1):
            left, right = token[:cut], token[cut:]
            if left in known and right in known:
                found.append((score, left, right))
    found.sort(key=lambda pair: (-pair[0], -len(pair[1])))
    return [[left, right] for _, left, right in found]


def _post_processor(
    tokens: list[str], roles: dict[str, int], adds: dict[str, bool]
) -> dict[str, Any] | None:
    """The begin and end tokens that transformers puts around a text, if any."""
    used = [role for role, added in adds.items() if added]
    if not used:
        return None

    def special(role: str) -> list[dict[str, Any]]:
        if not adds[role]:
            return []
        return [{"SpecialToken": {"id": tokens[roles[role]], "type_id": 0}}]

    def around(name: str, type_id: int) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": name, "type_id": type_id}}
        return [*special("bos"), text, *special("eos")]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {
            tokens[roles[role]]: {
                "id": tokens[roles[role]],
                "ids": [roles[role]],
                "tokens": [tokens[roles[role]]],
            }
            for role in used
        },
    }


def _config(
    file: GGUFFile, tokens: list[str], roles: dict[str, int], adds: dict[str, bool]
) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role in ("bos", "eos", "unk", "pad"):
        if role in roles:
            config[f"{role}_token"] = tokens[roles[role]]
    config |= {f"add_{role}_token": added for role, added in adds.items()}
    config["clean_up_tokenization_spaces"] = False
    config["model_input_names"] = ["input_ids", "attention_mask"]
    if "tokenizer.chat_template" in file.metadata:
        config["chat_template"] = file.number("tokenizer.chat_template", str)
    return config
