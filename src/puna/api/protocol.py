"""Bodies of requests, field by field.

Every field of OpenAI's interface stands here. One that Puna does not serve is marked `NotSupported`
and takes only values that change nothing; one that asks for nothing that an answer would show is
marked `NoEffect`; any other field is rejected. null means the default, as if the field were left
out. Types are strict: true is no number, "1" neither.

Not here: the body of /v1/responses (responses_request.py), rules across fields
(cross_field_rules.py), messages and tools (chat_messages.py), formats of the answer
(response_format.py), reading JSON and wording errors (json_body.py).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from puna.api.chat_messages import Function, Message, NamedTool, Tool, ToolChoice
from puna.api.cross_field_rules import (
    CHAT_RULES,
    COMPLETION_RULES,
    TOKENIZE_CHAT_RULES,
    Rules,
    in_json_schema,
)
from puna.api.fields import (
    CONTEXT_LENGTH,
    MESSAGES,
    AtMost,
    Inputs,
    ModelName,
    MostTokens,
    NoEffect,
    NotSupported,
    Penalty,
    Probability,
    Prompts,
    SomeProbability,
    StopText,
    TokenBiases,
    TokenIds,
)
from puna.api.response_format import ResponseFormat, TextFormat, answer_constraint
from puna.config import Config
from puna.inference.request import Constraint

SeveralMessages = Annotated[
    list[Message], Field(min_length=1, fail_fast=True), AtMost(MESSAGES, CONTEXT_LENGTH)
]
Tools = Annotated[list[Tool], Field(min_length=1, fail_fast=True), AtMost("tools")]


class RequestBody(Config):
    """Base of the bodies of requests."""

    rules: ClassVar[Rules] = ()
    """Rules across its fields."""


class StreamOptions(Config):
    """Options of a stream."""

    include_usage: bool | None = Field(
        default=None, description="a last event with the usage; null in all before it"
    )
    include_obfuscation: Annotated[Literal[False] | None, NotSupported("events are not padded")] = (
        None
    )


class SamplingRequest(RequestBody):
    """Fields of every request for text: the choice of tokens, and where a text ends."""

    model: ModelName = Field(
        description="a name from /v1/models; `name:adapter` chooses an adapter"
    )
    stream: bool | None = Field(
        default=None, description="answer bit by bit, as server-sent events"
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None, description="0 takes the likeliest token"
    )
    top_p: Probability | None = Field(
        default=None,
        description="keep the fewest tokens whose probabilities reach p; 0: the likeliest",
    )
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[TokenBiases, AtMost("logit_bias")] | None = None
    seed: Annotated[int, Field(ge=-1, lt=2**63)] | None = Field(
        default=None, description="equal seeds give equal answers; -1: a fresh one"
    )
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True), AtMost("stops")] | None = (
        Field(default=None, description="texts that end the answer; empty ones never do")
    )
    user: str | None = Field(
        default=None,
        description="a label of the caller's own; it changes nothing, and nothing is recorded",
    )

    # Ours
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = Field(
        default=None, description="keep the k likeliest tokens; 0 and -1: all"
    )
    min_p: Probability | None = Field(
        default=None,
        description="keep tokens with at least this fraction of the likeliest's probability",
    )
    typical_p: SomeProbability | None = Field(
        default=None, description="keep the most typical tokens whose probabilities reach p"
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(
        default=None,
        description="above 1: tokens already seen, the prompt's too, become less likely",
    )
    stop_token_ids: Annotated[TokenIds, AtMost("stops")] | None = Field(
        default=None, description="ids that end the answer too"
    )

    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        texts = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in texts if text)


class GenerationRequest(SamplingRequest):
    """Fields that chats and completions have in common."""

    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1), AtMost("n")] | None = Field(
        default=None, description="answers, each with a seed of its own, one apart"
    )
    response_format: ResponseFormat | None = None
    min_tokens: Annotated[int, Field(ge=0), AtMost("output_tokens")] | None = Field(
        default=None, description="tokens before the answer may end"
    )
    ignore_eos: bool | None = Field(default=None, description="go on after an end token")
    prompt_logprobs: Annotated[int, Field(ge=0), AtMost("logprobs")] | None = Field(
        default=None,
        description="log-probabilities of the prompt's tokens, with this many alternatives",
    )

    @property
    def constrained_by(self) -> str | None:
        """The field that decides the form of the answer, if one does."""
        return (
            "response_format"
            if self.response_format is not None and not isinstance(self.response_format, TextFormat)
            else None
        )

    def constraint(self) -> Constraint | None:
        """The form that the engine holds the answer to, if there is one."""
        return answer_constraint(self.response_format)


class ChatRequest(GenerationRequest):
    """A chat to be answered."""

    rules = CHAT_RULES
    model_config = ConfigDict(json_schema_extra=in_json_schema(CHAT_RULES))
    conversation_field: ClassVar[str] = "messages"
    """The name by which errors call the conversation."""

    messages: SeveralMessages
    max_completion_tokens: MostTokens | None = Field(
        default=None, description="tokens of an answer at most; the context may end it sooner"
    )
    max_tokens: MostTokens | None = Field(
        default=None, description="the older name; of both the smaller counts"
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0), AtMost("logprobs")] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="false: one call at most")
    safety_identifier: str | None = Field(default=None, description="like user")
    prompt_cache_key: str | None = Field(
        default=None, description="like user: all equal prefixes are cached anyhow"
    )

    # OpenAI's that change nothing, or of which only what changes nothing is taken
    audio: Annotated[None, NotSupported("Puna answers in text")] = None
    function_call: Annotated[None, NotSupported("tool_choice took its place")] = None
    functions: Annotated[None, NotSupported("tools took their place")] = None
    metadata: Annotated[
        dict[str, Any] | None, NoEffect("nothing is stored that it could be attached to")
    ] = None
    modalities: Annotated[
        Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None,
        NotSupported("Puna answers in text"),
    ] = None
    moderation: Annotated[None, NotSupported("nothing here judges texts")] = None
    prediction: Annotated[None, NotSupported("draft tokens come from the conversation itself")] = (
        None
    )
    prompt_cache_options: Annotated[
        None, NotSupported("prefixes are cached without being marked")
    ] = None
    prompt_cache_retention: Annotated[
        str | None, NoEffect("prefixes are kept in memory while there is space")
    ] = None
    reasoning_effort: Annotated[
        str | None, NoEffect("no model here reasons apart from its answer")
    ] = None
    service_tier: Annotated[str | None, NoEffect("there is one tier")] = None
    store: Annotated[
        bool | None, NoEffect("nothing is stored; an answer to true has `store: false`")
    ] = None
    verbosity: Annotated[
        str | None, NoEffect("no model here was taught degrees of it; ask for brevity in a message")
    ] = None
    web_search_options: Annotated[None, NotSupported("no address is ever fetched")] = None

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that the answer may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def must_call(self) -> bool:
        """True if the answer has to be a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def constrained_by(self) -> str | None:
        """The field that decides the form of the answer, if one does."""
        strict = any(tool.function.strict for tool in self.callable_tools)
        return (
            "tool_choice"
            if self.must_call
            else super().constrained_by or ("tools" if strict else None)
        )

    def constraint(self) -> Constraint | None:
        """The form that the engine holds the answer to, if there is one."""
        return answer_constraint(self.response_format, self._functions, must_call=self.must_call)

    @property
    def _functions(self) -> list[Function]:
        """The functions that the answer may call; only the named one, if one is."""
        functions = [tool.function for tool in self.callable_tools]
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            functions = [function for function in functions if function.name == name]
        return functions


