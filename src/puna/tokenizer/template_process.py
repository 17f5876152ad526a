"""The process that renders chat templates, which are programs and come with a model from anywhere.

Run as `python -P -m puna.tokenizer.template_process`; `jinja_template.py` does. The first line of
its input is a template as JSON, each further one a list of contexts; each of these is answered by a
line, {"texts": [...]} or {"error": reason}. It ends with its input.

A template gets plain JSON values, no attribute of Python's own, no file, no socket and no process:
after the imports no file can be opened (RLIMIT_NOFILE). Its memory is limited too (RLIMIT_AS), and
its processor time by a timer whose signal ends the process, within a long operation of C as well.
The names are those that transformers gives to templates (`utils/chat_template_utils.py`, read in
5.24): `raise_exception`, `strftime_now`, `tojson` without HTML's escapes, `{% break %}`,
`{% generation %}`.
"""

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.debug  # read by Jinja at the first error, when no file can be opened any more
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 0.5
"""Processor time of one rendering, and of reading the template. A usual one takes 0.1 ms."""

MEMORY_BYTES = 200_000_000
"""Address space, of which the interpreter itself takes a fifth."""

MOST_CHARACTERS = 10_000_000
"""Of a rendered chat: beyond any context."""

_REASON_CHARACTERS = 300
"""Of a reason, which may quote the template."""


class RejectedByTemplateError(jinja2.TemplateError):
    """The template itself rejects the chat, by `raise_exception`."""


class Environment(ImmutableSandboxedEnvironment):
    """Jinja for chat templates. An unsafe attribute is an error at once, not an empty text."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Reject the attribute."""
        raise SecurityError(
            f"it reaches for the attribute {attribute!r} of a value of type {type(obj).__name__},"
            " which no template may"
        )


class GenerationTag(Extension):
    """`{% generation %}` ... `{% endgeneration %}` around an assistant's words: they stand as they
    are.
    """

    tags = {"generation"}  # noqa: RUF012  (Jinja reads a plain set)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> Environment:
    """The environment with the names that templates use."""
    made = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _reject
    made.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    del made.globals["lipsum"]
    return made


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _reject(message: object) -> NoReturn:
    raise RejectedByTemplateError(str(message))


def render(template: jinja2.Template, context: Mapping[str, Any]) -> str:
    """The text of one context. Raises whatever the template does wrong."""
    pieces: list[str] = []
    left = MOST_CHARACTERS
    for piece in template.generate(context):
        left -= len(piece)
        if left < 0:
            raise OverflowError(f"it gives more than {MOST_CHARACTERS:,} characters")
        pieces.append(piece)
    return "".join(pieces)


def reason(error: Exception) -> str:
    """The fault in a few words."""
    match error:
        case RejectedByTemplateError():
            said = f"it rejects this chat: {error}"
        case jinja2.TemplateSyntaxError():
            said = f"line {error.lineno} is no Jinja: {error.message}"
        case jinja2.TemplateError() | OverflowError():
            said = str(error)
        case RecursionError():
            said = "it is nested, or calls itself, too deeply"
        case MemoryError():
            said = f"it takes more than {MEMORY_BYTES // 10**6} MB of memory"
        case _:
            said = f"{type(error).__name__}: {error}"
    return said if len(said) <= _REASON_CHARACTERS else said[:_REASON_CHARACTERS] + "..."


def answer(compiled: Callable[[], jinja2.Template], contexts: bytes) -> str:
    """The texts of these contexts, or the reason why there are none; both sides as JSON."""
    try:
        template = compiled()
        return json.dumps({"texts": [render(template, each) for each in json.loads(contexts)]})
    except Exception as error:
        return json.dumps({"error": reason(error)})


def _limit_resources() -> None:
    """Take away what no template needs. A system without a limit goes without it."""
    import resource

    for limited, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limited, (most, most))


def main() -> None:
    """Answer the lines of standard input."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    made = environment()
    # reads the files that Python opens at first use: the time zone's, the codec of string constants
    made.from_string("{{ strftime_now('%Y') }}").render()
    _limit_resources()
    source = json.loads(sys.stdin.buffer.readline())
    template: jinja2.Template | None = None

    def compiled() -> jinja2.Template:
        nonlocal template
        template = template or made.from_string(source)
        return template

    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        written = answer(compiled, line)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(written + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
