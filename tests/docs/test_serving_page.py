"""docs/serving.md and docs/security.md: their tables say what the code does, what runs of
docs/serving.md is run, and their claims without a test of their own have one here.
"""

import json
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import httpx
import pytest
import typer
from background_loop import BackgroundLoop
from live_server import live_server
from page_examples import Reader, examples, same_kind
from pages import codes_in, read_page

from puna.cli.main import app
from puna.cli.quickstart import quickstart_recipe
from puna.cli.serve import _announce, model_specs, parse_bytes
from puna.config import apply_overrides, validate
from puna.engine_process.client import EngineClient, Health
from puna.engine_process.messages import LoadedModel
from puna.inference.engine_config import EngineConfig
from puna.inference.request import Event
from puna.model.accounting import kv_bytes_per_token
from puna.model.config import ModelConfig
from puna.server.http_limits import HttpLimits
from puna.server.middleware.request_log import RequestRecord
from puna.server.serve import Address

PAGE = read_page("docs/serving.md")
COMMANDS = [
    line for block in PAGE.blocks("sh") for line in block.splitlines() if "puna serve" in line
]


@pytest.fixture(scope="module")
def reader(loop: BackgroundLoop, client: EngineClient) -> Iterator[Reader]:
    """One who reads the page beside a server that has answered something, and counted it."""
    with live_server(loop, client) as url:
        httpx.post(
            f"{url}/v1/completions",
            json={"model": "quickstart", "prompt": "a", "max_tokens": 3, "ignore_eos": True},
            timeout=60,
        )
        deadline = time.monotonic() + 20
        while b"puna_generated_tokens_total{" not in client.metrics.render():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield Reader(url)


def test_every_example_prints_what_the_page_shows(reader: Reader) -> None:
    shown = list(examples(PAGE))
    assert shown
    for example in shown:
        printed = reader.output(example)
        assert example.shown is not None, example.source
        assert same_kind(example.shown, printed), example.source


def test_the_server_announces_itself_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = LoadedModel("quickstart", 256, (), 16_384, "cpu", "float32")

    def announced(layout: Any, defaults: dict[str, Any], loss: str | None = None) -> str:
        tokenizer = SimpleNamespace(loss=loss)
        text = SimpleNamespace(layout=layout, defaults=defaults, tokenizer=tokenizer)
        models = {"quickstart": SimpleNamespace(loaded=loaded, text=text)}
        client: Any = SimpleNamespace(models=models)
        _announce(Address("127.0.0.1", 8000), client, needs_key=False, isa="auto")
        return capsys.readouterr().out

    plain = announced(SimpleNamespace(is_foreign=False), {})
    assert plain in PAGE.blocks("text")
    first, last = plain.splitlines()
    own = SimpleNamespace(is_foreign=True, name="the model's own chat template")
    loss = "this tokenizer loses text"
    assert announced(own, {"temperature": 0.6, "top_p": 0.9}, loss).splitlines() == [
        first,
        "  chats of quickstart: the model's own chat template",
        "  texts of quickstart: this tokenizer loses text",
        "  defaults of quickstart: temperature 0.6, top_p 0.9, from generation_config.json",
        last,
    ]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_fits_together(line: str) -> None:
    """Its options, its models with their adapters, its limits."""
    words = shlex.split(line)
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given = command.make_context("serve", words[words.index("serve") + 1 :]).params
    specs = model_specs(
        [Path(folder) for folder in given["models"]], given["name"] or [], given["adapter"] or []
    )
    assert {spec.name for spec in specs} <= {"quickstart", "llama", "chat"}
    validate(HttpLimits, apply_overrides({}, given["limit"] or []), "--limit")
    assert given["host"] == "127.0.0.1" or words[0].startswith("PUNA_API_KEY=")


def test_every_option_has_its_row() -> None:
    """With its default, in the order of --help."""
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {
        parameter.opts[0]: parameter
        for parameter in command.params
        if parameter.opts[0].startswith("--")
    }
    found = PAGE.section("Options").rows("option", "default")
    assert [codes_in(cells[0])[0] for cells in found] == [
        name for name in options if name != "--help"
    ]
    for first, default, _ in found:
        option = options[codes_in(first)[0]]
        if option.default is False:
            assert default == "off", first
        elif option.default is not None:
            assert type(option.default)(default) == option.default, first


def test_every_limit_has_its_row() -> None:
    found = PAGE.section("Limits").rows("key", "default")
    assert [codes_in(cells[0])[0] for cells in found] == list(HttpLimits.model_fields)
    for first, default, _ in found:
        assert (
            float(default.replace(",", "")) == HttpLimits.model_fields[codes_in(first)[0]].default
        ), first


