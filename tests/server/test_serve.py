"""`puna serve` as a process: it starts, serves, drains, dies with its engine, and rejects what
would expose it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from puna.cli.main import main
from puna.cli.model_specs import model_specs
from puna.cli.serve import default_limits, openmp_threads, parse_bytes, request_log
from puna.engine_process.messages import ModelSpec
from puna.engine_process.process import default_threads
from puna.errors import ConfigError

PROGRAM = (sys.executable, "-c", "from puna.cli.main import main; main()", "serve")
NOTICE = (
    r"ending: (1 request is|\d requests are) in progress and may take 30 seconds more; a second"
    r" Ctrl-C or SIGTERM ends at once\n"
)
LONG = {
    "model": "tiny",
    "prompt": "the llama",
    "max_tokens": 80,
    "ignore_eos": True,
    "stream": True,
}

# PyTorch's executor is slow enough for a signal to meet an answer midway
SLOW = ("--isa", "torch")


class Served:
    """A running `puna serve`."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [
            *PROGRAM,
            *arguments,
            "--port",
            str(self.port),
            "--device",
            "cpu",
            "--threads",
            "1",
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.url = f"http://127.0.0.1:{self.port}"

    def announced(self) -> str:
        """The two lines that it prints once it serves."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() + self.process.stdout.readline()

    @property
    def engine(self) -> psutil.Process:
        """The process of the engine."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def health(self) -> tuple[int, str]:
        answer = httpx.get(f"{self.url}/health", timeout=20)
        return answer.status_code, answer.json()["status"]

    def wait(self) -> tuple[int, str]:
        """Exit code and standard error."""
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors

    @contextmanager
    def stream(self) -> Iterator["Stream"]:
        """A long answer being read, of which something has come."""
        with Stream(self.url) as stream:
            yield stream


