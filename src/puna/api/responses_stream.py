"""The output of a response while it is written: words and calls become items, and the events that
tell of them.

Not here: the parts that a model's text turns out to be (tool_calls.py), the response around the
items (responses_endpoint.py), and the shapes (responses_answer.py).
"""

import itertools
import uuid
from collections.abc import Iterator, Sequence

from puna.api.responses import TokenLogprob
from puna.api.responses_answer import (
    CallArgumentsDelta,
    CallArgumentsDone,
    ContentPartEvent,
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputItemEvent,
    OutputMessage,
    OutputText,
    OutputTextDelta,
    OutputTextDone,
    ResponseEvent,
    ResponseObject,
    ResponseStateEvent,
    ResponseStateType,
)
from puna.api.tool_calls import Arguments, CallBegun, Part, Words


class ResponseOutput:
    """The items of a response, and the numbers of its events. items: those that have ended."""

    def __init__(self) -> None:
        self.items: list[OutputItem] = []
        self._numbers = itertools.count()
        self._open: _OpenMessage | _OpenCall | None = None

    def state(self, type_: ResponseStateType, response: ResponseObject) -> ResponseStateEvent:
        """The event that tells of the whole response."""
        return ResponseStateEvent(
            type=type_, sequence_number=next(self._numbers), response=response
        )

    def add(self, part: Part, logprobs: Sequence[TokenLogprob]) -> list[ResponseEvent]:
        """Go on, and the events of it. logprobs: of the tokens of words."""
        match part:
            case Words(text):
                begun: list[ResponseEvent] = []
                if not isinstance(self._open, _OpenMessage):
                    begun = self._end("completed")
                    self._open = _OpenMessage(len(self.items), self._numbers)
                    begun += self._open.begin()
                return [*begun, self._open.add(text, logprobs)]
            case CallBegun():
                events = self._end("completed")
                self._open = _OpenCall(part, len(self.items), self._numbers)
                return [*events, self._open.begin()]
            case Arguments(_, text):
                assert isinstance(self._open, _OpenCall), "arguments follow their call"
                return [self._open.add(text)]

    def finish(self, status: ItemStatus) -> list[ResponseEvent]:
        """End the last item, and the events of it. An answer of nothing is an empty message."""
        begun: list[ResponseEvent] = []
        if self._open is None and not self.items:
            self._open = _OpenMessage(0, self._numbers)
            begun = self._open.begin()
        return begun + self._end(status)

    def _end(self, status: ItemStatus) -> list[ResponseEvent]:
        if self._open is None:
            return []
        item, events = self._open.end(status)
        self.items.append(item)
        self._open = None
        return events


class _OpenMessage:
    """A message that is being written."""

    def __init__(self, index: int, numbers: Iterator[int]) -> None:
        self._id, self._index, self._numbers = f"msg_{uuid.uuid4().hex}", index, numbers
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def begin(self) -> list[ResponseEvent]:
        return [
            OutputItemEvent(
                type="response.output_item.added",
                sequence_number=next(self._numbers),
                output_index=self._index,
                item=self._item("in_progress", []),
            ),
            ContentPartEvent(
                type="response.content_part.added",
                sequence_number=next(self._numbers),
                item_id=self._id,
                output_index=self._index,
                content_index=0,
                part=self._part(),
            ),
        ]

    def add(self, text: str, logprobs: Sequence[TokenLogprob]) -> ResponseEvent:
        self._texts.append(text)
        self._logprobs += logprobs
        return OutputTextDelta(
            type="response.output_text.delta",
            sequence_number=next(self._numbers),
            item_id=self._id,
            output_index=self._index,
            content_index=0,
            delta=text,
            logprobs=list(logprobs),
        )

    def end(self, status: ItemStatus) -> tuple[OutputItem, list[ResponseEvent]]:
        part = self._part()
        item = self._item(status, [part])
        return item, [
            OutputTextDone(
                type="response.output_text.done",
                sequence_number=next(self._numbers),
                item_id=self._id,
                output_index=self._index,
                content_index=0,
                text=part.text,
                logprobs=part.logprobs,
            ),
            ContentPartEvent(
                type="response.content_part.done",
                sequence_number=next(self._numbers),
                item_id=self._id,
                output_index=self._index,
                content_index=0,
                part=part,
            ),
            OutputItemEvent(
                type="response.output_item.done",
                sequence_number=next(self._numbers),
                output_index=self._index,
                item=item,
            ),
        ]

    def _item(self, status: ItemStatus, content: list[OutputText]) -> OutputMessage:
        return OutputMessage(
            id=self._id, type="message", role="assistant", status=status, content=content
        )

    def _part(self) -> OutputText:
        return OutputText(
            type="output_text",
            text="".join(self._texts),
            annotations=[],
            logprobs=list(self._logprobs),
        )


class _OpenCall:
    """A call that is being written."""

    def __init__(self, call: CallBegun, index: int, numbers: Iterator[int]) -> None:
        self._id, self._index, self._numbers = f"fc_{uuid.uuid4().hex}", index, numbers
        self._call = call
        self._texts: list[str] = []

    def begin(self) -> ResponseEvent:
        return OutputItemEvent(
            type="response.output_item.added",
            sequence_number=next(self._numbers),
            output_index=self._index,
            item=self._item("in_progress"),
        )

    def add(self, text: str) -> ResponseEvent:
        self._texts.append(text)
        return CallArgumentsDelta(
            type="response.function_call_arguments.delta",
            sequence_number=next(self._numbers),
            item_id=self._id,
            output_index=self._index,
            delta=text,
        )

    def end(self, status: ItemStatus) -> tuple[OutputItem, list[ResponseEvent]]:
        item = self._item(status)
        return item, [
            CallArgumentsDone(
                type="response.function_call_arguments.done",
                sequence_number=next(self._numbers),
                item_id=self._id,
                output_index=self._index,
                arguments=item.arguments,
            ),
            OutputItemEvent(
                type="response.output_item.done",
                sequence_number=next(self._numbers),
                output_index=self._index,
                item=item,
            ),
        ]

    def _item(self, status: ItemStatus) -> OutputCall:
        return OutputCall(
            id=self._id,
            type="function_call",
            status=status,
            call_id=self._call.id,
            name=self._call.name,
            arguments="".join(self._texts),
        )
