"""Soak test: after a while with clients of every kind, everything is where it was.

`make soak` takes ten minutes for it; `make test-slow` takes twenty seconds as well, which a look at
a change is worth: `make soak ARGS="-k 20"`. With `-s` the figures are printed.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from served import ServerProcess, served
from soak import soak
from soak_clients import MODEL

QUICK_SECONDS, LONG_SECONDS = 20, 600
MEMORY_BYTES = 32 << 20
"""What either process may grow by: about half a kilobyte for each visit in ten minutes. It is not
nothing, because the allocator keeps what the largest answers that met took at once, and the longer
one waits, the more of them meet.
"""
THREADS = 2 + min(32, (os.cpu_count() or 1) + 4) + (os.cpu_count() or 1)
"""Of the API server at most: its own, one that waits for the engine's end, asyncio's pool for
encoding texts, and the pool of the tokenizers library. A pool grows when all of it is busy, so
there may be more in the end than before.
"""
SHORT = (
    "request_seconds=6",
    "header_seconds=1",
    "body_seconds=1",
    "max_concurrent_requests=22",
    "queue=40",
)
ENOUGH = ("requests_per_minute=1000000", "burst=1000000")


@pytest.fixture(scope="module")
def lively(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights so large that it says something else to every prompt; as trained,
    it repeats one letter.
    """
    folder = tmp_path_factory.mktemp("soak") / MODEL
    shutil.copytree(tiny_run / "model", folder)
    weights = load_file(folder / "model.safetensors")
    noise = torch.Generator().manual_seed(0)
    loud = {
        name: 0.4 * torch.randn(weight.shape, generator=noise) if weight.ndim == 2 else weight
        for name, weight in weights.items()
    }
    save_file(loud, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def server(lively: Path) -> Iterator[ServerProcess]:
    """It is short of memory for the cache, of places and of patience, so that all of them run out
    at times.
    """
    limits = [option for limit in (*SHORT, *ENOUGH) for option in ("--limit", limit)]
    with served(lively, "--max-running", "8", "--cache-memory", "100KB", *limits) as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(2 * LONG_SECONDS)
@pytest.mark.parametrize("seconds", [QUICK_SECONDS, LONG_SECONDS])
def test_everything_is_where_it_was(server: ServerProcess, seconds: float) -> None:
    """No memory of the cache is in use, nothing runs or waits, no connection is open: without that,
    `soak` itself fails.

    Nor has any answer come that may not come, and each answer that was known before came out as
    before, whatever went on beside it.
    """
    report = asyncio.run(soak(server, seconds, warm_up=max(5, seconds / 10)))
    sys.stdout.write(f"\n{report.text}\n")
    before, after = report.before, report.after
    assert (after.api_server.files, after.engine.files) == (
        before.api_server.files,
        before.engine.files,
    )
    assert after.engine.threads == before.engine.threads
    assert after.api_server.threads <= THREADS
    assert after.api_server.memory - before.api_server.memory < MEMORY_BYTES
    assert after.engine.memory - before.engine.memory < MEMORY_BYTES
    assert report.tally.right > seconds
    assert report.tally.slowest_health < 10
    assert report.grown("puna_preemptions_total") > 0, "memory never ran out"
    assert report.grown("puna_cancellations_total") > 0
    assert report.grown("puna_cancellation_late_steps_total") <= report.grown(
        "puna_cancellations_total"
    )

    begun = time.monotonic()
    assert server.end() == 0
    assert time.monotonic() - begun < 20, (
        "the server waited for a request that nobody asked any more"
    )
    assert server.log == ""
