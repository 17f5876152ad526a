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
from reread_calls import RereadCalls

from puna.api import tool_calls
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


def same_as_rereading(pieces: Sequence[str], single: bool) -> None:
    """At each piece, and at the end, both give the same."""
    fast, slow = PossibleCalls(NAMES, single), RereadCalls(NAMES, single)
    for piece in pieces:
        assert given_by(fast.feed(piece)) == slow.feed(piece)
        assert fast.enough == slow.enough
        if fast.enough:
            break
    assert given_by(fast.end()) == slow.end()


def given_by(parts: Sequence[Part]) -> list[tuple[str, str]]:
    return calls(parts) or [("", words(parts))] * bool(parts)


@given(
    text=st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)
    | st.tuples(st.sampled_from(HARD_CASES), st.integers(0, 400), st.sampled_from(FRAGMENTS)).map(
        lambda case: case[0][: case[1]] + case[2] + case[0][case[1] :]
    ),
    places=places,
    single=st.booleans(),
)
def test_reading_each_piece_once_gives_what_rereading_all_gives(
    text: str, places: list[int], single: bool
) -> None:
    same_as_rereading(list(text), single)
    same_as_rereading([text], single)
    same_as_rereading(cut(text, places), single)


@pytest.mark.parametrize("text", HARD_CASES)
def test_hard_cases_at_every_cut(text: str) -> None:
    same_as_rereading(list(text), False)
    for place in range(len(text) + 1):
        same_as_rereading([text[:place], text[place:]], False)


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        ('{"name": "f", "parameters": {"a": "', "ab "),
        ('{"name": "f", "parameters": {"a": "', "\\u00e9"),
        ('{"name": "f", "parameters": {"a": [', '[1.25, {"b": null}], '),
        ('{"name": "f", "parameters": {"a": 0.', "3"),
        ('{"name": "f", "parameters": {', '"a": 1, '),
        ('{"name": "f", ', '"name": "f", '),
        ('{"name": "f", "parameters": {', " "),
        ("", '{"name": "f", "parameters": {}}; '),
    ],
)
def test_work_grows_with_the_length_of_the_text(
    monkeypatch: pytest.MonkeyPatch, begun: str, piece: str
) -> None:
    """Reading all again at every piece took 1.1 s of processor time for 16,000 of them, on the one
    event loop of the server. Counted are the characters that the parsers are given.
    """
    scanned = 0

    def counted(parse: Callable[..., Any]) -> Callable[..., Any]:
        def parse_and_count(text: str, **settings: Any) -> Any:
            nonlocal scanned
            scanned += len(text)
            return parse(text, **settings)

        return parse_and_count

    monkeypatch.setattr(tool_calls, "from_json", counted(tool_calls.from_json))
    monkeypatch.setattr(tool_calls.json, "loads", counted(json.loads))
    reader = PossibleCalls(NAMES)
    work = []
    for text in (begun, *[piece] * 4_000):
        assert reader.feed(text) == []
        work.append(scanned)
    longest = max(after - before for before, after in itertools.pairwise(work))
    assert longest < 3 * len(piece) + 200
