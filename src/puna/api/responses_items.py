"""The input of /v1/responses: messages, calls and their outputs as items of one list, and the same
as the messages of a chat.

Items come back as the server gave them: of an item and of its parts only the fields below count,
and other keys (ids, status, annotations, ...) are passed over. Not here: the other fields of a
request (responses_request.py).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from puna.api.chat_messages import (
    AssistantMessage,
    CalledFunction,
    CalledTool,
    Content,
    Message,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from puna.api.fields import CONTEXT_LENGTH, MESSAGES, AtMost, NotSupported
from puna.config import Config


class ItemPart(Config):
    """A piece of a text. Parts are joined by line breaks."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[
        Literal["input_text", "output_text"],
        NotSupported("Puna reads text; it takes no image, sound or file, and fetches no address"),
    ]
    text: str


ItemContent = (
    str | Annotated[list[ItemPart], Field(min_length=1, fail_fast=True), AtMost("prompt_tokens")]
)


class MessageItem(Config):
    """A message: instructions, words of a person, or an earlier answer of the model."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[
        Literal["message"] | None,
        NotSupported(
            "nothing is stored here that an item_reference could mean (a client told store: false"
            " sends none), and tools are functions; send messages, calls of functions and their"
            " outputs themselves"
        ),
    ] = None
    role: Literal["user", "assistant", "system", "developer"]
    content: ItemContent


class FunctionCallItem(Config):
    """A call as the model made it. arguments: JSON, as text."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionOutputItem(Config):
    """The output of the function for the call of this id."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["function_call_output"]
    call_id: str
    output: ItemContent


_CALL, _OUTPUT = "function_call", "function_call_output"


def _kind(value: Any) -> str:
    """The kind that an item is meant to be: a message, unless its type says otherwise."""
    type_ = value.get("type") if isinstance(value, dict) else None
    return f"a {type_}" if type_ in (_CALL, _OUTPUT) else "a message"


Item = Annotated[
    Annotated[MessageItem, Tag("a message")]
    | Annotated[FunctionCallItem, Tag(f"a {_CALL}")]
    | Annotated[FunctionOutputItem, Tag(f"a {_OUTPUT}")],
    Discriminator(_kind),
]

ResponsesInput = (
    str
    | Annotated[list[Item], Field(min_length=1, fail_fast=True), AtMost(MESSAGES, CONTEXT_LENGTH)]
)


def as_messages(instructions: str | None, given: str | Sequence[Item]) -> list[Message]:
    """The messages of the chat that instructions and input are. A call becomes part of the
    assistant's message before it, or of one without words.
    """
    messages: list[Message] = []
    if instructions is not None:
        messages.append(SystemMessage.model_construct(role="system", content=instructions))
    if isinstance(given, str):
        return [*messages, UserMessage.model_construct(role="user", content=given)]
    calls: list[CalledTool] | None = None  # of the last message, if that is the assistant's
    for item in given:
        match item:
            case FunctionCallItem():
                if calls is None:
                    calls = []
                    messages.append(_assistant_message(None, calls))
                calls.append(_called_tool(item))
            case FunctionOutputItem():
                calls = None
                messages.append(
                    ToolMessage.model_construct(
                        role="tool", content=_content(item.output), tool_call_id=item.call_id
                    )
                )
            case MessageItem(role="assistant"):
                calls = []
                messages.append(_assistant_message(_content(item.content), calls))
            case MessageItem():
                calls = None
                messages.append(_told(item))
    return messages


def _told(item: MessageItem) -> Message:
    content = _content(item.content)
    if item.role == "user":
        return UserMessage.model_construct(role="user", content=content)
    return SystemMessage.model_construct(role="system", content=content)


def _assistant_message(content: Content | None, calls: list[CalledTool]) -> AssistantMessage:
    return AssistantMessage.model_construct(role="assistant", content=content, tool_calls=calls)


def _called_tool(item: FunctionCallItem) -> CalledTool:
    function = CalledFunction(name=item.name, arguments=item.arguments)
    return CalledTool(id=item.call_id, type="function", function=function)


def _content(content: ItemContent) -> Content:
    """The text, or its parts, as a message of a chat holds them."""
    if isinstance(content, str):
        return content
    return [TextPart.model_construct(type="text", text=part.text) for part in content]
