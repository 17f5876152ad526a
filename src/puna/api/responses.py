"""Shapes of answers, as OpenAI has them. Fields that were not set are left out, so that null means
something where it stands.

Not here: requests (protocol.py), errors (error_response.py), /v1/responses (responses_answer.py),
and the making of an answer (chat_completions.py, completions.py, embeddings.py, tokens.py).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "tool_calls"]


class Answer(BaseModel):
    """Base of everything that is sent."""

    model_config = ConfigDict(extra="forbid")

    def to_json(self) -> bytes:
        """The fields that were set, as JSON. A lone surrogate, which no JSON of ours holds, would
        be an error.
        """
        return self.model_dump_json(exclude_unset=True).encode("utf-8")


class PromptTokensDetails(Answer):
    """Of the prompt's tokens: those in the prefix cache, which cost nothing."""

    cached_tokens: int


class CompletionUsage(Answer):
    """The tokens of a request. A prompt counts once, however many sequences it has; an end token
    counts as completed.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class PromptUsage(Answer):
    """The tokens that were read, where none are generated."""

    prompt_tokens: int
    total_tokens: int


# Log-probabilities: natural logarithms of the model's own probabilities, before temperature and all
# the rest


class TopLogprob(Answer):
    """A token with the logarithm of its probability."""

    token: str = Field(
        description=(
            "its text; U+FFFD stands for part of a character, a special token is spelled out"
        )
    )
    logprob: float
    bytes: list[int] | None = Field(
        description="its UTF-8 bytes, perhaps part of a character; null for a special token"
    )


class TokenLogprob(TopLogprob):
    """The same, with the likeliest tokens at its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Those of a message's tokens; none for an end token or tokens behind the end of the text."""

    content: list[TokenLogprob] | None


class CompletionLogprobs(Answer):
    """The same in the older shape: lists of equal length."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(
        description="null for a token that nothing comes before"
    )
    top_logprobs: list[dict[str, float] | None] = Field(
        description="of tokens whose texts are equal, the likeliest"
    )
    text_offset: list[int] = Field(
        description=(
            "where each token begins, in characters of `text`, across the pieces of a stream"
        )
    )


# Chat


class FunctionCall(Answer):
    """A function that the model calls. arguments: JSON, as text; not whole if the answer ended
    early.
    """

    name: str
    arguments: str


class ChatToolCall(Answer):
    """A call, with an id that the tool's answer has to name."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(Answer):
    """The assistant's answer: words or calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ChatToolCall] = Field(default_factory=list)


class ChatChoice(Answer):
    """One answer of n."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    prompt_logprobs: list[TokenLogprob | None] = Field(
        default_factory=list, description="null for the first token"
    )


class ChatCompletion(Answer):
    """The answers to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    store: bool = Field(
        default=False, description="false where the request asked for true: nothing is stored"
    )


class FunctionCallDelta(Answer):
    """A piece of a call: the name first, the arguments bit by bit."""

    name: str = ""
    arguments: str = ""


class ToolCallDelta(Answer):
    """A piece of the call numbered `index`; the id comes with the first."""

    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCallDelta


class ChatDelta(Answer):
    """The new part of an answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    tool_calls: list[ToolCallDelta] = Field(default_factory=list)


class ChatChunkChoice(Answer):
    """A piece of one answer of n."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    prompt_logprobs: list[TokenLogprob | None] = Field(default_factory=list)


class ChatCompletionChunk(Answer):
    """One event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | None = None
    store: bool = Field(
        default=False, description="false where the request asked for true: nothing is stored"
    )


# Completions


class CompletionChoice(Answer):
    """One text, or a piece of it in a stream."""

    index: int = Field(description="text j of prompt i has i * n + j")
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    prompt_logprobs: list[TokenLogprob | None] = Field(
        default_factory=list, description="null for the first token"
    )


class TextCompletion(Answer):
    """Texts that continue prompts; in a stream, an event."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


# Embeddings, tokens, models


class Embedding(Answer):
    """A vector of length 1."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(
        description="numbers; or base64 of them as little-endian float32"
    )


class EmbeddingList(Answer):
    """One vector for each input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: PromptUsage


class TokenizeResponse(Answer):
    """A text in ids."""

    tokens: list[int]
    count: int
    max_model_len: int = Field(description="the model's context, in tokens")


class DetokenizeResponse(Answer):
    """The text of some ids."""

    prompt: str


class TokenizerInfo(Answer):
    """The special tokens of a vocabulary by their names, as evaluation harnesses ask for them."""

    bos_token: str | None = Field(description="opens a text")
    eos_token: str | None = Field(description="ends a text")
    pad_token: str | None = Field(description="fills a batch")
    chat_template: str | None = Field(
        description="the layout of chats, in Jinja; null for a model that has none"
    )
    max_model_len: int = Field(description="the model's context, in tokens")


class Model(Answer):
    """Something that requests can name as their model."""

    id: str = Field(description="the model's name, or `name:adapter`")
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int = Field(description="its context, in tokens")


class ModelList(Answer):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class HealthResponse(Answer):
    """The state of the service."""

    status: Literal["ok", "loading", "stuck", "dead", "draining"]
    detail: str = ""
