"""The OpenAPI document is true: schemathesis sends what it allows, which is accepted, and what it
does not, which is rejected.

All of its checks: answers are as described, statuses and content types too, other methods are 405s,
nothing is a 500.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from background_loop import BackgroundLoop
from live_server import live_server

from puna.engine_process.client import EngineClient
from puna.server.http_limits import HttpLimits

LIMITS = HttpLimits(
    output_tokens=6, n=2, tools=2, prompts=3, requests_per_minute=10**6, burst=10**6
)
"""Small, so that requests at the limits are quick and fit the model's context."""


KEY = "a key of the tests"


@pytest.fixture(scope="module")
def locked(loop: BackgroundLoop, noise: EngineClient) -> Iterator[str]:
    with live_server(loop, noise, LIMITS, api_keys=(KEY,)) as url:
        yield url


@pytest.fixture(scope="module")
def small(loop: BackgroundLoop, noise: EngineClient) -> Iterator[str]:
    with live_server(loop, noise, LIMITS) as url:
        yield url


def schemathesis(url: str, folder: Path, *more: str, examples: int, seed: int) -> None:
    """Run it; the assertion shows its report."""
    command = Path(sys.executable).with_name("schemathesis")
    options = (
        "--checks",
        "all",
        "--max-examples",
        str(examples),
        "--seed",
        str(seed),
        "--no-color",
        "--continue-on-failure",
        *more,
    )
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    done = subprocess.run(
        [command, "run", f"{url}/openapi.json", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_is_true(locked: str, tmp_path: Path) -> None:
    """With a key, so that requests without one are tried too."""
    schemathesis(locked, tmp_path, "--header", f"Authorization: Bearer {KEY}", examples=5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_the_document_is_true_of_much_more(small: str, tmp_path: Path, seed: int) -> None:
    schemathesis(small, tmp_path, examples=150, seed=seed)


def test_every_endpoint_is_described(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {
        f"{method} {path}" for path, methods in document["paths"].items() for method in methods
    } == {
        "post /v1/chat/completions",
        "post /v1/responses",
        "get /v1/responses/{response_id}",
        "post /v1/completions",
        "post /v1/embeddings",
        "post /tokenize",
        "post /detokenize",
        "get /tokenizer_info",
        "get /v1/models",
        "get /v1/models/{model}",
        "get /health",
        "get /metrics",
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            assert operation["description"]
