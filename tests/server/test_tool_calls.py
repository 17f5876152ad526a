"""Calls in text: every way of cutting the text gives the same parts, and text waits only while it
may be calls.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.api import tool_calls
from puna.api.partial_call import KEYS, PartialCall
from puna.api.tool_calls import (
    Arguments,
    CallBegun,
    CallReader,
    Part,
    PossibleCalls,
    Reader,
    Words,
    WordsReader,
)

NAMES = {"weather", "web_search", "f"}


def read(reader: Reader, pieces: Sequence[str]) -> list[Part]:
    """All parts, up to where the reader has enough."""
    parts: list[Part] = []
    for piece in pieces:
        if not reader.enough:
            parts += reader.feed(piece)
    return parts + reader.end()


def words(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Words))


def calls(parts: Sequence[Part]) -> list[tuple[str, str]]:
    """Names with whole arguments; begun in order, each before its arguments."""
    found: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, CallBegun):
            assert part.index == len(found)
            found.append((part.name, ""))
        elif isinstance(part, Arguments):
            name, text = found[part.index]
            found[part.index] = (name, text + part.text)
    return found


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in itertools.pairwise(ends)]


places = st.lists(st.integers(0, 10**6), max_size=12)
plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | plain_text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(plain_text, inner, max_size=2),
    max_leaves=5,
)
objects = st.dictionaries(plain_text, values, max_size=3)


@given(
    asked=st.lists(st.tuples(st.sampled_from(sorted(NAMES)), objects), min_size=1, max_size=3),
    key=st.sampled_from(["parameters", "arguments"]),
    separator=st.sampled_from(["; ", ";", " ;\n"]),
    around=st.sampled_from(["", "\n\n", " "]),
    typed=st.booleans(),
    indent=st.sampled_from([None, 2]),
    places=places,
)
def test_chosen_calls_are_found_however_the_text_is_cut(
    asked: list[tuple[str, dict[str, object]]],
    key: str,
    separator: str,
    around: str,
    typed: bool,
    indent: int | None,
    places: list[int],
) -> None:
    kind = {"type": "function"} if typed else {}
    text = separator.join(
        json.dumps({**kind, "name": name, key: arguments}, indent=indent)
        for name, arguments in asked
    )
    reader = PossibleCalls(NAMES)
    parts = read(reader, cut(around + text + around, places))
    assert reader.called
    assert not words(parts)
    assert [(name, json.loads(arguments)) for name, arguments in calls(parts)] == asked
    identities = [part.id for part in parts if isinstance(part, CallBegun)]
    assert len(set(identities)) == len(asked)


@given(
    text=plain_text
    | st.sampled_from(['{"name": "weather", "parameters": {"a": 1', '{"name": "f"}', '{"x": 1}']),
    places=places,
)
def test_what_is_no_whole_call_stays_text(text: str, places: list[int]) -> None:
    reader = PossibleCalls(NAMES)
    parts = read(reader, cut(text, places))
    assert words(parts) == text
    assert not reader.called


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "unknown", "parameters": {}}',
        '{"name": "f", "parameters": []}',
        '{"name": "f", "parameters": {}, "more": 1}',
        '{"name": "f", "parameters": {}, "arguments": {}}',
        '{"name": "f", "parameters": {"a": NaN}}',
        '{"name": "f", "parameters": {"a": "\\ud800"}}',
        '{"type": "other", "name": "f", "parameters": {}}',
        '{"name": "f", "parameters": {}} and so on',
        '{"name": "f", "parameters": {}}; {"name": "unknown", "parameters": {}}',
        '[{"name": "f", "parameters": {}}]',
        "null",
        "{}",
        "{" * 100_000,
    ],
)
def test_calls_that_are_not_quite_are_text(text: str) -> None:
    parts = read(PossibleCalls(NAMES), [text])
    assert (words(parts), calls(parts)) == (text, [])


@pytest.mark.parametrize(
    ("begun", "decisive"),
    [
        ("", "H"),
        ("\n ", "H"),
        ("{", "x"),
        ('{"', "x"),
        ('{"na', "x"),
        ('{"name": "we', "i"),
        ('{"name": ', "1"),
        ('{"name": "f", "parameters": ', "["),
        ('{"name": "f", "parameters": {"a": ', "x"),
        ('{"name": "f", "parameters": {}}', "!"),
        ('{"name": "f", "parameters": {}}; ', "x"),
        ("<tool", "s"),
        ('<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call', "!"),
        ('{"name": "f", "parameters": {}}; {"name": "', "x"),
    ],
)
def test_text_is_let_go_as_soon_as_it_cannot_be_a_call(begun: str, decisive: str) -> None:
    reader = PossibleCalls(NAMES)
    assert [part for character in begun for part in reader.feed(character)] == []
    assert reader.feed(decisive) == [Words(begun + decisive)]
    assert reader.feed("more") == [Words("more")]


def test_a_single_call_is_enough() -> None:
    reader = PossibleCalls(NAMES, single=True)
    assert reader.feed('{"name": "f", "parameters": {"a": 1}') == []
    parts = reader.feed('}; {"name": "weather"')
    assert calls(parts) == [("f", '{"a": 1}')]
    assert reader.enough
    assert reader.end() == []


@given(
    name=plain_text, arguments=objects | values, indent=st.sampled_from([None, 1]), places=places
)
def test_a_forced_call_gives_its_arguments_as_they_come(
    name: str, arguments: object, indent: int | None, places: list[int]
) -> None:
    text = json.dumps({"name": name, "parameters": arguments}, indent=indent)
    reader = CallReader()
    parts = read(reader, cut(text, places))
    ((found, given_arguments),) = calls(parts)
    assert (found, json.loads(given_arguments)) == (name, arguments)
    assert given_arguments == given_arguments.strip()
    assert reader.called
    assert reader.enough


def test_a_forced_call_that_ends_early_is_as_far_as_it_came() -> None:
    text = '{"name": "f", "parameters": {"a": "}]\\"'
    assert calls(read(CallReader(), list(text))) == [("f", '{"a": "}]\\"')]
    assert read(CallReader(), list('{"name": "f", "para')) == []


@given(text=plain_text, places=places)
def test_words_come_as_they_are(text: str, places: list[int]) -> None:
    assert words(read(WordsReader(), cut(text, places))) == text


# Pieces of which many texts that are calls, nearly calls or no JSON at all can be made
FRAGMENTS = [
    *'{}[],:;"\\ \n\u00a0x1-é😀\x01',
    *('"name"', '"n\\u0061me"', '"parameters"', '"arguments"', '"type"', '"function"', '"f"'),
    *('"we', "0.5", "1e", "e5", "333", "true", "fal", "null", "NaN", "-Infinity", "; "),
    *("<tool_call>", "</tool_call>", "<tool", "\n```\n"),
    *("\\u", "\\ud83d", "\\ude00", "\\n", '\\"', "\\u0061", '"a":', "[1,", '{"b":'),
    *('{"name": "f", "parameters": {', '{"name":"f","arguments":{}}', '"name":"f",'),
]
HARD_CASES = [
    '{"name":"w","n\\u0061me":"weather","parameters":{}}',
    '{"name":"x","name":"f","parameters":{"a":"}{\\"][","b":[1.5e3,{"c":"\\ud83d\\ude00"}]}}',
    '{"parameters":{"a":[{},[[1]],"\\\\"]},"type":"function","name":"f"} ; {"name":"f"',
    '{"arguments":"' + "long " * 100 + '","name":"f"}',
    '{"name":"f","parameters":{"a":1 "b":2}}',
    '{"name":"f","parameters":{"a":[1}]}}',
    '{"name":"f","parameters":{"a":0.3-3}}',
    '{"name":"f","parameters":{"a":nullx}}',
    '{"name":[],"parameters":{}}',
    '{"\\u006e' + "\\u0061" * 80 + '":1}',
    '{"name":"f","parameters":' + '{"a":[' * 110,
    '{"name":"f","parameters":{}}\u00a0',
]


def outcome(pieces: Sequence[str], **how: bool) -> tuple[str, list[tuple[str, str]]]:
    parts = read(PossibleCalls(NAMES, **how), pieces)
    return words(parts), calls(parts)


@given(
    text=st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)
    | st.tuples(st.sampled_from(HARD_CASES), st.integers(0, 400), st.sampled_from(FRAGMENTS)).map(
        lambda case: case[0][: case[1]] + case[2] + case[0][case[1] :]
    ),
    places=places,
    single=st.booleans(),
    alone=st.booleans(),
)
def test_parts_depend_on_the_text_alone_and_none_is_lost(
    text: str, places: list[int], single: bool, alone: bool
) -> None:
    said, called = outcome([text], single=single, alone=alone)
    assert outcome(list(text), single=single, alone=alone) == (said, called)
    assert outcome(cut(text, places), single=single, alone=alone) == (said, called)
    assert text.startswith(said)
    assert called or said == text
    assert not (alone and called and said)
    for name, arguments in called:
        assert name in NAMES
        assert isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize("text", HARD_CASES)
def test_hard_cases_at_every_cut(text: str) -> None:
    whole = outcome([text])
    for place in range(len(text) + 1):
        assert outcome([text[:place], text[place:]]) == whole


def no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


@given(
    text=st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(
        lambda parts: '{"name":"f","parameters":{' + "".join(parts)
    )
)
def test_a_call_is_whole_where_a_parser_of_json_says_so(text: str) -> None:
    call, count = PartialCall(NAMES), 0
    while count < len(text) and not (call.broken or call.whole):
        call.read(text[count])
        count += 1
    try:
        # lone surrogates are judged when the call is whole
        value, size = json.JSONDecoder(parse_constant=no_constant).raw_decode(text)
    except ValueError:
        assert not call.whole
    else:
        if set(value) <= KEYS and all(
            isinstance(value[key], dict) for key in ("parameters", "arguments") if key in value
        ):
            assert call.whole or call.broken
        if call.whole:
            assert count == size


SAID = '{"name": "f", "parameters": {"a": 1}}'
F, G = ("f", '{"a": 1}'), ("weather", "{}")


@pytest.mark.parametrize(
    ("text", "said", "called"),
    [
        (f'{SAID}\n{{"name": "weather", "parameters": {{}}}}', "", [F, G]),
        (f'{SAID};\n\n{{"name": "weather", "parameters": {{}}}}\n', "", [F, G]),
        (f"{SAID} {SAID}", "", [F, F]),
        (f"{SAID};; {SAID}", f"{SAID};;", [F]),
        (f"I look it up.\n\n{SAID}", "I look it up.", [F]),
        (f"I look it up: {SAID}\n", "I look it up:", [F]),
        (f"It is {{x}} or {{ {{, so\n{SAID}", "It is {x} or { {, so", [F]),
        (f"```json\n{SAID}\n```", "", [F]),
        (f"```\n{SAID}\n{SAID}\n```\n", "", [F, F]),
        (f"Here:\n```json\n{SAID}\n```\n```json\n{SAID}```", "Here:", [F, F]),
        (f"```tool_call\n{SAID}", "", [F]),
        (f"  ```json\n{SAID}\n``", "", [F]),
        (f"<tool_call>\n{SAID}\n</tool_call>", "", [F]),
        (f"<tool_call>{SAID}</tool_call><tool_call>{SAID}</tool_call>\n", "", [F, F]),
        (f"Look:\n<tool_call>\n{SAID}\n</tool_call>\n<tool_call>\n{SAID}\n</t", "Look:", [F, F]),
        (f"2 <tool_calls <3\n<tool_call>\n{SAID}", "2 <tool_calls <3", [F]),
        (f"```py\nprint()\n```\n{SAID}", "```py\nprint()\n```", [F]),
        (f'{{"name": "unknown", "parameters": {{}}}}\n{SAID}', None, [F]),
        # words behind them, or around them on a line
        (f"```json\n{SAID}\n```\nwould do", None, []),
        (f"{SAID} would do", None, []),
        (f"`{SAID}`", None, []),
        (f"[{SAID}]", None, []),
        (f"x{SAID}", None, []),
        (f"{SAID}{SAID}", None, []),
        (f"<tool_call>\n{SAID}\n</tool_call> would do", None, []),
        (f"<tool_call>\n{SAID}\n```", None, []),
        (f"```json\n{SAID}\n</tool_call>", None, []),
        (f"x<tool_call>\n{SAID}\n</tool_call>", None, []),
        ("<tool_call>\n</tool_call>", None, []),
        ("<tool_call>Wait", None, []),
        ("Wait ``` json", None, []),
        ("```json\n```", None, []),
        ("two \n blank \n", None, []),
    ],
)
def test_calls_may_stand_behind_words_on_lines_and_in_fences(
    text: str, said: str | None, called: list[tuple[str, str]]
) -> None:
    """As models write them that were not taught Llama's one way."""
    found = outcome(list(text))
    assert found[1] == called
    assert found == outcome([text])
    if said is not None or not called:
        assert found[0] == (text if said is None else said)


