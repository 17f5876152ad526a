"""Templates that loop, grow, recurse or reach for what is not theirs: one error each, and the next
chat is laid out as if nothing had been.
"""

import gc
import resource
import threading
from collections.abc import Iterator

import pytest
from said import said

from puna.errors import TokenizerError
from puna.tokenizer.jinja_template import MOST_TEMPLATE_CHARACTERS, JinjaTemplate

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}"
    "{% endfor %}{{ ns.a }}"
)

FAULTS = [
    (LOOP, "more than half a second"),
    ("{{ 2 ** (10 ** 9) }}", "more than half a second"),
    ("{{ 'a' * 2 ** 40 }}", "200 MB"),
    ("{{ '%1000000000d' % 1 }}", "200 MB"),
    ("{{ '{:1000000000}'.format(1) }}", "200 MB"),
    ("{{ 'a' | center(10 ** 10) }}", "200 MB"),
    (DOUBLING, "200 MB"),
    ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "10,000,000 characters"),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deeply"),
    ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "too deeply"),
    ("{{ ''.__class__ }}", "attribute '__class__' ... str"),
    ("{{ '' | attr('__class__') }}", "attribute '__class__'"),
    ("{{ ''['__class__'] }}", "attribute '__class__'"),
    ("{{ cycler.__init__.__globals__ }}", "attribute '__init__'"),
    ("{{ '{0.__class__}'.format(1) }}", "attribute '__class__'"),
    ("{{ self._TemplateReference__context }}", "attribute"),
    ("{{ messages.append(1) }}", "attribute 'append'"),
    ("{% include '/etc/passwd' %}", "no loader"),
    ("{% import 'os' as os %}", "no loader"),
    ("{{ raise_exception('no such role') }}", "rejects this chat: no such role"),
    ("{{ x.y.z }}", "'x' is undefined"),
    ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ("{% if %}", "line 1 is no Jinja"),
    ("\n{% endfor %}", "line 2 is no Jinja"),
]


@pytest.mark.parametrize(("source", "reason"), FAULTS, ids=[source[:24] for source, _ in FAULTS])
def test_a_fault_is_one_error(source: str, reason: str) -> None:
    template = JinjaTemplate(source, "the template of x")
    try:
        pattern = said(
            f"the template of x cannot lay out this chat: ... {reason} ... choose another"
        )
        with pytest.raises(TokenizerError, match=pattern) as raised:
            template.render([{"messages": []}])
        assert len(str(raised.value)) < 600
    finally:
        template.close()


@pytest.fixture
def sometimes() -> Iterator[JinjaTemplate]:
    """A template that loops for ever where it is asked to."""
    template = JinjaTemplate("{% if loop_now %}" + LOOP + "{% endif %}{{ text }}", "x")
    yield template
    template.close()


def test_the_next_chat_goes_on(sometimes: JinjaTemplate) -> None:
    """A looping template costs little more than its half second of processor time, however busy the
    machine is.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(TokenizerError, match="more than half a second"):
        sometimes.render([{"text": "a"}, {"loop_now": True}])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
    assert sometimes.render([{"text": "a"}, {"text": "ü🦙\ud800"}]) == ["a", "ü🦙\ud800"]


def test_threads_share_a_template(sometimes: JinjaTemplate) -> None:
    found: dict[int, list[str]] = {}

    def render(number: int) -> None:
        found[number] = sometimes.render([{"text": str(number) * 1000}])

    threads = [threading.Thread(target=render, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [str(number) * 1000] for number in range(8)}


def test_the_process_ends_with_the_template() -> None:
    template = JinjaTemplate("{{ 1 }}", "x")
    assert template.render([{}]) == ["1"]
    process = template._process
    assert process is not None
    assert process.poll() is None
    del template
    gc.collect()
    assert process.poll() is not None


def test_no_file_can_be_opened_once_it_renders() -> None:
    """A way out of the sandbox would find no file, no socket and no shell."""
    template = JinjaTemplate("{{ 1 }}", "x")
    template.render([{}])
    assert template._process is not None
    assert resource.prlimit(template._process.pid, resource.RLIMIT_NOFILE) == (0, 0)
    assert resource.prlimit(template._process.pid, resource.RLIMIT_AS) == (200_000_000,) * 2
    template.close()


def test_a_template_is_of_a_readable_size() -> None:
    with pytest.raises(TokenizerError, match=said("1,000,001 characters ... 1,000,000 at most")):
        JinjaTemplate("x" * (MOST_TEMPLATE_CHARACTERS + 1), "x")


def test_what_transformers_gives_to_templates() -> None:
    source = (
        "{% for x in [1, 2, 3] %}\n  {% if x == 2 %}{% continue %}{% endif %}\n{{ x }}\n"
        "{% if x == 3 %}{% break %}{% endif %}\n{% endfor %}"
        "{% generation %}{{ {'b': '<é>', 'a': 1} | tojson }}{% endgeneration %}"
        "{{ strftime_now('%%') }}{{ {'a': 1} | tojson(indent=2) }}{{ missing }}"
    )
    template = JinjaTemplate(source, "x")
    assert template.render([{}]) == ['1\n3\n{"b": "<é>", "a": 1}%{\n  "a": 1\n}']
    template.close()


def test_a_chat_beyond_any_size_is_refused_at_once() -> None:
    template = JinjaTemplate("{{ text }}", "x")
    with pytest.raises(TokenizerError, match=said("x ... 50,000,0 ... are no chat")):
        template.render([{"text": "a" * 50_000_000}])
    with pytest.raises(TokenizerError, match=said("10,000,000 characters")):
        template.render([{"text": "a" * 11_000_000}])
    template.close()
