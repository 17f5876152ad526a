"""Messages between the API server and the engine process: commands one way, reports the other, one
line of JSON each.

Not here: the socket (client.py, process.py). No pickle: whatever is written into the socket,
reading it runs nothing. NaN and the infinities cross as Python's `json` spells them, which no other
reader has to understand.

Cost, measured on one core: a report of 64 new tokens takes 0.14 ms to write and 0.1 ms to read; one
of a single token 0.01 ms each.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pydantic import TypeAdapter

from puna.inference.engine_config import EngineConfig
from puna.inference.engine_stats import EngineStats
from puna.inference.request import Event, Request

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to serve. name: what requests call it. folder: where it lies. adapters: folders of
    LoRA adapters, by name. template: the layout of its chats, as `chat_layout` takes it.
    generation_config: take default options from its generation_config.json.
    """

    name: str
    folder: str
    adapters: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    generation_config: bool = True


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as the engine process has loaded it."""

    name: str
    context_length: int
    adapters: tuple[str, ...]
    cache_tokens: int
    """Tokens whose keys and values fit at once."""
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Load:
    """The first command: load these models. threads: of a model's arithmetic; None leaves a core to
    others (`default_threads` in process.py).
    """

    models: tuple[ModelSpec, ...]
    options: EngineConfig
    device: str = "auto"
    dtype: Dtype | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Add:
    """Generate for this request with this model."""

    model: str
    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a request, or one of its sequences. asked: the time of it by `time.monotonic`, whose zero
    all processes of a machine share.
    """

    model: str
    request: str
    asked: float
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """End the process, whatever is in progress."""


@dataclass(frozen=True, slots=True)
class Ready:
    """All models are loaded; commands are taken from now on."""

    models: tuple[LoadedModel, ...]


@dataclass(frozen=True, slots=True)
class Fatal:
    """The last report: the reason why the process ends on its own."""

    message: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The engine can never serve this request; no event of it follows."""

    request: str
    message: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step of one model: its time, its batch size, its events."""

    model: str
    seconds: float
    tokens: int
    """Tokens that were computed."""
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Sequences have left. steps: those of this model that began after the API server had asked,
    while the command was on its way.
    """

    model: str
    sequences: int
    steps: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters and gauges of an engine, as they are now."""

    model: str
    statistics: EngineStats


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life where there is nothing else to report."""


Command = Load | Add | Cancel | Close
Report = Ready | Fatal | Rejected | Stepped | Cancelled | Stats | Heartbeat

_CODECS: Mapping[str, TypeAdapter[Any]] = MappingProxyType(
    {
        kind.__name__: TypeAdapter(kind)
        for kind in (
            Load,
            Add,
            Cancel,
            Close,
            Ready,
            Fatal,
            Rejected,
            Stepped,
            Cancelled,
            Stats,
            Heartbeat,
        )
    }
)


def encode(message: Command | Report) -> bytes:
    """The message as one line, its end included. Default values are left out."""
    kind = type(message).__name__
    # not mode="json", which replaces a lone surrogate in a key
    values = _CODECS[kind].dump_python(message, exclude_defaults=True)
    line = json.dumps([kind, values], separators=(",", ":"), default=_plain)
    return line.encode("ascii") + b"\n"


def _plain(value: Any) -> Any:
    """A set or a mapping that is no dict, as a type that JSON has."""
    return dict(value) if isinstance(value, Mapping) else sorted(value)


def decode(line: bytes) -> Any:
    """The message in a line of `encode`. A line that is none is a bug of the other side: ValueError
    or KeyError.
    """
    kind, values = json.loads(line)
    # a key or a tuple of JSON is text or a list before it is what it was
    return _CODECS[kind].validate_python(values, strict=False)


class LineSplitter:
    """Cuts a stream of bytes into lines. Linear in what it is fed, however long a line is."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their ends."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._begun, lines[0]))
            self._begun = []
        self._begun.append(rest)
        return lines
