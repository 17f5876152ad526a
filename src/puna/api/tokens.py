"""/tokenize, /detokenize and /tokenizer_info: text to ids and back with the vocabulary of a served
model, and its special tokens. The engine is not asked.

The paths and fields are vLLM's, by which lm-evaluation-harness finds a model's tokenizer
(`local-completions` with `tokenizer_backend=auto`, read in 0.4.13). It names no model, and asks for
the id of a special token as for those of a text: `{"prompt": "<|begin_of_text|>",
"add_special_tokens": false}`. So such a text, and no longer one that holds it, is the token itself.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from puna.api.error_response import ApiError
from puna.api.json_body import JsonBody, read_json
from puna.api.openapi import gives, takes
from puna.api.protocol import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest
from puna.api.responses import DetokenizeResponse, TokenizeResponse, TokenizerInfo
from puna.api.service import ChosenModel, Service
from puna.errors import TokenizerError
from puna.tokenizer.chat_layout import role_tokens
from puna.tokenizer.folder import build_config


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
            chat = JsonBody(TokenizeChatRequest, service).check(values)
            return _sent(await _tokenized_chat(service, request, chat))
        text = JsonBody(TokenizeTextRequest, service).check(values)
        return _sent(await _tokenized_text(service, request, text))

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

    @router.get("/tokenizer_info", responses=gives(TokenizerInfo))
    async def tokenizer_info(model: str | None = None) -> Response:
        """Give the names of the special tokens."""
        return _sent(described(service.model(model)))

    return router


async def _tokenized_chat(
    service: Service, request: Request, body: TokenizeChatRequest
) -> TokenizeResponse:
    model = service.model(body.model)
    async with service.admit(request):
        answer = body.add_generation_prompt is not False
        ids = await model.encode_chat(body.messages, body.tools or (), answer=answer)
    return TokenizeResponse(
        tokens=ids, count=len(ids), max_model_len=model.served.loaded.context_length
    )


async def _tokenized_text(
    service: Service, request: Request, body: TokenizeTextRequest
) -> TokenizeResponse:
    model = service.model(body.model)
    async with service.admit(request):
        text = await model.encode_prompt(body.prompt)
    ids = text.ids
    if body.add_special_tokens is False:
        special = model.tokenizer.special_tokens.get(body.prompt)
        ids = ids[int(text.opened) :] if special is None else [special]
    return TokenizeResponse(
        tokens=ids, count=len(ids), max_model_len=model.served.loaded.context_length
    )


def described(model: ChosenModel) -> TokenizerInfo:
    """The special tokens of a model, by their roles in its configuration or else by their names,
    and the template of its chats.
    """
    names = role_tokens(build_config(model.tokenizer.special_tokens) | dict(model.tokenizer.config))
    return TokenizerInfo(
        bos_token=names.get("bos_token"),
        eos_token=names.get("eos_token"),
        pad_token=names.get("pad_token"),
        chat_template=model.served.text.layout.source,
        max_model_len=model.served.loaded.context_length,
    )


def _sent(answer: TokenizeResponse | DetokenizeResponse | TokenizerInfo) -> Response:
    return Response(answer.to_json(), media_type="application/json")
