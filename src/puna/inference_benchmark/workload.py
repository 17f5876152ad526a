"""The works that are measured, and the formats of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from puna.errors import ConfigError

Format = Literal["bf16", "int8", "int4"]
FORMATS: tuple[Format, ...] = get_args(Format)

BITS: Mapping[Format, float] = MappingProxyType({"bf16": 16, "int8": 8, "int4": 4.25})
"""Bits of a weight in Puna's formats: int4 with an fp16 scale for each 64 of them; scales of whole
rows are left out.
"""

Kind = Literal["prefill", "decode", "lookup", "start"]


@dataclass(frozen=True)
class Workload:
    """One thing to measure. tokens: computed in the measured time, of each stream. context: tokens
    before them. repeats: the text of a lookup repeats itself.
    """

    name: str
    kind: Kind
    tokens: int
    context: int = 0
    streams: int = 1
    repeats: bool = False

    @property
    def positions(self) -> int:
        """Positions that one stream needs."""
        return self.context + self.tokens

    @property
    def measured_tokens(self) -> int:
        """Tokens of all streams in the measured time: a generation's first one is not."""
        return self.streams * self.tokens - (self.kind == "lookup")

    @property
    def unit(self) -> str:
        """Of a measured figure: a rate, of all streams together, or a time."""
        return "s" if self.kind == "start" else "tokens/s"

    def request(self, **more: Any) -> dict[str, Any]:
        """The work as a process that measures is asked for it."""
        return asdict(self) | more


WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        work.name: work
        for work in (
            Workload("prefill", "prefill", 512),
            Workload("decode", "decode", 64),
            Workload("decode-4k", "decode", 64, context=4096),
            Workload("decode-8k", "decode", 64, context=8192),
            Workload("streams", "decode", 64, context=32, streams=8),
            Workload("lookup-repeating", "lookup", 128, context=64, repeats=True),
            Workload("lookup-misleading", "lookup", 128, context=64),
            Workload("start", "start", 1, context=8),
        )
    }
)


def chosen_workloads(names: Sequence[str]) -> tuple[Workload, ...]:
    """These works, or all where none is named. Raises ConfigError for a name that is none."""
    for name in names:
        if name not in WORKLOADS:
            raise ConfigError(f"there is no work {name!r}: choose of {', '.join(WORKLOADS)}")
    return tuple(work for name, work in WORKLOADS.items() if not names or name in names)


def chosen_formats(names: Sequence[str]) -> tuple[Format, ...]:
    """These formats. Raises ConfigError for a name that is none, and for none at all."""
    for name in names or [""]:
        if name not in FORMATS:
            raise ConfigError(f"there is no format {name!r}: choose of {', '.join(FORMATS)}")
    return tuple(known for known in FORMATS if known in names)
