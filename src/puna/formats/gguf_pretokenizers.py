r"""The names under which llama.cpp knows the cut before byte-level BPE (`tokenizer.ggml.pre`), and
the patterns behind them.

llama.cpp has the patterns built in and a GGUF file holds only the name, so a vocabulary whose
pattern has no name there would be cut otherwise, and give other ids, without a word. A name also
decides two more things: a piece that is a token as a whole is taken unmerged (`ignore_merges`), and
the begin token where the file does not say.

Source: llama.cpp's src/llama-vocab.cpp for names; the patterns are those of the models' own
`tokenizer.json`, which llama.cpp spells without flags and possessive quantifiers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from puna.tokenizer.pretokenize import SPLIT_PATTERNS

GPT2 = SPLIT_PATTERNS["off"]
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
    r"%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_SMOLLM = (r"\p{N}", GPT2)
_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@dataclass(frozen=True)
class PreTokenizer:
    """A cut, one pattern after the other: what a pattern finds and what lies between are pieces,
    and the next pattern cuts each of them.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_begin: bool = False


def _named(names: str, *patterns: str, **rules: bool) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), PreTokenizer(patterns, **rules))


PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        **_named("gpt-2 phi-2 mpt olmo jais trillion", GPT2),
        **_named("smollm starcoder refact command-r codeshell exaone minerva-7b", *_SMOLLM),
        **_named("qwen2 stablelm2 hunyuan megrez deepseek-r1-qwen grok-2", SPLIT_PATTERNS["one"]),
        **_named(
            "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
            SPLIT_PATTERNS["three"],
            ignore_merges=True,
            adds_begin=True,
        ),
        **_named("dbrx smaug-bpe chatglm-bpe glm4", SPLIT_PATTERNS["three"]),
        **_named("tekken", _CASED % ("", "", r"\p{N}"), ignore_merges=True, adds_begin=True),
        **_named("gpt-4o llama4", _CASED % (_SUFFIX, _SUFFIX, r"\p{N}{1,3}")),
        **_named("deepseek-v3", *_DEEPSEEK),
        **_named("default", r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    }
)


def pre_tokenizer_definition(pre: PreTokenizer) -> dict[str, Any]:
    """The `pre_tokenizer` entry of a tokenizer.json that cuts so, then spells bytes."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]
    spelled = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {"type": "Sequence", "pretokenizers": [*splits, spelled | {"use_regex": False}]}


def patterns_of(entry: Any) -> tuple[str, ...] | None:
    """The patterns of a `pre_tokenizer` entry that ends in ByteLevel; None for any other."""
    steps = entry.get("pretokenizers", [entry]) if isinstance(entry, dict) else []
    patterns: list[str] = []
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"}:
                patterns.append(pattern)
            case {"type": "Digits", "individual_digits": True}:
                patterns.append(r"\p{N}")
            case {"type": "ByteLevel"} if not step.get("add_prefix_space", True):
                return (*patterns, *((GPT2,) if step.get("use_regex", True) else ()))
            case _:
                return None
    return None
