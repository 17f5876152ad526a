"""Messages of a chat as requests hold them, and the tools that they may name.

A message's `role` and a part's `type` decide their other fields. Not here: encoding a chat as ids
(puna.tokenizer.chat_template).

Clients send back what they were answered, by Puna or by another server, with keys of their own
(`parsed`, `reasoning_content`, `cache_control`). So in what was said before unknown keys are passed
over; in tools, which are the caller's words and not an answer's, they are rejected.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from puna.api.cross_field_rules import WORDS_OR_CALLS
from puna.api.fields import AtMost, Name, NotSupported
from puna.config import Config
from puna.tokenizer import chat_template

SpeakerName = Annotated[
    str | None,
    Field(description="a label that the model does not see: no layout is given it"),
]


class HistoryPart(Config):
    """Base of messages and their parts: keys that are not known are passed over."""

    model_config = ConfigDict(extra="ignore")


class TextPart(HistoryPart):
    """A piece of a message. Parts are joined by line breaks."""

    type: Annotated[
        Literal["text"],
        NotSupported("Puna reads text; it takes no image, sound or file, and fetches no address"),
    ]
    text: str


Content = (
    str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True), AtMost("prompt_tokens")]
)


class SystemMessage(HistoryPart):
    """Instructions; `developer` is the newer name of the same role."""

    role: Literal["system", "developer"]
    content: Content
    name: SpeakerName = None


class UserMessage(HistoryPart):
    """A message of a person."""

    role: Literal["user"]
    content: Content
    name: SpeakerName = None


class CalledFunction(HistoryPart):
    """A function that was called. arguments: JSON, as text."""

    name: str
    arguments: str


class CalledTool(HistoryPart):
    """A call as the model made it."""

    id: str
    type: Annotated[Literal["function"], NotSupported("tools are functions")]
    function: CalledFunction


class AssistantMessage(HistoryPart):
    """An earlier answer of the model: words, calls, or both."""

    model_config = ConfigDict(json_schema_extra=WORDS_OR_CALLS)

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: Annotated[list[CalledTool], Field(fail_fast=True), AtMost("tools")] | None = None
    name: SpeakerName = None
    refusal: Annotated[None, NotSupported("no model here refuses in a field of its own")] = None
    audio: Annotated[None, NotSupported("Puna answers in text")] = None
    function_call: Annotated[None, NotSupported("tool_calls took its place")] = None


class ToolMessage(HistoryPart):
    """The answer of a tool to the call of this id."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: SpeakerName = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(Config):
    """A function that the model may call. parameters: a JSON schema; left out, it takes none."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(
        default=None,
        description="keep to the schema, and to its properties alone, also where the model may"
        " choose not to call",
    )


class Tool(Config):
    """A tool that the model may call."""

    type: Annotated[Literal["function"], NotSupported("tools are functions")]
    function: Function

    def described(self) -> dict[str, Any]:
        """The description for the model."""
        function = self.function.model_dump(exclude={"strict"}, exclude_none=True)
        return {"type": self.type, "function": function}


class NamedFunction(Config):
    """The function to call."""

    name: Name


class NamedTool(Config):
    """The tool to call, and no other."""

    type: Annotated[
        Literal["function"], NotSupported("tools are functions, and all of them are allowed")
    ]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def text_of(content: Content | None) -> str:
    """The text of a message."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)


def as_turns(messages: Sequence[Message]) -> list[chat_template.Message]:
    """The messages as the layout takes them."""
    return [_turn(message) for message in messages]


def _turn(message: Message) -> chat_template.Message:
    role: chat_template.Role = "system" if message.role == "developer" else message.role
    calls: tuple[chat_template.ToolCall, ...] = ()
    if isinstance(message, AssistantMessage):
        calls = tuple(
            chat_template.ToolCall(call.function.name, _arguments(call.function.arguments), call.id)
            for call in message.tool_calls or ()
        )
    call_id = message.tool_call_id if isinstance(message, ToolMessage) else ""
    return chat_template.Message(role, text_of(message.content), calls, call_id)


def _arguments(text: str) -> Any:
    """The arguments as a JSON value, so that they read alike however they were spaced; text that is
    no JSON stays as it is.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    # a number too long for Python, NaN and lone surrogates too
    except (ValueError, RecursionError):
        return text
    return value