class Stream:
    """Reads a streamed completion from the side."""

    def __init__(self, url: str) -> None:
        self._url, self.lines, self.error = url, list[str](), ""
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        try:
            with httpx.stream(
                "POST", f"{self._url}/v1/completions", json=LONG, timeout=60
            ) as answer:
                for line in answer.iter_lines():
                    if line and not line.startswith(":"):
                        self.lines.append(line.removeprefix("data: "))
                        self._begun.set()
        except httpx.HTTPError as error:
            self.error = type(error).__name__

    def __enter__(self) -> "Stream":
        self._thread.start()
        assert self._begun.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start `puna serve` with these arguments; nothing of it is left when the test ends."""
    started: list[Served] = []

    def begin(*arguments: object, **environment: str) -> Served:
        started.append(Served(*map(str, arguments), **environment))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture
def model(tiny_run: Path, tmp_path: Path) -> Path:
    """The tiny model in a folder of that name."""
    (tmp_path / "tiny").symlink_to(tiny_run / "model")
    return tmp_path / "tiny"


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.02)


def text_of(lines: list[str]) -> str:
    return "".join(
        choice["text"]
        for line in lines
        if line != "[DONE]"
        for choice in json.loads(line)["choices"]
    )


def listening(served: Served) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", served.port)) == 0


def test_it_loads_serves_and_drains(serve: Callable[..., Served], model: Path) -> None:
    """From the first connection to the last: the stream that runs when the signal comes ends as if
    nothing had happened.

    The engine is stopped meanwhile, so that the stream is there for as long as the test looks.
    """
    served = serve(model, *SLOW)
    wait_until(lambda: listening(served))
    assert served.health() == (503, "loading")
    rejected = httpx.post(f"{served.url}/v1/completions", json=LONG)
    assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "loading")

    announced = served.announced()
    assert f"serving tiny at {served.url}  (cpu, float32; cache of 6,144 tokens)" in announced
    assert served.health() == (200, "ok")
    curl = announced.splitlines()[1].removeprefix("try: ")
    assert json.loads(subprocess.run(curl, shell=True, capture_output=True, check=True).stdout)[
        "choices"
    ]
    whole = httpx.post(
        f"{served.url}/v1/completions", json=LONG | {"stream": False, "temperature": 0}
    ).json()["choices"][0]

    with served.stream() as stream:
        served.engine.send_signal(signal.SIGSTOP)
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: served.health() == (503, "draining"))
        rejected = httpx.post(f"{served.url}/v1/completions", json=LONG)
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "draining")
        assert "[DONE]" not in stream.lines
        engine = served.engine
        engine.send_signal(signal.SIGCONT)
        stream.end()
        assert (stream.lines[-1], stream.error) == ("[DONE]", "")
        assert (
            json.loads(stream.lines[-2])["choices"][0]["finish_reason"]
            == whole["finish_reason"]
            == "length"
        )
    code, errors = served.wait()
    assert code == 0
    assert re.fullmatch(NOTICE, errors), errors
    assert not engine.is_running()


def test_a_second_signal_ends_at_once(serve: Callable[..., Served], model: Path) -> None:
    served = serve(model, *SLOW)
    served.announced()
    with served.stream() as stream:
        engine = served.engine
        engine.send_signal(signal.SIGSTOP)  # it will not go by itself
        served.process.send_signal(signal.SIGINT)
        wait_until(lambda: served.health() == (503, "draining"))
        begun = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        code, errors = served.wait()
        assert code == 128 + signal.SIGTERM
        assert re.fullmatch(NOTICE, errors), errors
        assert time.monotonic() - begun < 15  # of 30 that it would wait
        assert stream.lines[-1] != "[DONE]"
    assert not engine.is_running()


def test_draining_has_an_end(serve: Callable[..., Served], model: Path) -> None:
    served = serve(model, *SLOW, "--drain-seconds", "0.3")
    served.announced()
    with served.stream():
        served.engine.send_signal(signal.SIGSTOP)
        served.process.send_signal(signal.SIGTERM)
        assert served.wait()[0] == 0


def test_it_ends_with_its_engine_and_says_why(serve: Callable[..., Served], model: Path) -> None:
    served = serve(model, *SLOW)
    served.announced()
    with served.stream() as stream:
        served.engine.send_signal(signal.SIGSTOP)
        served.engine.kill()
        stream.end()
        assert "SIGKILL" in json.loads(stream.lines[-1])["error"]["message"]
    code, errors = served.wait()
    assert code == 1
    assert (
        errors == "error: the engine process was killed by SIGKILL; the server's log may say why\n"
    )


def test_a_signal_while_the_models_load_ends_it(serve: Callable[..., Served], model: Path) -> None:
    served = serve(model)
    wait_until(lambda: listening(served))
    assert served.health() == (503, "loading")
    served.process.send_signal(signal.SIGTERM)
    assert served.wait() == (0, "")


def test_a_key_guards_an_address_that_others_reach(
    serve: Callable[..., Served], model: Path
) -> None:
    served = serve(model, "--host", "0.0.0.0", PUNA_API_KEY="secret")
    assert "-H 'Authorization: Bearer KEY'" in served.announced()
    assert served.health() == (200, "ok")
    ask: dict[str, Any] = {"url": f"{served.url}/v1/models"}
    assert httpx.get(**ask).status_code == 401
    assert httpx.get(**ask, headers={"authorization": "Bearer wrong"}).status_code == 401
    # any name will do where a key is asked for
    right = {"authorization": "Bearer secret", "host": "llama.example"}
    assert httpx.get(**ask, headers=right).json()["data"][0]["id"] == "tiny"


@pytest.fixture
def rejected(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The message of a `puna serve` that does not even start, in this process."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["puna", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        return str(exited.value.code)

    return run


def test_what_would_expose_the_models_is_rejected(
    rejected: Callable[..., str], model: Path
) -> None:
    message = rejected(model, "--host", "0.0.0.0")
    assert message.startswith("error: --host 0.0.0.0 lets the network in")
    assert "--allow-anyone-on-the-network" in message


@pytest.mark.parametrize(
    ("host", "keys", "limits"),
    [
        ("127.0.0.1", (), {"requests_per_minute": 0}),
        ("localhost", (), {"requests_per_minute": 0}),
        ("127.0.0.1", ("key",), {}),
        ("0.0.0.0", (), {}),
        ("0.0.0.0", ("key",), {}),
    ],
)
def test_callers_have_no_rate_where_they_are_one(
    host: str, keys: tuple[str, ...], limits: dict[str, float]
) -> None:
    """On one's own machine, an evaluation sends thousands of short requests."""
    assert default_limits(host, keys) == limits


@pytest.mark.parametrize(
    ("own", "cores", "threads"), [(1, 1, 1), (2, 2, 1), (8, 8, 7), (8, 16, 8), (3, 8, 3)]
)
def test_one_core_is_left_to_others(own: int, cores: int, threads: int) -> None:
    """Also of 8 cores with two threads each, and where OMP_NUM_THREADS says less."""
    assert default_threads(own, cores) == threads


