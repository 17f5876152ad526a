"""The bars: by how much Puna is to be faster, by tier of the processor, size of the model, work and
format of the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from puna.inference_benchmark.subject import Size
from puna.inference_benchmark.workload import FORMATS, Format

Beside = Literal["peers", "float32", "plain"]
"""The better of the peers, PyTorch's float32, or Puna itself without drafts."""


@dataclass(frozen=True)
class SpeedBar:
    """A least ratio. share: of the limit, at least. seconds: at most."""

    ratio: float
    beside: Beside = "peers"
    share: float | None = None
    seconds: float | None = None


_Bars = Mapping[tuple[Size, str, Format], SpeedBar]


def _of(size: Size, work: str, **formats: SpeedBar) -> dict[tuple[Size, str, Format], SpeedBar]:
    return {(size, work, weights): formats[weights] for weights in FORMATS if weights in formats}


_EVERYWHERE: _Bars = MappingProxyType(
    {
        **_of("1.1B", "decode", int8=SpeedBar(1.05, share=0.9), int4=SpeedBar(1.05, share=0.9)),
        **_of("1.1B", "decode", bf16=SpeedBar(1.0, share=0.9)),
        **_of("1.1B", "decode-4k", int8=SpeedBar(1.1), int4=SpeedBar(1.6)),
        **_of("1.1B", "decode-8k", int8=SpeedBar(1.1), int4=SpeedBar(1.6)),
        **_of("1.1B", "streams", int8=SpeedBar(2.0), int4=SpeedBar(2.0)),
        **_of("1.1B", "start", int4=SpeedBar(1.0, seconds=1.0)),
    }
)
_AVX2_PREFILL = {"int8": SpeedBar(1.05), "int4": SpeedBar(1.35), "bf16": SpeedBar(1.0, "float32")}
_AVX2: _Bars = MappingProxyType(
    {
        **_EVERYWHERE,
        **_of("15M", "decode", int8=SpeedBar(1.5), int4=SpeedBar(1.5), bf16=SpeedBar(1.2)),
        **_of("110M", "decode", int8=SpeedBar(1.25), int4=SpeedBar(1.25), bf16=SpeedBar(1.0)),
        **_of("110M", "prefill", **_AVX2_PREFILL),
        **_of("1.1B", "prefill", **_AVX2_PREFILL),
    }
)
_VNNI_PREFILL = {
    "int8": SpeedBar(1.3, share=0.7),
    "int4": SpeedBar(1.2, share=0.7),
    "bf16": SpeedBar(1.0),
}
_VNNI: _Bars = MappingProxyType(
    {
        **_EVERYWHERE,
        **_of("15M", "decode", int8=SpeedBar(1.2), int4=SpeedBar(1.2), bf16=SpeedBar(1.2)),
        **_of("110M", "decode", int8=SpeedBar(1.15), int4=SpeedBar(1.15), bf16=SpeedBar(1.0)),
        **_of("110M", "prefill", **_VNNI_PREFILL),
        **_of("1.1B", "prefill", **_VNNI_PREFILL),
    }
)
_BY_TIER: Mapping[str, _Bars] = MappingProxyType(
    {"avx2": _AVX2, "avx512": _VNNI, "avx512_bf16": _VNNI, "amx": _VNNI}
)
_LOOKUPS = MappingProxyType(
    {"lookup-repeating": SpeedBar(1.5, "plain"), "lookup-misleading": SpeedBar(0.97, "plain")}
)


def find_bar(tier: str, size: Size, work: str, weights: Format) -> SpeedBar | None:
    """The bar of a row; None where there is none, as on a tier that has none."""
    if tier not in _BY_TIER:
        return None
    return _LOOKUPS.get(work) or _BY_TIER[tier].get((size, work, weights))