@pytest.mark.parametrize(
    "text", [f"I look.\n{SAID}", f"```json\n{SAID}\n```", f"<tool_call>{SAID}</tool_call>"]
)
def test_where_an_answer_has_a_form_calls_stand_alone(text: str) -> None:
    """A strict tool's schema is enforced of answers that begin as calls, and not behind words."""
    assert outcome(list(text), alone=True) == (text, [])
    assert outcome([SAID], alone=True) == ("", [F])


def test_words_are_given_before_the_calls_behind_them_are_whole() -> None:
    reader = PossibleCalls(NAMES)
    assert [reader.feed(piece) for piece in ("I ", "look", " it up.\n", SAID[:9], SAID[9:])] == [
        [Words("I")],
        [Words(" look")],
        [Words(" it up.")],
        [],
        [],
    ]
    assert calls(reader.end()) == [F]


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        ('{"name": "f", "parameters": {"a": "', "ab "),
        ('{"name": "f", "parameters": {"a": "', "\\u00e9"),
        ('{"name": "f", "parameters": {"a": [', '[1.25, {"b": null}], '),
        ('{"name": "f", "parameters": {"a": 0.', "3"),
        ('{"name": "f", "parameters": {"a": ', "3"),
        ('{"name": "f", "parameters": {"a": ', "["),
        ('{"name": "f", "parameters": {', '"a": 1, '),
        ('{"name": "f", ', '"name": "f", '),
        ('{"name": "f", "parameters": {', " "),
        ('{"name": "f", "parameters": ', '{"a": {"name": "f", "parameters": '),
        ("", '{"name": "f", "parameters": {}}; '),
        ("", '{"name": "f", "parameters": {}}\n'),
        ("", "{ "),
        ("", "\n`"),
        ("", "<tool_call>\n" + SAID + "\n</tool_call>\n"),
        ("", " <tool_call"),
        ("", "\n```"),
        ("\n```", "a"),
        ("", " \n"),
        ("", "```json\n" + SAID + "\n```\n"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_work_grows_with_the_length_of_the_text(
    monkeypatch: pytest.MonkeyPatch, begun: str, piece: str, at_once: bool
) -> None:
    """Reading all again at every piece took 1.1 s of processor time for 16,000 of them, on the one
    event loop of the server, and a number of n digits n^2 steps. Counted are the characters that
    are looked at; what is kept between two of them is short, so that each costs the same.
    """
    looked_at = 0

    def counted(function: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            nonlocal looked_at
            looked_at += size(*values)
            return function(*values)

        return call

    for name in ("_read_word", "_goes_on"):
        one_more = counted(getattr(PossibleCalls, name), lambda *_: 1)
        monkeypatch.setattr(PossibleCalls, name, one_more)
    monkeypatch.setattr(tool_calls, "_whole_call", counted(tool_calls._whole_call, len))
    kept = []

    def read_and_measure(call: PartialCall, character: str, read: Any = PartialCall.read) -> None:
        read(call, character)
        kept.append(len(call._word + call._escape + call._string + call._key) + len(call._open))

    monkeypatch.setattr(PartialCall, "read", read_and_measure)
    text = begun + piece * 1_000
    reader = PossibleCalls(NAMES)
    for part in [text] if at_once else list(text):
        reader.feed(part)
        kept.append(len(reader._fence))
    reader.end()
    assert looked_at <= 3 * len(text)
    assert max(kept) < 200
