"""The output of a response: which items the parts of an answer become, and the events that tell of
them.
"""

import itertools
from collections.abc import Sequence

from puna.api.responses_answer import OutputCall, OutputItemEvent, OutputMessage, ResponseEvent
from puna.api.responses_stream import ResponseOutput
from puna.api.tool_calls import Arguments, CallBegun, Part, Words

BEGUN = ["response.output_item.added", "response.content_part.added"]
ENDED = [
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


def played(*parts: Part, cut: bool = False) -> tuple[ResponseOutput, list[ResponseEvent]]:
    output = ResponseOutput()
    events = list(itertools.chain.from_iterable(output.add(part, ()) for part in parts))
    events += output.finish("incomplete" if cut else "completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return output, events


def types(events: Sequence[ResponseEvent]) -> list[str]:
    return [event.type for event in events]


def test_words_are_one_message() -> None:
    output, events = played(Words("a"), Words("b"), cut=True)
    assert types(events) == [*BEGUN, *["response.output_text.delta"] * 2, *ENDED]
    (item,) = output.items
    assert isinstance(item, OutputMessage)
    assert (item.status, item.content[0].text) == ("incomplete", "ab")
    first = events[0]
    assert isinstance(first, OutputItemEvent)
    assert (first.item.status, first.item.id) == ("in_progress", item.id)
    assert isinstance(first.item, OutputMessage)
    assert first.item.content == [], "an event tells what was so when it was made"


def test_each_call_is_an_item() -> None:
    output, events = played(
        CallBegun(0, "call_1", "f"),
        Arguments(0, '{"a": '),
        Arguments(0, "1}"),
        CallBegun(1, "call_2", "g"),
        Arguments(1, "{}"),
    )
    call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert types(events) == [*call[:2], call[1], *call[2:], *call]
    found = [item for item in output.items if isinstance(item, OutputCall)]
    assert [(item.call_id, item.name, item.arguments, item.status) for item in found] == [
        ("call_1", "f", '{"a": 1}', "completed"),
        ("call_2", "g", "{}", "completed"),
    ]
    assert [event.output_index for event in events if isinstance(event, OutputItemEvent)] == [
        0,
        0,
        1,
        1,
    ]


def test_words_end_where_a_call_begins() -> None:
    output, events = played(Words("a"), CallBegun(0, "call_1", "f"), cut=True)
    assert types(events)[3:7] == [*ENDED, "response.output_item.added"]
    assert [(item.type, item.status) for item in output.items] == [
        ("message", "completed"),
        ("function_call", "incomplete"),
    ]


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    output, events = played()
    assert types(events) == [*BEGUN, *ENDED]
    (item,) = output.items
    assert isinstance(item, OutputMessage)
    assert item.content[0].text == ""
