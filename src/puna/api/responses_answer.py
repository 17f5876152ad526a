"""Shapes of the answers of /v1/responses: the response with its items, and the events of a stream.

Most fields of a response repeat the request. Not here: their making (responses_stream.py).
"""

from typing import Any, Literal

from pydantic import Field

from puna.api.responses import Answer, TokenLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseState = Literal["in_progress", "completed", "incomplete", "failed"]
ResponseStateType = Literal[
    "response.created",
    "response.in_progress",
    "response.completed",
    "response.incomplete",
    "response.failed",
]


class OutputText(Answer):
    """The words of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[None] = Field(max_length=0)
    logprobs: list[TokenLogprob] = Field(description="empty unless they were asked for")


class OutputMessage(Answer):
    """A message of the model; its content is one text, or none yet."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class OutputCall(Answer):
    """A call of a function. arguments: JSON, as text; not whole if the item is incomplete."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str = Field(description="what the function's output has to name")
    name: str
    arguments: str


OutputItem = OutputMessage | OutputCall


class InputTokensDetails(Answer):
    """Of the input's tokens: those in the prefix cache, which cost nothing. None is written there
    at a price.
    """

    cached_tokens: int
    cache_write_tokens: Literal[0]


class OutputTokensDetails(Answer):
    """Of the output's tokens: those of reasoning apart from the answer; no model here does that."""

    reasoning_tokens: Literal[0]


class ResponseUsage(Answer):
    """The tokens of a request; an end token counts as output."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(Answer):
    """The reason of an answer's early end: the most tokens asked for, or the end of the context."""

    reason: Literal["max_output_tokens"]


class ResponseFailure(Answer):
    """The error that ended a stream."""

    code: Literal["server_error"]
    message: str


class ResponseObject(Answer):
    """The answer to a conversation."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: ResponseState
    background: Literal[False]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, None]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, str]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class ResponseEvent(Answer):
    """An event of a stream; they are numbered from 0."""

    type: str
    sequence_number: int


class ResponseStateEvent(ResponseEvent):
    """The response as it is now: twice without output in the beginning, and whole in the end."""

    type: ResponseStateType
    response: ResponseObject


class OutputItemEvent(ResponseEvent):
    """An item begins, or has ended."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class ContentPartEvent(ResponseEvent):
    """The text of a message begins, or has ended."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: Literal[0]
    part: OutputText


class OutputTextDelta(ResponseEvent):
    """More of a text."""

    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: int
    content_index: Literal[0]
    delta: str
    logprobs: list[TokenLogprob]


class OutputTextDone(ResponseEvent):
    """All of a text."""

    type: Literal["response.output_text.done"]
    item_id: str
    output_index: int
    content_index: Literal[0]
    text: str
    logprobs: list[TokenLogprob]


class CallArgumentsDelta(ResponseEvent):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    item_id: str
    output_index: int
    delta: str


class CallArgumentsDone(ResponseEvent):
    """All of a call's arguments."""

    type: Literal["response.function_call_arguments.done"]
    item_id: str
    output_index: int
    arguments: str


RESPONSE_EVENTS: tuple[type[ResponseEvent], ...] = (
    ResponseStateEvent,
    OutputItemEvent,
    ContentPartEvent,
    OutputTextDelta,
    OutputTextDone,
    CallArgumentsDelta,
    CallArgumentsDone,
)
"""Shapes of a stream's events."""
