"""/tokenize and /detokenize: text to ids and back, with a served model's vocabulary. The engine is
not asked.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.error_response import ApiError
from puna.api.json_body import JsonBody, read_json
from puna.api.openapi import gives, takes
from puna.api.protocol import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest
from puna.api.responses import DetokenizeResponse, TokenizeResponse
from puna.api.service import Service
from puna.errors import TokenizerError


def routes(service: Service) -> APIRouter:
    """The endpoints."""
    router = APIRouter()

    @router.post(
        "/tokenize",
        openapi_extra=takes(TokenizeTextRequest, TokenizeChatRequest),
        responses=gives(TokenizeResponse),
    )
    async def tokenize(request: Request) -> Response:
        """Turn a text or a chat into ids."""
        values = await read_json(request)
        if isinstance(values, dict) and "messages" in values:
            return _sent(
                await _tokenized_chat(request, JsonBody(TokenizeChatRequest, service).check(values))
            )
        return _sent(
            await _tokenized_text(request, JsonBody(TokenizeTextRequest, service).check(values))
        )

    async def _tokenized_chat(request: Request, body: TokenizeChatRequest) -> TokenizeResponse:
        model = service.model(body.model)
        async with service.admit(request):
            answer = body.add_generation_prompt is not False
            ids = await model.encode_chat(body.messages, body.tools or (), answer=answer)
        return TokenizeResponse(
            tokens=ids, count=len(ids), max_model_len=model.served.loaded.context_length
        )

    async def _tokenized_text(request: Request, body: TokenizeTextRequest) -> TokenizeResponse:
        model = service.model(body.model)
        async with service.admit(request):
            text = await model.encode_prompt(body.prompt)
        ids = text.ids[int(text.opened and body.add_special_tokens is False) :]
        return TokenizeResponse(
            tokens=ids, count=len(ids), max_model_len=model.served.loaded.context_length
        )

    @router.post(
        "/detokenize", openapi_extra=takes(DetokenizeRequest), responses=gives(DetokenizeResponse)
    )
    async def detokenize(
        request: Request,
        body: Annotated[DetokenizeRequest, Depends(JsonBody(DetokenizeRequest, service))],
    ) -> Response:
        """Turn ids into text; special tokens are spelled out."""
        model = service.model(body.model)
        async with service.admit(request):
            try:
                return _sent(DetokenizeResponse(prompt=model.tokenizer.decode(body.tokens)))
            except TokenizerError as error:
                raise ApiError(
                    400, f"tokens: {error}", param="tokens", code="invalid_value"
                ) from error

    return router


def _sent(answer: TokenizeResponse | DetokenizeResponse) -> Response:
    return Response(answer.to_json(), media_type="application/json")