@pytest.mark.parametrize(
    ("value", "threads"),
    [("3", 3), ("8", 7), ("1", 1), ("2,4", 2), ("0", None), ("", None), ("many", None)],
)
def test_the_threads_of_openmp_count(
    value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight cores, one of which stays free."""
    monkeypatch.setattr("puna.host.processors", lambda: 8)
    assert openmp_threads({"OMP_NUM_THREADS": value}) == threads
    assert openmp_threads({}) is None


def test_a_request_log_is_a_file_or_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "requests.log"
    log = request_log(str(file))
    log.info("one")
    file.rename(tmp_path / "rotated")
    log.info("two")
    assert file.read_text() == "two\n"
    assert (tmp_path / "rotated").read_text() == "one\n"
    for handler in log.handlers:
        handler.close()
    request_log("-").info("three")
    assert capsys.readouterr().out == "three\n"


def test_a_taken_port_is_one_line(rejected: Callable[..., str], model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = rejected(model, "--port", taken.getsockname()[1])
    assert "cannot listen on 127.0.0.1" in message
    assert "Address already in use" in message


def test_what_cannot_be_loaded_is_one_line(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve(tmp_path)
    assert served.wait() == (1, f"error: {tmp_path} is no model folder: it has no config.json\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "body_byte=5"], "did you mean body_bytes?"),
        (["--limit", "queue=many"], "queue = 'many'"),
        (["--limit", "queue"], "is not of the form"),
        (["--cache-memory", "a lot"], "'a lot' is no amount of memory"),
        (["--cache-memory", "0MB"], "cache_bytes = 0"),
        (["--name", "a", "--name", "b"], "1 models but 2 times --name"),
        (["--name", "a:b"], "cannot be called 'a:b'"),
        (["--adapter", "b"], "not of the form NAME=FOLDER"),
        (["--adapter", "c:b=d"], "'c', which is not served here: tiny"),
        (["--api-key", ""], "API key is empty"),
        (["--log", "/no/such/folder/log"], "--log /no/such/folder/log: No such file or directory"),
        (["--limit", "requests_per_minute=-1"], "requests_per_minute = -1"),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: list[str], message: str, rejected: Callable[..., str], model: Path
) -> None:
    said = rejected(model, *arguments)
    assert said.startswith("error: ")
    assert message in said


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512 * 10**6),
        ("2GiB", 2 << 30),
        ("1.5 gb", 15 * 10**8),
        ("1e9", 10**9),
        ("4096", 4096),
        ("64k", 64_000),
        ("1TiB", 1 << 40),
    ],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "5 apples", "1,000", "0x10", "1e"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ConfigError, match="no amount of memory"):
        parse_bytes(text)


def test_models_are_called_by_their_folders_or_as_told() -> None:
    one, two = Path("models/one"), Path("models/two/")
    assert model_specs([one, two], [], []) == [
        ModelSpec("one", "models/one"),
        ModelSpec("two", "models/two"),
    ]
    assert model_specs([Path("runs/quickstart/model")], [], [])[0].name == "quickstart"
    assert model_specs([Path("models/two/../one")], [], [])[0].name == "one"
    assert [spec.name for spec in model_specs([one, two], ["a", "b"], [])] == ["a", "b"]
    assert model_specs([one], [], [], template="chatml", generation_config=False) == [
        ModelSpec("one", "models/one", {}, "chatml", False)
    ]
    assert model_specs([Path("runs/quickstart/model")], [], [])[0].name == "quickstart"
    with pytest.raises(ConfigError, match="two models are called 'one'"):
        model_specs([one, Path("elsewhere/one")], [], [])


def test_adapters_belong_to_a_model() -> None:
    one, two = Path("models/one"), Path("models/two")
    assert model_specs([one], [], ["x=a/x", "y=a/y"])[0].adapters == {"x": "a/x", "y": "a/y"}
    assert [spec.adapters for spec in model_specs([one, two], [], ["two:x=a", "one:y=b"])] == [
        {"y": "b"},
        {"x": "a"},
    ]
    with pytest.raises(ConfigError, match="MODEL:NAME=FOLDER"):
        model_specs([one, two], [], ["x=a"])
    with pytest.raises(ConfigError, match="two adapters of one are called 'x'"):
        model_specs([one], [], ["x=a", "x=b"])
