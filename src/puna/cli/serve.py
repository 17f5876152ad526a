"""`puna serve`: model folders behind an HTTP API, and its options. The server itself is
puna/server.
"""

import json
import logging
import logging.handlers
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from puna.cli.inference_options import Isa, KVCacheDtype, Weights, say_passed_over
from puna.cli.model_specs import model_specs
from puna.errors import ConfigError

if TYPE_CHECKING:
    from puna.engine_process.client import EngineClient
    from puna.server.serve import Address

_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def serve(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Model folders: Puna's or any LLaMA in Hugging Face's layout.", show_default=False
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Any but this machine's own (127.0.0.1) wants a key."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one.", min=0, max=65535)] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="The name of a model in requests; one for each.",
            show_default="its folder's name, or its run's",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "NAME=FOLDER: a LoRA adapter in PEFT's format; MODEL:NAME=FOLDER with several"
                " models."
            ),
            show_default=False,
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "A key that callers must send as a bearer token; may be given several times. The"
                " environment keeps it from other users."
            ),
            envvar="PUNA_API_KEY",
            show_default=False,
        ),
    ] = None,
    allow_anyone_on_the_network: Annotated[
        bool,
        typer.Option(
            "--allow-anyone-on-the-network",
            help="Serve an address that others reach without any key.",
        ),
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Let pages of this origin, such as https://example.org, use the server (CORS).",
            show_default=False,
        ),
    ] = None,
    cache_memory: Annotated[
        str | None,
        typer.Option(
            help="For keys and values of each model, such as 512MB or 2GiB.",
            show_default="a context for each running sequence, at most a quarter of memory",
        ),
    ] = None,
    max_running: Annotated[
        int, typer.Option(help="Sequences computed at once, by each model.", min=1)
    ] = 64,
    max_step_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens a step: fewer keep streams smoother, more read prompts faster.", min=1
        ),
    ] = 256,
    queue: Annotated[
        int,
        typer.Option(help="Sequences that may wait; more are told to come again (429).", min=0),
    ] = 256,
    drain_seconds: Annotated[
        float, typer.Option(help="After SIGTERM or Ctrl-C, for what is in progress.", min=0)
    ] = 30.0,
    hang_seconds: Annotated[
        float, typer.Option(help="A step that takes longer fails /health.", min=2)
    ] = 8.0,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Of the model's arithmetic.", min=1, show_default="one fewer than there are cores"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the weights and the cache.", show_default="as in the file"),
    ] = None,
    isa: Isa = "auto",
    weights: Weights = "auto",
    kv_cache_dtype: KVCacheDtype = "auto",
    no_share: Annotated[
        bool,
        typer.Option("--no-share", help="No prefix caching: compute every prompt whole."),
    ] = False,
    no_speculation: Annotated[
        bool, typer.Option("--no-speculation", help="No speculative decoding (no draft tokens).")
    ] = False,
    batch_invariant: Annotated[
        bool,
        typer.Option("--batch-invariant", help="Equal bits whatever else is in the batch; slower."),
    ] = False,
    chat_template: Annotated[
        str | None,
        typer.Option(
            help="Layout of chats: own, llama3, chatml, alpaca, none, or a file in Jinja.",
            show_default="each model's own",
            metavar="NAME|FILE",
        ),
    ] = None,
    generation_config: Annotated[
        Literal["auto", "none"],
        typer.Option(
            help=(
                "auto: a model's generation_config.json gives the defaults of requests; none: it"
                " is not read."
            )
        ),
    ] = "auto",
    log: Annotated[
        str | None,
        typer.Option(
            help="A line for each request, to a file or to standard output (-): never prompts.",
            metavar="PATH|-",
            show_default="none",
        ),
    ] = None,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Of these lines.")] = "text",
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE for one of the limits, such as body_bytes=1000000.", show_default=False
        ),
    ] = None,
) -> None:
    """Serve models over HTTP, as OpenAI's API: /v1/chat/completions, /v1/responses,
    /v1/completions, /v1/embeddings, /v1/models; /health, /metrics.

    Examples:

        puna serve runs/quickstart/model

        puna serve models/llama models/chat --name base --name chat --port 8080 --cache-memory 2GiB

        PUNA_API_KEY=... puna serve runs/quickstart/model --host 0.0.0.0 --limit
            requests_per_minute=60

    Only this machine reaches the server unless --host says otherwise. SIGTERM and Ctrl-C let what
    is in progress end; a second one does not.
    """
    from puna.config import apply_overrides, validate
    from puna.inference.engine_config import EngineConfig
    from puna.server.http_limits import HttpLimits
    from puna.server.serve import ServerOptions
    from puna.server.serve import serve as run

    engine = validate(
        EngineConfig,
        {
            "cache_bytes": None if cache_memory is None else parse_bytes(cache_memory),
            "max_running": max_running,
            "max_step_tokens": max_step_tokens,
            "prefix_caching": not no_share,
            "speculate": not no_speculation,
            "batch_invariant": batch_invariant,
            "isa": isa,
            "weights": weights,
            "kv_cache_dtype": kv_cache_dtype,
        },
        "options of the engine",
    )
    options = ServerOptions(
        host=host,
        port=port,
        api_keys=tuple(api_key or ()),
        anyone=allow_anyone_on_the_network,
        allow_origins=tuple(allow_origin or ()),
        drain_seconds=drain_seconds,
        hang_seconds=hang_seconds,
        device=device,
        dtype=dtype,
        threads=threads or openmp_threads(os.environ),
        limits=validate(
            HttpLimits,
            apply_overrides(default_limits(host, api_key or ()) | {"queue": queue}, limit or []),
            "--limit",
        ),
        log=None if log is None else request_log(log),
        log_format=log_format,
    )
    code = run(
        model_specs(
            models,
            name or [],
            adapter or [],
            template=chat_template,
            generation_config=generation_config == "auto",
        ),
        engine,
        options,
        lambda address, client: _announce(address, client, bool(api_key), isa),
        lambda requests: _announce_drain(requests, drain_seconds),
    )
    if code:
        raise typer.Exit(code)


