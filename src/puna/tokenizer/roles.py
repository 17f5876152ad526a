"""The tokens that begin a document, end a generation or fill a batch, by what the folder says, and
by their names only where it says nothing.

    end      generation_config.json's eos_token_id, else config.json's, else the roles eos_token,
             eot_token and eom_token of tokenizer_config.json, else the names of `special.py`
    begin    what the post-processor of tokenizer.json puts before a text, if it has one; else the
             role bos_token if tokenizer_config.json has add_bos_token true, none if it does not,
             and the names if there is no tokenizer_config.json

That is transformers' rule (5.24: beside a tokenizer.json it drops add_bos_token, and a tokenizer
without post-processor puts nothing before a text), but for add_bos_token true beside a file without
post-processor, which earlier releases, llama.cpp and the folder itself mean as it stands.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from puna.errors import TokenizerError
from puna.tokenizer.special import (
    BEGIN_OF_TEXT_NAMES,
    END_NAMES,
    END_OF_TEXT_NAMES,
    END_OF_TURN_NAMES,
    PAD_NAMES,
    first_id,
)

END_IDS_KEY = "end_ids"
"""Key of a saved tokenizer_config.json for end ids that its roles do not give."""

ROLES = ("bos", "eos", "eot", "eom", "pad", "unk", "sep", "cls", "mask")
"""Roles that a tokenizer_config.json gives to tokens, each as NAME_token."""

_END_ROLES = ("eos", "eot", "eom")


@dataclass(frozen=True)
class TokenRoles:
    """Ids by role. begin: what stands before a document's own ids, usually one id or none. eos: the
    token that closes a document.
    """

    begin: tuple[int, ...]
    eos: int | None
    eot: int | None
    pad: int | None
    ends: frozenset[int]


def role_token(config: Mapping[str, Any], role: str) -> str | None:
    """The name of the token in a role: "</s>" or {"content": "</s>", ...} in the file."""
    value = config.get(f"{role}_token")
    if isinstance(value, Mapping):
        value = value.get("content")
    if not isinstance(value, str | None):
        raise TokenizerError(
            f"{role}_token of tokenizer_config.json is {value!r}; it must be the name of a token or"
            " null"
        )
    return value or None


def read_ids(value: object, name: str) -> tuple[int, ...]:
    """An entry such as eos_token_id: an id, a list of them, or null, which gives none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id_, int) and not isinstance(id_, bool) for id_ in ids):
        raise TokenizerError(f"{name} is {value!r}; it must be an id, a list of ids, or null")
    return tuple(ids)


def find_roles(
    post_processor: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    special: Mapping[str, int],
    vocab_size: int,
    end_ids: Iterable[int] | None,
) -> TokenRoles:
    """The roles in a vocabulary whose special tokens are `special`, by the rule above.

    post_processor: the entry of tokenizer.json. end_ids: those of generation_config.json or
    config.json; ids that the vocabulary does not have are left out, since no text of it can end
    there.
    """
    given = config or {}

    def of_role(role: str) -> int | None:
        return special.get(role_token(given, role) or "")

    kept = read_ids(given.get(END_IDS_KEY), f"{END_IDS_KEY} of tokenizer_config.json")
    said = [id_ for id_ in end_ids or kept if 0 <= id_ < vocab_size]
    by_role = [id_ for id_ in map(of_role, _END_ROLES) if id_ is not None]
    by_name = [special[name] for name in END_NAMES if name in special]
    eos = of_role("eos")
    if eos is None:
        eos = said[0] if said else first_id(special, END_OF_TEXT_NAMES)
    eot = of_role("eot")
    pad = of_role("pad")
    return TokenRoles(
        begin=tuple(_begin(post_processor, config, special)),
        eos=eos,
        eot=first_id(special, END_OF_TURN_NAMES) if eot is None else eot,
        pad=first_id(special, PAD_NAMES) if pad is None else pad,
        ends=frozenset(said or by_role or by_name),
    )


def _begin(
    processor: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    special: Mapping[str, int],
) -> Iterator[int]:
    if processor is not None:
        yield from ids_before(processor)
        return
    if config is None:
        found = first_id(special, BEGIN_OF_TEXT_NAMES)
    else:
        found = special.get(role_token(config, "bos") or "")
    if found is not None and (config is None or config.get("add_bos_token")):
        yield found


def ids_before(processor: Mapping[str, Any]) -> Iterator[int]:
    """The ids that a `post_processor` entry puts before a single text."""
    match processor:
        case {"type": "Sequence", "processors": list(processors)}:
            for each in processors:
                yield from ids_before(each)
        case {"type": "TemplateProcessing", "single": list(single), "special_tokens": dict(tokens)}:
            for item in single:
                if "SpecialToken" not in item:
                    return
                name = item["SpecialToken"]["id"]
                if not tokens.get(name):
                    raise TokenizerError(
                        f"the post_processor of the tokenizer file puts {name!r} before a text, but"
                        " gives it no ids; copy the file again"
                    )
                yield from tokens[name]["ids"]
        case {"type": "BertProcessing" | "RobertaProcessing", "cls": [_, int(id_)]}:
            yield id_
