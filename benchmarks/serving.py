"""What HTTP costs: the engine alone and behind `puna serve`, with idle connections beside the busy
ones, and beside `transformers serve` and llama.cpp's server.

    python benchmarks/serving.py [MODEL] [--rounds 3] [--new 128] [--threads N] [--without-peers]
        [--llama-server PROGRAM --gguf FILE...]

MODEL is a model folder that transformers opens too; the quickstart's if left out. FILE is the same
model as GGUF, and its type stands in the row's name: `llama-server bf16`. Greedy, prompts
of their own, nothing shared or drafted. Everything runs on this machine, the clients too, so they
and the servers take the cores from each other. Rounds alternate, the medians are compared: the
ratios travel, the figures belong to this machine. Results go to benchmarks/results/, dated.

The idle connections: half have sent half a request, half have asked for more than their buffers
hold and read nothing. `transformers serve` runs as it does by default, one request after another,
and with its continuous batching.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import socket
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine, today, write_results

from puna.inference.engine_config import EngineConfig
from puna.inference.language_model import LanguageModel, load
from puna.inference.request import GenerationOptions, Request

STREAMS = 8
IDLE = 32
PROMPT_CHARACTERS = 60
PROBES = 10
HEADERS = "Host: localhost\r\nConnection: close\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=Path("runs/quickstart/model"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--new", type=int, default=128, help="tokens that each stream is continued by"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of every program's arithmetic"
    )
    parser.add_argument("--without-peers", action="store_true", help="without `transformers serve`")
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's program of this name")
    parser.add_argument(
        "--gguf", type=Path, nargs="+", default=[], help="files for it, named MODEL-TYPE.gguf"
    )
    options = parser.parse_args()
    if (options.llama_server is None) != (not options.gguf):
        parser.error("give --llama-server and --gguf together")
    torch.set_num_threads(options.threads)
    with contextlib.ExitStack() as stack:
        rows = rows_of(stack, options)
        found: dict[str, list[float]] = {name: [] for name in rows}
        for number in range(options.rounds + 1):
            for name, measure in rows.items():
                figure = measure()
                if number:  # the first round warms up
                    found[name].append(figure)
    medians = {name: statistics.median(figures) for name, figures in found.items()}
    for name, median in medians.items():
        unit, scale = (
            ("ms to the first token", 1000) if name.startswith("first token") else ("tokens/s", 1)
        )
        print(
            f"{name:52} {scale * median:8.1f} {unit} "
            f" ({', '.join(f'{scale * one:.1f}' for one in found[name])})"
        )
    beside_llama = [llama_name(file) for file in options.gguf]
    ratios = {
        name: medians[one] / medians[other]
        for name, (one, other) in (RATIOS | ratios_to(beside_llama)).items()
        if {one, other} <= set(medians)
    }
    for name, ratio in ratios.items():
        print(f"{name:52} {ratio:8.2f}")
    where = machine(torch.device("cpu"))
    write_results(
        RESULTS / f"{today()}-serving.json",
        where,
        tokens_per_second={
            name: figures for name, figures in found.items() if not name.startswith("first token")
        },
        seconds_to_first_token={
            name: figures for name, figures in found.items() if name.startswith("first token")
        },
        ratios={name: round(ratio, 3) for name, ratio in ratios.items()},
    )


def ratios_to(peers: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Rows of Puna's server and of these peers, with one stream and with several."""
    return {
        f"puna serve to {peer}, {streams} streams": (
            f"puna serve, {streams} streams",
            f"{peer}, {streams} streams",
        )
        for peer in peers
        for streams in (1, STREAMS)
    }


RATIOS = {
    **{
        f"HTTP to the engine alone, {streams} streams": (
            f"puna serve, {streams} streams",
            f"engine alone, {streams} streams",
        )
        for streams in (1, STREAMS)
    },
    f"with {IDLE} idle connections to none": (
        f"puna serve, {STREAMS} streams beside {IDLE} idle",
        f"puna serve, {STREAMS} streams",
    ),
    f"first token beside {STREAMS} streams to alone": (
        f"first token beside {STREAMS} streams",
        "first token alone",
    ),
    **ratios_to(["transformers serve", "transformers serve batching"]),
}