class CompletionRequest(GenerationRequest):
    """Texts to be continued."""

    rules = COMPLETION_RULES
    model_config = ConfigDict(json_schema_extra=in_json_schema(COMPLETION_RULES))

    prompt: Prompts | None = Field(
        description="texts, or ids that are taken as they are; null: from the beginning of a text"
    )
    max_tokens: MostTokens | None = Field(
        default=None, description="tokens of an answer at most; the context may end it sooner"
    )
    logprobs: Annotated[int, Field(ge=0), AtMost("logprobs")] | None = None
    echo: bool | None = Field(
        default=None,
        description="give the prompt back too, and its log-probabilities if those are asked for",
    )
    best_of: Annotated[int, Field(ge=1), AtMost("n")] | None = Field(
        default=None, description="1, or as many as n: nothing is generated to be thrown away"
    )
    suffix: Annotated[Literal[""] | None, NotSupported("no model here fills gaps")] = None


class EmbeddingRequest(RequestBody):
    """Texts to be made into vectors."""

    model: ModelName = Field(
        description="a name from /v1/models; `name:adapter` chooses an adapter"
    )
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        default=None, description="the width of the model: no vector is shortened"
    )
    user: str | None = Field(
        default=None,
        description="a label of the caller's own; it changes nothing, and nothing is recorded",
    )


_ONLY_MODEL: ModelName | None = Field(
    default=None, description="whose vocabulary; left out: that of the only model"
)


class TokenizeTextRequest(RequestBody):
    """A text to be turned into ids."""

    model: ModelName | None = _ONLY_MODEL
    prompt: str
    add_special_tokens: bool | None = Field(
        default=None,
        description=(
            "true, the default: begin with the token that opens a text; with false, a text that is"
            " nothing but the name of a special token is that token"
        ),
    )


class TokenizeChatRequest(RequestBody):
    """A chat to be turned into ids, as it would be to be answered."""

    rules = TOKENIZE_CHAT_RULES
    model_config = ConfigDict(json_schema_extra=in_json_schema(TOKENIZE_CHAT_RULES))

    model: ModelName | None = _ONLY_MODEL
    messages: SeveralMessages
    tools: Tools | None = None
    add_generation_prompt: bool | None = Field(
        default=None, description="true, the default: end where the answer begins"
    )


class DetokenizeRequest(RequestBody):
    """Ids to be turned into text."""

    model: ModelName | None = _ONLY_MODEL
    tokens: Annotated[TokenIds, AtMost("prompt_tokens")]
