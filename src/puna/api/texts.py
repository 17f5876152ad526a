"""Prompts that are texts or ids, one or several in one field, as completions and embeddings take
them: their types, and their ids.

A text is read as the model met texts in training: behind the token that opens one. Ids are taken as
they are.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from puna.api.fields import CONTEXT_LENGTH, AtMost, KnownIds, TokenId
from puna.tokenizer.tokenizer import Tokenizer

Text = Annotated[str, Field(min_length=1)]
Ids = Annotated[
    list[TokenId],
    Field(min_length=1, fail_fast=True),
    KnownIds(),
    AtMost("prompt_tokens", CONTEXT_LENGTH),
]
_Several = (Field(min_length=1, fail_fast=True), AtMost("prompts"))


def _kind(value: Any) -> str:
    """What such a field is meant to be: its first entry says so, so that a long list is looked at
    once.
    """
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else None
    if isinstance(first, list):
        return "lists of ids"
    return "ids" if isinstance(first, int | float) else "texts"


Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], *_Several, Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], *_Several, Tag("lists of ids")],
    Discriminator(_kind),
]
"""What completions continue: a text may be empty."""

Inputs = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], *_Several, Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], *_Several, Tag("lists of ids")],
    Discriminator(_kind),
]
"""What embeddings are made of."""


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt in ids. opened: the first id was put before it, and is none of it. said: its
    text.
    """

    ids: list[int]
    opened: bool
    said: str


def prompts_in(field: str | list[str] | list[int] | list[list[int]]) -> Sequence[str | list[int]]:
    """Every prompt that a field holds."""
    if isinstance(field, str):
        return [field]
    ids = [id_ for id_ in field if isinstance(id_, int)]
    return [ids] if ids else [one for one in field if not isinstance(one, int)]


async def encode_prompt(tokenizer: Tokenizer, given: str | list[int]) -> PromptText:
    """A prompt in ids, of which there is at least one: an empty text begins where a document does,
    or else where one has ended.
    """
    if not isinstance(given, str):
        return PromptText(given, False, tokenizer.decode(given))
    # leaves the interpreter to others, as `encode` does not
    (ids,) = await asyncio.to_thread(tokenizer.encode_documents, [given])
    opened = tokenizer.bos_id is not None or not ids
    return PromptText(ids or [tokenizer.eos_id], opened, given)
