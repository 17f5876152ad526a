"""The Go template of a chat layout that is given in Jinja, found by rendering it.

Layouts of the common kind put a fixed text before and after each message by its role, perhaps a
system message of their own where the chat has none, and a beginning of the answer. These texts are
read off a few rendered chats; then longer ones must come out the same from the texts alone, or the
layout is refused. Tools are left out.

Source of the template language: github.com/ollama/ollama, docs/template.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from puna.errors import ModelFolderError, TokenizerError

Chat = Sequence[tuple[str, str]]
"""Roles with contents."""
Render = Callable[[Chat, bool], str]
"""Lays a chat out as text, up to the beginning of an answer if asked for; TokenizerError for a
chat that it rejects.
"""

# contents that no template treats in a special way
_TEXTS = ("Alpaca one", "Vicuna two", "Guanaco three", "Llama four", "Camel five")


@dataclass(frozen=True)
class FixedTexts:
    """around: text before and after a message of each role; opening: before a chat without a system
    message; answer: the beginning of an answer.
    """

    around: Mapping[str, tuple[str, str]]
    opening: str
    answer: str

    def lay_out(self, chat: Chat) -> str:
        """The chat up to the beginning of the answer."""
        opening = "" if chat[0][0] == "system" else self.opening
        parts = [self.around[role][0] + text + self.around[role][1] for role, text in chat]
        return opening + "".join(parts) + self.answer

    def go(self) -> str:
        """The same layout as a Go template over `.Messages`."""
        cases = [
            f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for role, (before, after) in self.around.items()
        ]
        first = '{{ if ne (index .Messages 0).Role "system" }}' + self.opening + "{{ end }}"
        messages = "{{ range .Messages }}{{ " + "{{ else ".join(cases) + "{{ end }}{{ end }}"
        return (first if self.opening else "") + messages + self.answer


def go_template(render: Render, begin: str) -> str:
    """The Go template of what `render` does. begin: the spelling of the begin token, which the
    engine puts before every prompt by itself, or "".

    Raises ModelFolderError for a layout that is not of fixed texts.
    """

    def rendered(chat: Chat, answer: bool = True) -> str:
        return render(chat, answer).removeprefix(begin)

    try:
        texts = _read_off(rendered)
        one, two, three, four, five = _TEXTS
        turns = [("user", one), ("assistant", two), ("user", three)]
        longer = [*turns, ("assistant", four), ("user", five)]
        chats: list[Chat] = [turns[:1], turns, longer]
        if "system" in texts.around:
            chats += [[("system", four), *turns], [("system", two), ("user", five)]]
        same = all(texts.lay_out(chat) == rendered(chat) for chat in chats)
    except (TokenizerError, ValueError) as error:
        raise _unknown(str(error)) from error
    code = texts.go()
    own = [texts.opening, texts.answer, *(t for pair in texts.around.values() for t in pair)]
    if not same or any("{{" in text or '"""' in text for text in own):
        raise _unknown("it is more than fixed texts around each message")
    return code


def _read_off(rendered: Callable[..., str]) -> FixedTexts:
    """The fixed texts; ValueError or TokenizerError where they cannot be told."""
    one, two, three, _, _ = _TEXTS
    turns = [("user", one), ("assistant", two), ("user", three)]
    start, after_user = rendered(turns[:1], False).split(one)
    answer = rendered(turns[:1]).removeprefix(start + one + after_user)
    _, rest = rendered(turns, False).split(one)
    between, rest = rest.split(two)
    joint, closing = rest.split(three)
    if not between.startswith(after_user) or closing != after_user:
        raise ValueError("a message changes with what follows it")
    before_assistant = between.removeprefix(after_user)
    # The text between an answer and a question is the end of one and the start of the other
    _, after_assistant = rendered(turns[:2], False).split(two)
    if not joint.startswith(after_assistant):
        raise ValueError("an answer changes with what follows it")
    before_user = joint.removeprefix(after_assistant)
    if not start.endswith(before_user):
        raise ValueError("the first question is laid out in another way than the second")
    around = {
        "user": (before_user, after_user),
        "assistant": (before_assistant, after_assistant),
    }
    opening = start.removesuffix(before_user)
    try:
        before_system, rest = rendered([("system", two), *turns[:1]], False).split(two)
        after_system = rest.split(one)[0]
        if not after_system.endswith(before_user):
            raise ValueError("a system message changes the question after it")
        around = {"system": (before_system, after_system.removesuffix(before_user)), **around}
    except TokenizerError:  # a layout without system messages says so itself
        pass
    return FixedTexts(around, opening, answer)


def _unknown(reason: str) -> ModelFolderError:
    return ModelFolderError(
        f"the chat template of this model has no form in Ollama's template language that is known"
        f" to be the same ({reason}): export it with --to gguf, which carries the template as it"
        " is, and write a Modelfile by hand"
    )
