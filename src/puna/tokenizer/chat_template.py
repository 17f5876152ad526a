r"""A conversation as token ids, in Llama 3's layout, with Llama 3.1's for calling tools as JSON.
Other layouts: `chat_layout.py`.

    <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n...

Tools are described ahead of the first user message's words, or, in a chat without one, of the first
system message's. A call is the assistant's text
`{"name": ..., "parameters": ...}`, several stand one after the other behind "; ", and a tool
answers under the header "ipython".

Two ways lead there. `encode_chat` builds the ids piece by piece: markers from their ids, everything
that a person wrote through `Tokenizer.encode`, which cannot yield a special token, so no message
can close its own turn and open another. `CHAT_TEMPLATE` is the same layout for engines that render
a string first (transformers, vLLM, llama.cpp); it goes into `tokenizer_config.json`. Both strip
white space around a message, as Llama 3's template does, and they give equal ids for ordinary text
with digits "one", "two" and "three". They part in two cases, both by the string's fault: a message
that spells a marker, which the string turns into the marker; and digits "off", where GPT-2's
pattern cuts the blank line after a header differently when text follows it.

Source: Llama 3.1's model card and prompt format ("JSON based tool calling"). Two differences: no
system message is made up for a chat that has none, and a tool's answer stands as it is, not once
more in quotes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from puna.errors import TokenizerError
from puna.tokenizer.special import BEGIN_OF_TEXT, END_HEADER, END_OF_TURN, START_HEADER

if TYPE_CHECKING:
    from puna.tokenizer.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant", "tool"]

CHAT_TOKENS = (BEGIN_OF_TEXT, START_HEADER, END_HEADER, END_OF_TURN)
"""The special tokens that a vocabulary must have to hold a chat."""

CALL_SEPARATOR = "; "
"""Separator of two calls of one message."""

_LONG_CHAT = 100_000

_TOOLS_INTRODUCTION = (
    "Given the following functions, please respond with a JSON for a function call with its proper"
    ' arguments that best answers the given prompt.\n\nRespond in the format {"name": function'
    ' name, "parameters": dictionary of argument name and its value}. Do not use variables.\n\n'
)

CHAT_TEMPLATE = r"""{{- bos_token }}
{%- set told = namespace(tools=false, by='system') %}
{%- for message in messages if message['role'] == 'user' %}
    {%- set told.by = 'user' %}
{%- endfor %}
{%- for message in messages %}
    {%- set role = 'ipython' if message['role'] == 'tool' else message['role'] %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}
    {%- if tools and message['role'] == told.by and not told.tools %}
        {%- set told.tools = true %}
        {{- 'TOOLS_INTRODUCTION' }}
        {%- for tool in tools %}
            {{- tool | tojson(indent=4) + '\n\n' }}
        {%- endfor %}
    {%- endif %}
    {%- set words = (message['content'] or '') | trim %}
    {{- words }}
    {%- if message['tool_calls'] %}
        {{- '\n\n' if words else '' }}
        {%- for call in message['tool_calls'] %}
            {{- '' if loop.first else 'CALL_SEPARATOR' }}
            {{- '{"name": ' + call['function']['name'] | tojson }}
            {{- ', "parameters": ' + call['function']['arguments'] | tojson + '}' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if tools and not told.tools %}
    {{- raise_exception('tools need a user or a system message, but this chat has none') }}
{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif -%}
""".replace("TOOLS_INTRODUCTION", _TOOLS_INTRODUCTION.replace("\n", r"\n")).replace(
    "CALL_SEPARATOR", CALL_SEPARATOR
)
"""The layout in Jinja; transformers passes it `messages`, `tools`, `bos_token` and
`add_generation_prompt`.
"""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A request of the assistant to a tool. arguments: a JSON value, an object unless something
    went wrong. id: what the tool's answer refers to; Llama 3's layout has no place for it.
    """

    name: str
    arguments: Any
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. An assistant's may hold words, calls of tools, or both; the words
    stand first. call_id: of a tool's answer, the id of the call.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class ChatIds:
    """A conversation as ids, and which of them a model should learn to produce."""

    ids: list[int]
    """Token ids [T], opening with <|begin_of_text|>."""
    loss_mask: list[bool]
    """[T], true on the assistant's words and calls and the <|eot_id|> after them. It marks `ids[t]`
    as a target, so it is shifted with the targets: the usual mistake is to apply it to the
    positions that predict.
    """


def encode_chat(
    tokenizer: "Tokenizer",
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = False,
) -> ChatIds:
    """Lay `messages` out as ids; with `add_generation_prompt` the ids end where the assistant's
    next answer begins.

    tools: JSON objects that describe what may be called, usually {"type": "function", "function":
    {"name", "description", "parameters"}}. Raises TokenizerError for no messages, an unknown role,
    tools without a user or system message to describe them in, calls by anyone but the assistant,
    or a vocabulary without the chat's special tokens. Any order of roles is laid out as given. A
    chat of more than a hundred thousand characters starts threads, as `Tokenizer.encode_batch`
    does, and leaves the interpreter to others.
    """
    check_messages(messages)
    missing = [name for name in CHAT_TOKENS if name not in tokenizer.special_tokens]
    if missing:
        raise TokenizerError(
            f"the vocabulary lacks {', '.join(missing)}, so it cannot lay out a chat as Llama 3"
            " does; use a model that brings a chat template, or choose a layout (chatml, alpaca,"
            " none, or a file)"
        )
    begin, start_header, end_header, end_of_turn = (
        tokenizer.special_tokens[name] for name in CHAT_TOKENS
    )

    def header(role: str) -> list[int]:
        return [start_header, *tokenizer.encode(role), end_header, *tokenizer.encode("\n\n")]

    tells_tools = _index_of_tools(messages) if tools else None
    texts = [
        (_describe(tools) if index == tells_tools else "") + _words(message)
        for index, message in enumerate(messages)
    ]
    # Headers are given to the model, never learned; an assistant's words and the <|eot_id|> that
    # ends them are
    ids, loss_mask = [begin], [False]
    for message, encoded in zip(messages, _encoded(tokenizer, texts), strict=True):
        opening = header("ipython" if message.role == "tool" else message.role)
        body = [*encoded, end_of_turn]
        ids += opening + body
        loss_mask += [False] * len(opening) + [message.role == "assistant"] * len(body)
    if add_generation_prompt:
        opening = header("assistant")
        ids += opening
        loss_mask += [False] * len(opening)
    return ChatIds(ids, loss_mask)


def _encoded(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    if sum(map(len, texts)) > _LONG_CHAT:
        return tokenizer.encode_batch(texts)
    return [tokenizer.encode(text) for text in texts]


def check_messages(messages: Sequence[Message]) -> None:
    """Raise TokenizerError for no messages, an unknown role, or calls by anyone but the
    assistant.
    """
    if not messages:
        raise TokenizerError(
            "the chat has no messages; give at least one, such as Message('user', 'Hello')"
        )
    for message in messages:
        if message.role not in get_args(Role):
            raise TokenizerError(
                f"the role is {message.role!r}; choose one of {', '.join(get_args(Role))}"
            )
        if message.tool_calls and message.role != "assistant":
            raise TokenizerError(
                f"a message of the {message.role} calls a tool; only the assistant's can"
            )


def _index_of_tools(messages: Sequence[Message]) -> int:
    """Index of the message that describes the tools."""
    roles = [message.role for message in messages]
    for role in ("user", "system"):
        if role in roles:
            return roles.index(role)
    raise TokenizerError(
        "tools are described in the first user message, or else the first system message, but this"
        " chat has neither; add one"
    )


def _describe(tools: Sequence[Mapping[str, Any]]) -> str:
    return _TOOLS_INTRODUCTION + "".join(
        json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n" for tool in tools
    )


def _words(message: Message) -> str:
    """The message's text: its words, then its calls."""
    words = message.content.strip()
    calls = CALL_SEPARATOR.join(
        f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "parameters":'
        f" {json.dumps(call.arguments, ensure_ascii=False)}}}"
        for call in message.tool_calls
    )
    return f"{words}\n\n{calls}" if words and calls else words + calls
