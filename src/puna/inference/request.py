"""Requests and options of generation, checked before any work is done, and events, their results:
plain values, no tensors.

A person chooses `GenerationOptions`, the engine takes a `Request` (ids, not text) and gives
`Event`s.
"""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, field_validator

from puna.config import Config

Finish = Literal["stop", "length", "error"]


class Constraint(Config):
    """A rule that the output must match: a JSON schema, a regular expression, or a grammar in
    Lark's notation.
    """

    kind: Literal["json_schema", "regex", "grammar"]
    text: str = Field(description="the schema as JSON, the regular expression, or the grammar")


class GenerationOptions(Config):
    """Options of generation. The defaults sample from the model's own distribution."""

    max_tokens: int = Field(default=256, gt=0, description="tokens to generate at most")
    min_tokens: int = Field(default=0, ge=0, description="tokens before an end token may come")
    temperature: float = Field(
        default=1.0, ge=0, description="divides the logits; 0 takes the likeliest token"
    )
    top_k: int | None = Field(default=None, gt=0, description="keep the k likeliest tokens")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="keep the fewest tokens whose probabilities reach p"
    )
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="keep tokens with at least this fraction of the likeliest's probability",
    )
    typical_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="keep the most typical tokens whose probabilities reach p",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0,
        description="above 1: tokens already seen, the prompt's too, become less likely",
    )
    presence_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="taken off the logits of tokens already generated"
    )
    frequency_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="the same for each time a token was generated"
    )
    logit_bias: dict[int, float] = Field(
        default_factory=dict, description="added to the logits of these ids; -100 rules one out"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="equal seeds give equal text; left out: a fresh one",
    )
    stop: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="texts that end the generation; they are not part of it",
    )
    stop_ids: tuple[int, ...] = Field(
        default=(), strict=False, description="ids that end the generation besides the end tokens"
    )
    ignore_end: bool = Field(default=False, description="go on after an end token")
    n: int = Field(
        default=1,
        gt=0,
        description="sequences from the same prompt; each has a seed of its own, one apart",
    )
    logprobs: int | None = Field(
        default=None,
        ge=0,
        description="report each token's log-probability and this many alternatives",
    )
    prompt_logprobs: int | None = Field(default=None, ge=0, description="the same for the prompt")
    constraint: Constraint | None = Field(default=None, description="what the output must match")
    adapter: str | None = Field(
        default=None, description="the LoRA adapter to use; left out: the model as it is"
    )
    speculate: bool = Field(
        default=True, description="draft tokens from the text so far; the text stays equal"
    )

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop text would end every generation at once; leave it out")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _in_range(cls, bias: dict[int, float]) -> dict[int, float]:
        wrong = [value for value in bias.values() if not -100 <= value <= 100]
        if wrong:
            raise ValueError(f"{wrong[0]} is outside -100 to 100")
        return bias


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt in ids and how to go on. id: chosen by the caller, unique among those in progress.

    ends: the ids that end the text (unless the options say `ignore_end`). The engine leaves
    `options.stop` to whoever makes text of ids. embed: give the mean of the prompt's final hidden
    states instead of generating.
    """

    id: str
    prompt: tuple[int, ...]
    options: GenerationOptions
    ends: frozenset[int] = frozenset()
    embed: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Raw log-probabilities of a token: natural logarithms, before any logits processor."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with theirs, best first."""


@dataclass(frozen=True, slots=True)
class Event:
    """Result of a step for one sequence of a request."""

    request: str
    index: int = 0
    """Number of the sequence among the n."""
    ids: tuple[int, ...] = ()
    """New tokens, an end token included; several where draft tokens were accepted."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each new token, if asked for."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token of the prompt but the first, in the first event, if asked for."""
    finish: Finish | None = None
    """Reason of the end, in the last event."""
    embedding: tuple[float, ...] = field(default=(), repr=False)
    """[D], for a request that embeds."""
    message: str = ""
    """Description of the fault, if `finish` is error."""
    cached: int = 0
    """Tokens of the prompt that were in the prefix cache, in the first event."""
