"""What the tests of the server share: an event loop that always runs, and a started engine process
with the tiny model.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from background_loop import BackgroundLoop

from puna.engine_process.client import EngineClient
from puna.engine_process.messages import ModelSpec
from puna.inference.engine_config import EngineConfig


@pytest.fixture(scope="session")
def loop() -> Iterator[BackgroundLoop]:
    """The loop that everything asynchronous of this folder runs in."""
    background = BackgroundLoop()
    yield background
    background.close()


@pytest.fixture(scope="session")
def tiny_spec(tiny_run: Path) -> ModelSpec:
    """The tiny model under the name `tiny`."""
    return ModelSpec("tiny", str(tiny_run / "model"))


@pytest.fixture(scope="session")
def client(loop: BackgroundLoop, tiny_spec: ModelSpec) -> Iterator[EngineClient]:
    """A started client of a process with the tiny model; leave it as it was."""
    started = loop.run(
        EngineClient.start([tiny_spec], EngineConfig(max_running=8), device="cpu", threads=1)
    )
    yield started
    loop.run(started.close())


@pytest.fixture
def start(loop: BackgroundLoop, tiny_spec: ModelSpec) -> Iterator[Callable[..., EngineClient]]:
    """Start a process of the test's own, with the tiny model unless specs are given."""
    started: list[EngineClient] = []

    def begin(
        *specs: ModelSpec, options: EngineConfig | None = None, **settings: Any
    ) -> EngineClient:
        settings = {"device": "cpu", "threads": 1, **settings}
        started.append(loop.run(EngineClient.start(specs or [tiny_spec], options, **settings)))
        return started[-1]

    yield begin
    for each in started:
        loop.run(each.close())
