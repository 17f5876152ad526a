"""The layout of a model's chats: its own template, Llama 3's, one chosen by name or file, or none.

A folder's own template decides, as in transformers and vLLM. `Llama3Layout`, which places markers
by their ids, serves where there is none, and where the template is that same layout. All others are
rendered as one string by Jinja (`jinja_template.py`), whose ids are those of transformers'
`apply_chat_template`, but that no text of a message or a tool becomes a special token
(`text_marks.py`).

Cost beside the encoding, measured on one core: 0.4 ms for a chat of 1,000 characters; the first one
waits 0.1 s for the process.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from puna.errors import TokenizerError
from puna.tokenizer.chat_template import (
    CHAT_TEMPLATE,
    CHAT_TOKENS,
    Message,
    check_messages,
    encode_chat,
)
from puna.tokenizer.jinja_template import MOST_TEMPLATE_CHARACTERS, JinjaTemplate
from puna.tokenizer.named_templates import NAMED_TEMPLATES
from puna.tokenizer.text_marks import TextMarks

if TYPE_CHECKING:
    from puna.tokenizer.tokenizer import Tokenizer

OWN, LLAMA3, NO_LAYOUT = "own", "llama3", "none"
LAYOUT_NAMES = (OWN, LLAMA3, *NAMED_TEMPLATES, NO_LAYOUT)
"""The layouts that have a name; any other choice is a file."""

_OTHERS = f"{', '.join(LAYOUT_NAMES[1:])}, or a file"


class ChatLayout(Protocol):
    """From a conversation to ids."""

    @property
    def name(self) -> str:
        """The layout in a few words, for people."""
        ...

    @property
    def source(self) -> str | None:
        """The template in Jinja, if there is one."""
        ...

    @property
    def is_foreign(self) -> bool:
        """True for any layout but Llama 3's."""
        ...

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """The ids [T], as `encode_chat` takes its arguments. Raises TokenizerError for what this
        layout cannot hold.
        """
        ...


class Llama3Layout:
    """Llama 3's layout, by `encode_chat`."""

    name = "Llama 3's"
    is_foreign = False

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        has_markers = all(name in tokenizer.special_tokens for name in CHAT_TOKENS)
        self.source = CHAT_TEMPLATE if has_markers else None

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """The ids of `encode_chat`."""
        generate = add_generation_prompt
        return encode_chat(
            self._tokenizer, messages, tools=tools, add_generation_prompt=generate
        ).ids


class PlainLayout:
    """No layout: the texts of the messages one after the other, a line break between, as the model
    met texts in training.
    """

    name = "none, the texts of the messages line by line"
    source = None
    is_foreign = True

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """The ids of a document. Raises TokenizerError for tools and their calls."""
        check_messages(messages)
        if tools or any(message.tool_calls for message in messages):
            raise TokenizerError(
                "there are tools, which a chat without a layout has no place for; choose a layout"
                f" ({LLAMA3}, or a file), or leave them out"
            )
        lines = [message.content for message in messages] + [""] * add_generation_prompt
        return self._tokenizer.encode_document("\n".join(lines))


class TemplateLayout:
    """A layout by Jinja templates: one, or several of which `tool_use` is for chats with tools and
    `default` for others.
    """

    is_foreign = True

    def __init__(self, tokenizer: "Tokenizer", sources: Mapping[str, str], name: str) -> None:
        self.name, self._tokenizer = name, tokenizer
        several = len(sources) > 1
        self._templates = {
            key: JinjaTemplate(source, f"{name} {key!r}" if several else name)
            for key, source in sources.items()
        }
        self.source = self._chosen(tools=False).source
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, filter(None, names))) or "(?!)")
        self._roles = role_tokens(tokenizer.config)

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """The ids of the rendered chat."""
        check_messages(messages)
        template = self._chosen(tools=bool(tools))
        if tools and not re.search(r"\btools\b", template.source):
            raise TokenizerError(
                f"{template.name} has no place for tools; leave them out, or choose a layout that"
                f" has ({LLAMA3}, or a file)"
            )
        try:
            plain, marked, marks = self._contexts(template, messages, tools, add_generation_prompt)
            rendered, guarded = template.render([plain, marked])
        except (TypeError, ValueError, RecursionError) as error:
            raise TokenizerError(
                f"the chat holds a value that JSON does not have ({error}); give texts, numbers,"
                " lists and objects, and no deep nesting"
            ) from error
        own = self._special.findall(guarded)
        if self._special.findall(rendered) == own:
            ids = self._tokenizer.encode_with_special(rendered)
            special = set(self._tokenizer.special_tokens.values())
            # a normalizer may make a special token of what none was
            if len(own) == sum(id_ in special for id_ in ids):
                return ids
        return self._encoded([marks.remove(piece) for piece in self._special.split(guarded)], own)

    def _encoded(self, pieces: Sequence[str], between: Sequence[str]) -> list[int]:
        """Ids of texts with special tokens between them; no text yields one."""
        ids: list[int] = []
        for number, piece in enumerate(pieces):
            ids += self._tokenizer.encode(piece) if piece else []
            ids += [self._tokenizer.special_tokens[name] for name in between[number : number + 1]]
        return ids

    def _chosen(self, *, tools: bool) -> JinjaTemplate:
        templates = self._templates
        for key in ("tool_use", "default") if tools else ("default",):
            if key in templates:
                return templates[key]
        raise TokenizerError(
            f"{self.name} holds several templates ({', '.join(templates)}), of which none is called"
            f" default; choose another layout ({_OTHERS})"
        )

    def _contexts(
        self,
        template: JinjaTemplate,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        generate: bool,
    ) -> tuple[dict[str, Any], dict[str, Any], TextMarks]:
        """The template's values as they are, and marked."""
        shared = {**self._roles, "documents": None, "add_generation_prompt": generate}
        given = [_as_template_takes_it(message) for message in messages]
        described = [dict(tool) for tool in tools] or None
        names = self._tokenizer.special_tokens
        known = json.dumps([given, described, *names], ensure_ascii=False)
        marks = TextMarks(names, known + template.source)
        marked = [_marked(message, marks) for message in given]
        return (
            {**shared, "messages": given, "tools": described},
            {**shared, "messages": marked, "tools": marks.value(described)},
            marks,
        )