def test_the_line_of_the_log_has_the_fields_of_the_log() -> None:
    line = PAGE.section("The log").block("text")
    assert list(json.loads(line)) == [field.name for field in fields(RequestRecord)]


def test_every_metric_has_its_row(reader: Reader) -> None:
    page = httpx.get(f"{reader.url}/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE))
    found = {
        codes_in(cells[0])[0]: cells[1] for cells in PAGE.section("Metrics").rows("name", "kind")
    }
    assert found == {name: kind for name, kind in kinds.items() if not name.endswith("_created")}
    assert set(re.findall(r"\bpuna_\w+", PAGE.section("Metrics").text)) == set(found)


def test_every_state_has_its_row() -> None:
    found = {
        codes_in(cells[1])[0]: cells[0]
        for cells in PAGE.section("Health").rows("status", "`status`")
    }
    assert found == {
        state: "200" if state == "ok" else "503"
        for state in get_args(get_type_hints(Health)["status"])
    }


def test_a_draining_server_says_so_as_shown(
    reader: Reader, client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_draining", True)
    shown = PAGE.section("The end").block("json")
    answer = httpx.get(f"{reader.url}/health")
    assert (answer.status_code, answer.json()) == (503, json.loads(shown))


def test_the_sizes_on_the_page(tmp_path: Path) -> None:
    quickstart = quickstart_recipe(tmp_path, {"sources": ["python-stdlib"]}, 100).model
    llama = ModelConfig(preset="llama-3-8b")
    token, tokens = kv_bytes_per_token(quickstart, 4), 64 * 256
    text = " ".join(PAGE.section("Memory").text.split())
    assert (
        f"L = {quickstart.num_layers}, K = {quickstart.num_kv_heads}, C = {quickstart.head_width}"
        f" and float32: {token:,} bytes" in text
    )
    assert f"64 x 256 = {tokens:,} tokens, {tokens * token / 1e6:.1f} MB" in text
    assert (EngineConfig().max_running, quickstart.context_length) == (64, 256)
    large = kv_bytes_per_token(llama, 2)
    assert (
        f"{large:,} bytes a token, so `--cache-memory 16GiB` holds"
        f" {parse_bytes('16GiB') // large:,} tokens" in text
    )
    small, short = (kv_bytes_per_token(each, int8_cache=True) for each in (quickstart, llama))
    assert f"takes {small:,} bytes, Llama 3 8B {short:,}, {short / large:.0%} of bfloat16's" in text


def test_the_proxy_allows_what_the_limits_allow() -> None:
    block = PAGE.block("nginx")
    assert f"proxy_read_timeout {HttpLimits().request_seconds:.0f}s;" in block
    assert f"client_max_body_size {HttpLimits().body_bytes >> 20}m;" in block


def test_the_service_runs_a_command_that_exists() -> None:
    lines = PAGE.block("ini").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line)
    program, *words = shlex.split(settings["ExecStart"])
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given = command.make_context("serve", words[1:]).params
    assert (program.rpartition("/")[2], words[0]) == ("puna", "serve")
    assert int(settings["TimeoutStopSec"]) > given["drain_seconds"] + 5


# What docs/security.md claims


def test_an_address_in_a_header_is_not_believed(loop: BackgroundLoop, client: EngineClient) -> None:
    """Else every request could come from another caller, and no limit would hold."""
    limits = HttpLimits(burst=1, requests_per_minute=1)
    with live_server(loop, client, limits) as url:
        statuses = [
            httpx.post(
                f"{url}/tokenize",
                json={"model": "quickstart", "prompt": "a"},
                headers={name: f"10.0.0.{number}"},
            ).status_code
            for number, name in enumerate(("x-forwarded-for", "x-real-ip", "forwarded"))
        ]
    assert statuses == [200, 429, 429]


def test_an_error_of_our_own_says_nothing_of_itself(
    loop: BackgroundLoop,
    client: EngineClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(*_: object) -> "Iterator[Event]":
        raise RuntimeError("secret path")
        yield

    monkeypatch.setattr(client, "generate", broken)
    with live_server(loop, client) as url:
        for stream in (False, True):
            answer = httpx.post(
                f"{url}/v1/completions",
                json={"model": "quickstart", "prompt": "a", "stream": stream},
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
            assert "secret" not in answer.text
    assert "secret path" in caplog.text, "the log has it"