def rows_of(
    stack: contextlib.ExitStack, options: argparse.Namespace
) -> dict[str, Callable[[], float]]:
    """What is measured, by name; the servers run until the stack ends."""
    folder, new = options.model.resolve(), options.new
    alone = load(folder, options=EngineConfig(prefix_caching=False))
    puna = stack.enter_context(puna_server(folder))
    servers = {"puna serve": puna}
    for file in options.gguf:
        servers[llama_name(file)] = stack.enter_context(llama_server(options.llama_server, file))
    if not options.without_peers:
        servers["transformers serve"] = stack.enter_context(transformers_server(folder))
        servers["transformers serve batching"] = stack.enter_context(
            transformers_server(folder, "--continuous-batching")
        )
    rows: dict[str, Callable[[], float]] = {}
    for streams in (1, STREAMS):
        rows[f"engine alone, {streams} streams"] = lambda streams=streams: in_process(
            alone, streams, new
        )
        for name, server in servers.items():
            rows[f"{name}, {streams} streams"] = lambda streams=streams, server=server: asyncio.run(
                over_http(server, streams, new)
            )
    rows[f"puna serve, {STREAMS} streams beside {IDLE} idle"] = lambda: asyncio.run(
        beside_idle(puna, new)
    )
    rows["first token alone"] = lambda: asyncio.run(first_token(puna, 0, new))
    rows[f"first token beside {STREAMS} streams"] = lambda: asyncio.run(
        first_token(puna, STREAMS, new)
    )
    return rows