def chat_layout(tokenizer: "Tokenizer", choice: str | None = None) -> ChatLayout:
    """The layout of a model's chats.

    choice: one of `LAYOUT_NAMES`, or the path of a file in Jinja; None is the model's own. Raises
    TokenizerError for a file that cannot be read, or an entry `chat_template` that is no template.
    """
    if choice in (None, OWN):
        return _own_layout(tokenizer)
    if choice == LLAMA3:
        return Llama3Layout(tokenizer)
    if choice == NO_LAYOUT:
        return PlainLayout(tokenizer)
    if choice in NAMED_TEMPLATES:
        sources = {"default": NAMED_TEMPLATES[choice]}
        return TemplateLayout(tokenizer, sources, f"the chat template {choice}")
    try:
        with Path(choice).open("rb") as file:  # a whole file may be of any size, or without end
            source = file.read(4 * MOST_TEMPLATE_CHARACTERS + 1).decode("utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"{choice!r} is neither a chat layout ({', '.join(LAYOUT_NAMES)}) nor a file of text"
            f" ({error}); give one of them, or a file that holds a template in Jinja"
        ) from error
    return TemplateLayout(tokenizer, {"default": source}, f"the chat template {choice}")


def _own_layout(tokenizer: "Tokenizer") -> ChatLayout:
    given = tokenizer.config.get("chat_template")
    match given:
        case None:
            return Llama3Layout(tokenizer)
        case str() if given == CHAT_TEMPLATE:
            return Llama3Layout(tokenizer)
        case str():
            sources = {"default": given}
        case [*entries] if entries and all(map(_is_named_template, entries)):
            sources = {entry["name"]: entry["template"] for entry in entries}
        case _:
            raise TokenizerError(
                f"chat_template in tokenizer_config.json is {json.dumps(given)[:80]}; it must be a"
                ' text in Jinja or a list of {"name", "template"}: correct it, or choose a layout'
                f" ({_OTHERS})"
            )
    return TemplateLayout(tokenizer, sources, "the model's own chat template")


def _is_named_template(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(
        isinstance(entry.get(key), str) for key in ("name", "template")
    )


def role_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The tokens with a role in a `tokenizer_config.json`, such as `bos_token`, by its name."""
    found = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = value.get("content")
        if key.endswith("_token") and isinstance(value, str):
            found[key] = value
    return found


def _as_template_takes_it(message: Message) -> dict[str, Any]:
    """A message as OpenAI's clients send it: calls without words have no content at all."""
    taken: dict[str, Any] = {"role": message.role}
    if message.content or not message.tool_calls:
        taken["content"] = message.content
    if message.call_id:
        taken["tool_call_id"] = message.call_id
    if message.tool_calls:
        taken["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            | ({"id": call.id} if call.id else {})
            for call in message.tool_calls
        ]
    return taken


def _marked(message: Mapping[str, Any], marks: TextMarks) -> dict[str, Any]:
    marked = dict(message)
    if "content" in message:
        marked["content"] = marks.text(message["content"])
    if "tool_call_id" in message:
        marked["tool_call_id"] = marks.identifier(message["tool_call_id"])
    if "tool_calls" in message:
        marked["tool_calls"] = [
            {**call, "function": marks.value(call["function"])}
            | ({"id": marks.identifier(call["id"])} if "id" in call else {})
            for call in message["tool_calls"]
        ]
    return marked
