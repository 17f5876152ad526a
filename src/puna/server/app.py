"""The application: endpoints, error handlers, and the middleware around them. serve.py runs it.

From the outside in: requests are counted; on a server for this machine only, the Host header is
checked; browsers of allowed origins get their headers; keys are checked; bodies are read within
their limits. Then the routes. Around all of it serve.py puts ids and log of requests, the request
line, lingering close, readiness and timeout.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from puna.api import chat_completions, completions, embeddings, responses_endpoint, tokens
from puna.api.error_response import handle_errors
from puna.api.limits import Admission
from puna.api.openapi import describe, error_responses, gives
from puna.api.responses import Answer, HealthResponse, Model, ModelList
from puna.api.service import Service
from puna.engine_process.client import EngineClient
from puna.engine_process.metrics import CONTENT_TYPE, Metrics
from puna.server.http_limits import HttpLimits
from puna.server.middleware.api_key import ApiKeyMiddleware
from puna.server.middleware.body_limit import BodyLimitMiddleware
from puna.server.middleware.host_name import HostNameMiddleware
from puna.server.middleware.request_count import RequestCountMiddleware


def create_app(
    client: EngineClient,
    limits: HttpLimits,
    *,
    api_keys: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
    metrics: Metrics,
    loopback_only: bool = True,
) -> FastAPI:
    """The application that serves the client's models, which may still be loading.

    api_keys: one of them is wanted with every request but /health; none: no key is. allow_origins:
    web pages that may call from a browser. loopback_only: only this machine reaches the server, so
    it answers to loopback names only.
    """
    service = Service(client, limits, Admission(limits, client.max_running))
    app = FastAPI(
        title="Puna", version=version("puna"), docs_url=None, redoc_url=None, redirect_slashes=False
    )
    for routes in (
        chat_completions.routes,
        responses_endpoint.routes,
        completions.routes,
        embeddings.routes,
        tokens.routes,
        model_routes,
    ):
        app.include_router(routes(service))
    app.include_router(state_routes(client, metrics))
    handle_errors(app)
    app.openapi = lambda: _described(app, service, keys=bool(api_keys))  # type: ignore[method-assign]
    app.add_middleware(BodyLimitMiddleware, limits=limits)
    app.add_middleware(ApiKeyMiddleware, keys=api_keys)
    if allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    if loopback_only:
        app.add_middleware(HostNameMiddleware)
    app.add_middleware(RequestCountMiddleware, metrics=metrics)
    return app


def _described(app: FastAPI, service: Service, *, keys: bool) -> dict[str, Any]:
    """The OpenAPI document, made once the models are there."""
    if app.openapi_schema is None or not service.models():
        app.openapi_schema = describe(app, service, keys=keys)
    return app.openapi_schema


def model_routes(service: Service) -> APIRouter:
    """The endpoints of the models that requests can name."""
    router = APIRouter()

    @router.get("/v1/models", responses=gives(ModelList))
    async def list_models() -> Response:
        """All models and their adapters."""
        return _sent(service.model_list())

    @router.get("/v1/models/{model}", responses=gives(Model))
    async def retrieve_model(model: str) -> Response:
        """One of them."""
        return _sent(service.model(model).described())

    return router


def state_routes(client: EngineClient, counted: Metrics) -> APIRouter:
    """The endpoints of the server's state."""
    router = APIRouter()

    @router.get(
        "/health",
        responses=gives(HealthResponse)
        | {503: {"model": HealthResponse, "description": "not now"}},
    )
    async def health() -> Response:
        """The state of the service. Needs no key."""
        now = client.health()
        return _sent(HealthResponse(status=now.status, detail=now.detail), 200 if now.ok else 503)

    @router.get(
        "/metrics",
        responses=error_responses()
        | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def measure() -> Response:
        """Counts and times, in Prometheus's format."""
        return Response(counted.render(), headers={"content-type": CONTENT_TYPE})

    return router


def _sent(answer: Answer, status: int = 200) -> Response:
    return Response(answer.to_json(), status, media_type="application/json")