@dataclass(frozen=True)
class Server:
    """A running server. exactly: the fields that ask for so many tokens, greedily and whatever the
    model says.
    """

    port: int
    model: str
    exactly: Callable[[int], dict[str, Any]]

    def request(self, prompt: str, new: int, **more: Any) -> bytes:
        """A stream, as the bytes of HTTP."""
        body = json.dumps(
            {"model": self.model, "prompt": prompt, "stream": True, **self.exactly(new), **more}
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\n{HEADERS}Content-Type:"
            f" application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@contextlib.contextmanager
def puna_server(folder: Path) -> Iterator[Server]:
    """`puna serve`, which waits for the second half of a request, and for readers, as long as the
    benchmark takes.
    """
    port = free_port()
    patience = [
        option
        for name in ("header_seconds", "request_seconds")
        for option in ("--limit", f"{name}=3600")
    ]
    flags = ["--name", "model", "--port", str(port), "--no-share", "--no-speculation", *patience]

    def exactly(new: int) -> dict[str, Any]:
        return {
            "max_tokens": new,
            "temperature": 0,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }

    with running([program("puna"), "serve", str(folder), *flags], port):
        yield Server(port, "model", exactly)


@contextlib.contextmanager
def transformers_server(folder: Path, *flags: str) -> Iterator[Server]:
    """`transformers serve`, of the same environment."""
    port = free_port()
    command = [
        program("transformers"),
        "serve",
        str(folder),
        "--port",
        str(port),
        "--device",
        "cpu",
        "--cb-num-blocks",
        "128",
        *flags,
    ]

    def exactly(new: int) -> dict[str, Any]:
        return {
            "generation_config": json.dumps(
                {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
            )
        }

    with running(command, port):
        yield Server(port, str(folder), exactly)


def llama_name(file: Path) -> str:
    """The name of llama.cpp's server with this file."""
    return f"llama-server {file.stem.rpartition('-')[2]}"


@contextlib.contextmanager
def llama_server(server: Path, file: Path) -> Iterator[Server]:
    """llama.cpp's, with a slot for each stream, nothing kept of a prompt, and no drafts."""
    port = free_port()
    threads = str(torch.get_num_threads())
    slots = ["-np", str(STREAMS), "-c", str(STREAMS * 1024), "-t", threads, "-tb", threads]
    command = [str(server), "-m", str(file), "--port", str(port), *slots, "--no-webui"]

    def exactly(new: int) -> dict[str, Any]:
        return {
            "max_tokens": new,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream_options": {"include_usage": True},
        }

    with running(command, port):
        yield Server(port, "model", exactly)


def program(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextlib.contextmanager
def running(command: Sequence[str], port: int) -> Iterator[None]:
    """A server, until /health says that it is well and while the block runs."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        while not asyncio.run(healthy(port)):
            assert process.poll() is None, f"{' '.join(command)} has ended"
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


async def healthy(port: int) -> bool:
    try:
        return b" 200 " in (await get(port, "/health"))[:20]
    except OSError:
        return False


async def get(port: int, path: str) -> bytes:
    return await ask(port, f"GET {path} HTTP/1.1\r\n{HEADERS}\r\n".encode())


async def ask(port: int, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def prompts(count: int) -> list[str]:
    """Texts of letters, no two alike."""
    rng = random.Random(count)
    return [
        "".join(rng.choices(string.ascii_lowercase + " ", k=PROMPT_CHARACTERS))
        for _ in range(count)
    ]


def in_process(model: LanguageModel, streams: int, new: int) -> float:
    """Tokens a second of all streams together, prompts included in the time."""
    options = GenerationOptions(max_tokens=new, temperature=0.0, ignore_end=True, speculate=False)
    start, generated = time.perf_counter(), 0
    for number, prompt in enumerate(prompts(streams)):
        model.engine.add(Request(str(number), tuple(model.encode_prompt(prompt)), options))
    while model.engine.busy:
        generated += sum(len(event.ids) for event in model.engine.step())
    return generated / (time.perf_counter() - start)


async def over_http(server: Server, streams: int, new: int) -> float:
    """The same of a server's streams."""
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(ask(server.port, server.request(prompt, new)) for prompt in prompts(streams))
    )
    return sum(map(generated_in, answers)) / (time.perf_counter() - start)


def generated_in(answer: bytes) -> int:
    """How many tokens a stream says that it had."""
    return int(re.findall(rb'"completion_tokens": ?(\d+)', answer)[-1])


async def beside_idle(server: Server, new: int) -> float:
    """Tokens a second of the busy streams beside idle connections, half of which wait for the
    server and half let it wait.
    """
    before, sequences = await generated_by(server), 8
    with contextlib.ExitStack() as stack:
        for number in range(IDLE):
            connection = stack.enter_context(contextlib.closing(narrow_connection(server.port)))
            request = server.request(prompts(1)[0], new, n=sequences, logprobs=20)
            connection.sendall(request if number % 2 else request[: len(request) // 2])
        # the engine has done with them
        while await generated_by(server) < before + IDLE // 2 * sequences * new:
            await asyncio.sleep(0.1)
        return await over_http(server, STREAMS, new)


async def generated_by(server: Server) -> float:
    """How many tokens the engine has generated so far."""
    return sum(
        map(
            float,
            re.findall(
                rb"\npuna_generated_tokens_total\{.*\} (\S+)", await get(server.port, "/metrics")
            ),
        )
    )


def narrow_connection(port: int) -> socket.socket:
    """One on whose way to us little fits, so that the server soon waits for its reader."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    # the server's buffer grows with it
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.connect(("127.0.0.1", port))
    return connection


async def first_token(server: Server, streams: int, new: int) -> float:
    """Median seconds from a request to its first token, asked again and again while so many streams
    go on.
    """
    busy = [
        asyncio.create_task(ask(server.port, server.request(prompt, new)))
        for prompt in prompts(streams)
    ]
    seconds = [await until_first_token(server, prompt) for prompt in prompts(PROBES)]
    assert not any(task.done() for task in busy), "the streams ended too soon: give more --new"
    await asyncio.gather(*busy)
    return statistics.median(seconds)


async def until_first_token(server: Server, prompt: str) -> float:
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(server.request(prompt, 1))
    await reader.readuntil(b"data: ")
    seconds = time.perf_counter() - start
    writer.close()
    return seconds


if __name__ == "__main__":
    main()
