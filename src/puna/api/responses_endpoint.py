"""/v1/responses: a conversation in, items out, whole or streamed. Nothing is stored.

The request is answered as the chat that it asks for (chat_generation.py); here is the response
around its output (responses_stream.py).
"""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.chat_generation import ChatGeneration
from puna.api.error_response import ApiError
from puna.api.generation import TextDelta, TextToken, usage_of
from puna.api.json_body import JsonBody
from puna.api.logprobs import token_logprob
from puna.api.openapi import error_responses, gives_typed, takes
from puna.api.responses import CompletionUsage, TokenLogprob
from puna.api.responses_answer import (
    RESPONSE_EVENTS,
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    ResponseEvent,
    ResponseFailure,
    ResponseObject,
    ResponseState,
    ResponseStateEvent,
    ResponseUsage,
)
from puna.api.responses_request import ResponsesRequest
from puna.api.responses_stream import ResponseOutput
from puna.api.service import ChosenModel, Service
from puna.api.streaming import EventStream, WholeAnswer
from puna.api.tool_calls import Part, Words


def routes(service: Service) -> APIRouter:
    """The endpoints."""
    router = APIRouter()

    @router.post(
        "/v1/responses",
        openapi_extra=takes(ResponsesRequest),
        responses=gives_typed(ResponseObject, RESPONSE_EVENTS),
    )
    async def create_response(
        request: Request,
        body: Annotated[ResponsesRequest, Depends(JsonBody(ResponsesRequest, service))],
    ) -> Response:
        """Answer a conversation with items."""
        answer = ResponseAnswer(service, service.model(body.model), body, request)
        return (
            TypedEventStream(answer, service.limits.request_seconds)
            if body.stream
            else WholeAnswer(answer.whole())
        )

    @router.get("/v1/responses/{response_id}", status_code=404, responses=error_responses())
    async def retrieve_response(response_id: str) -> Response:
        """Nothing: no response is stored."""
        raise ApiError(
            404,
            f"there is no response {response_id[:100]!r} here: nothing is stored, so keep what"
            " POST /v1/responses answers",
            code="response_not_found",
        )

    return router


class ResponseAnswer:
    """The answer to one request."""

    def __init__(
        self, service: Service, model: ChosenModel, body: ResponsesRequest, request: Request
    ) -> None:
        self._model, self._body = model, body
        self._chat = ChatGeneration(service, model, body.chat(), request)
        self._id, self._created = f"resp_{uuid.uuid4().hex}", int(time.time())
        self._output = ResponseOutput()
        self._held: list[TextToken] = []  # their words are not certain yet

    async def whole(self) -> ResponseObject:
        """The response, complete."""
        last: ResponseEvent | None = None
        async with contextlib.aclosing(self.streamed()) as events:
            async for event in events:
                last = event
        assert isinstance(last, ResponseStateEvent)
        return last.response

    async def streamed(self) -> AsyncGenerator[ResponseEvent]:
        """The response as it comes."""
        output, begun = self._output, False
        async with contextlib.aclosing(self._chat.deltas()) as deltas:
            async for _, delta, parts in deltas:
                if not begun:
                    begun = True
                    yield output.state("response.created", self._response("in_progress"))
                    yield output.state("response.in_progress", self._response("in_progress"))
                for event in self._events(delta, parts):
                    yield event
        (sequence,) = self._chat.prompt.sequences
        cut = sequence.finish == "length"
        state: Literal["completed", "incomplete"] = "incomplete" if cut else "completed"
        for event in output.finish(state):
            yield event
        last = self._response(state, usage=_usage(usage_of([self._chat.prompt])))
        yield output.state("response.incomplete" if cut else "response.completed", last)

    def failed(self, error: ApiError) -> ResponseEvent:
        """The last event of a stream that ends early."""
        failure = ResponseFailure(code="server_error", message=str(error))
        return self._output.state("response.failed", self._response("failed", error=failure))

    def _events(self, delta: TextDelta, parts: Sequence[Part]) -> list[ResponseEvent]:
        self._held += delta.tokens
        events = []
        for part in parts:
            events += self._output.add(part, self._logprobs() if isinstance(part, Words) else ())
        return events

    def _logprobs(self) -> list[TokenLogprob]:
        """Those of the tokens that were not given yet."""
        held, self._held = self._held, []
        return [token_logprob(self._model.tokenizer, token.logprobs) for token in held]

    def _response(
        self,
        state: ResponseState,
        *,
        usage: ResponseUsage | None = None,
        error: ResponseFailure | None = None,
    ) -> ResponseObject:
        """The response as it is now."""
        return ResponseObject(
            id=self._id,
            object="response",
            created_at=self._created,
            completed_at=int(time.time()) if state == "completed" else None,
            status=state,
            background=False,
            error=error,
            incomplete_details=(
                IncompleteDetails(reason="max_output_tokens") if state == "incomplete" else None
            ),
            max_tool_calls=None,
            model=self._model.name,
            output=list(self._output.items),
            previous_response_id=None,
            reasoning={"effort": None, "summary": None},
            service_tier="default",
            store=False,
            truncation="disabled",
            usage=usage,
            **self._body.repeated(self._model.defaults),
        )


def _usage(usage: CompletionUsage) -> ResponseUsage:
    cached = usage.prompt_tokens_details.cached_tokens
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=cached, cache_write_tokens=0),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        total_tokens=usage.total_tokens,
    )


class TypedEventStream(EventStream[ResponseEvent]):
    """Server-sent events with their types; the last one holds the whole response, or the error."""

    def __init__(self, answer: ResponseAnswer, seconds: float) -> None:
        super().__init__(answer.streamed(), seconds)
        self._answer = answer

    def event(self, answer: ResponseEvent) -> bytes:
        """An event on the wire."""
        return b"event: " + answer.type.encode("ascii") + b"\n" + super().event(answer)

    def end(self, error: ApiError | None) -> bytes:
        """Nothing, or the event of the failure."""
        return b"" if error is None else self.event(self._answer.failed(error))