def default_limits(host: str, keys: Sequence[str]) -> dict[str, float]:
    """Limits of this server that differ from those of HttpLimits: where only this machine reaches
    it and no key tells callers apart, all are one, and have no rate. Raises ConfigError.
    """
    from puna.server.auth import reaches_only_here

    return {} if keys or not reaches_only_here(host) else {"requests_per_minute": 0}


def openmp_threads(environment: Mapping[str, str]) -> int | None:
    """Threads of a model's arithmetic where OMP_NUM_THREADS, a number or a list of which the first
    counts, says how many there may be; None where it says nothing.
    """
    from puna.engine_process.process import default_threads
    from puna.host import processors

    own = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return default_threads(int(own), processors()) if own.isdecimal() and int(own) else None


def request_log(target: str) -> logging.Logger:
    """A logger that adds lines to a file, also after something has moved it away, or to standard
    output for "-". Raises ConfigError.
    """
    try:
        handler = (
            logging.StreamHandler(sys.stdout)
            if target == "-"
            else logging.handlers.WatchedFileHandler(target, encoding="utf-8")
        )
    except OSError as error:
        raise ConfigError(
            f"--log {target}: {error.strerror}; give a file in a folder that exists, or -"
        ) from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.Logger("puna.requests", logging.INFO)
    log.addHandler(handler)
    return log


def parse_bytes(text: str) -> int:
    """Bytes from "512MB", "2GiB" or "1e9": KB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of
    1024. Raises ConfigError.
    """
    found = re.fullmatch(
        r"(\d+(?:\.\d*)?(?:e\d+)?)\s*((?:[kmgt]i?)?)b?", text.strip(), re.IGNORECASE
    )
    if found is None:
        raise ConfigError(f"{text!r} is no amount of memory: write it as 512MB or 2GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _announce(address: "Address", client: "EngineClient", needs_key: bool, isa: str) -> None:
    """A line for each model, others for its own layout and defaults, and a request to try."""
    from puna.inference.generation_defaults import FILE, described

    say_passed_over(isa, *(served.loaded.device for served in client.models.values()))
    for name, served in client.models.items():
        model = served.loaded
        adapters = "".join(f", adapter {name}:{adapter}" for adapter in model.adapters)
        typer.echo(
            f"serving {name} at {address}  ({model.device}, {model.dtype}; cache of"
            f" {model.cache_tokens:,} tokens{adapters})"
        )
        text = served.text
        if text.layout.is_foreign:
            typer.echo(f"  chats of {name}: {text.layout.name}")
        if text.tokenizer.loss is not None:
            typer.echo(f"  texts of {name}: {text.tokenizer.loss}")
        if text.defaults:
            typer.echo(f"  defaults of {name}: {described(text.defaults)}, from {FILE}")
    body = json.dumps({"model": next(iter(client.models)), "prompt": "The", "max_tokens": 20})
    key = " -H 'Authorization: Bearer KEY'" if needs_key else ""
    here = str(address).replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    typer.echo(
        f"try: curl {here}/v1/completions -H 'Content-Type: application/json'{key} -d"
        f" {shlex.quote(body)}"
    )


def _announce_drain(requests: int, seconds: float) -> None:
    """A word for the one who waits for the end."""
    are = "request is" if requests == 1 else "requests are"
    typer.echo(
        f"ending: {requests} {are} in progress and may take {seconds:g} seconds more; a second"
        " Ctrl-C or SIGTERM ends at once",
        err=True,
    )
