"""Go templates of chat layouts: run by a small interpreter of the language's used part, they give
what Jinja gives.
"""

import re
from collections.abc import Sequence

import pytest
from jinja_layouts import CHATML, LAYOUTS, LLAMA2, jinja
from said import said

from puna.errors import ModelFolderError
from puna.formats.go_template import Render, go_template

CHATS: list[list[tuple[str, str]]] = [
    [("user", "Hello")],
    [("user", "a"), ("assistant", "b\nc"), ("user", "d {x}")],
    [("system", "Be brief"), ("user", "a"), ("assistant", "b"), ("user", "c")],
]


def render_of(source: str) -> Render:
    rendered = jinja(source)

    def render(chat: Sequence[tuple[str, str]], answer: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in chat]
        roles = {"bos_token": "<s>", "eos_token": "</s>"}
        return rendered(messages=messages, add_generation_prompt=answer, tools=None, **roles)

    return render


def run_go(template: str, chat: list[tuple[str, str]]) -> str:
    """Actions: range, if eq .Role, if ne (index .Messages 0).Role, else if, end, .Content."""
    parts = re.split(r"\{\{ (.*?) \}\}", template)

    def run(at: int, role: str, content: str, live: bool) -> tuple[str, int]:
        """From the part `at` to its `end`, or to the whole's."""
        out, taken = "", False
        while at < len(parts):
            text, action = parts[at], parts[at + 1] if at + 1 < len(parts) else "end"
            out += text if live else ""
            at += 2
            if action == "end":
                return out, at
            if action == ".Content":
                out += content if live else ""
            elif action == "range .Messages":
                body = at
                for one in chat:
                    inner, at = run(body, *one, live)
                    out += inner
            elif found := re.fullmatch(r'if ne \(index \.Messages 0\)\.Role "(\w+)"', action):
                inner, at = run(at, role, content, live and chat[0][0] != found[1])
                out += inner
            elif found := re.fullmatch(r'if eq \.Role "(\w+)"', action):
                inner, at = run(at, role, content, role == found[1])
                out += inner
            elif found := re.fullmatch(r'else if eq \.Role "(\w+)"', action):
                taken = taken or live
                live = not taken and role == found[1]
            else:
                raise AssertionError(action)
        return out, at

    return run(0, "", "", True)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_go_gives_what_jinja_gives(name: str) -> None:
    render = render_of(LAYOUTS[name])
    begin = "<s>" if name in ("llama3", "gemma") else ""
    template = go_template(render, begin)
    for chat in CHATS[: 2 if name == "gemma" else 3]:
        assert run_go(template, chat) == render(chat, True).removeprefix(begin)
    assert ('"system"' in template) == (name != "gemma")


@pytest.mark.parametrize(
    "source",
    [
        LLAMA2,
        "{{ messages[-1].content }}",
        CHATML.replace("message['content']", "message['content'] | upper"),
        CHATML.replace("{% endfor %}", "{{ loop.index }}{% endfor %}"),
        CHATML.replace("<|im_start|>", "{{ '{{' }}"),
        "{{ raise_exception('never') }}",
    ],
)
def test_a_layout_of_another_kind_is_refused(source: str) -> None:
    with pytest.raises(ModelFolderError, match=said("Ollama's template language ... --to gguf")):
        go_template(render_of(source), "<s>")
