"""Rope scaling in a GGUF file, both ways: linear and YaRN as metadata, Llama 3's as a tensor of
divisors.

llama.cpp has no numbers for Llama 3's scaling: `rope_freqs.weight` [C/2] holds what each frequency
is divided by. The four numbers behind it are found again by what they would give, and refused where
they do not give the tensor back; a file written here has them besides. A scaling by NTK is one
larger base, and is written as that.

Source: llama.cpp's src/llama-model.cpp (keys) and its converter for Llama 3.1 (divisors).
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from puna.errors import ConfigError, ModelFolderError
from puna.formats.gguf_file import GGUFFile, Value
from puna.model.config import ModelConfig, RopeScaling
from puna.nn.rope import rope_frequencies
from puna.nn.rope_scaling import Llama3Scaling

DIVISORS = "rope_freqs.weight"
TOLD = "puna.rope_scaling"
"""Key of Llama 3's numbers as JSON, for Puna alone: small heads do not show them all."""
_CONTEXT = 8192  # of Llama 3's pretraining; other contexts are the same scaling by other factors
_PREFIX = "rope.scaling."
_YARN = ("attn_factor", "yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier")
"""Numbers that change YaRN's own; 1 is its paper's."""
_LLAMA3 = ("low_frequency_factor", "high_frequency_factor")
# two computations of a divisor in float32 differ by so much
_TOLERANCE = 2e-6


def read_scaling(file: GGUFFile, name: str, head_width: int) -> dict[str, Any] | None:
    """The values of `RopeScaling`, or None. Raises ModelFolderError for a scaling that Puna does
    not have.
    """
    if DIVISORS in file.tensors:
        return _read_divisors(file, name, head_width)
    # before there were types, the factor stood alone
    kind = file.number(
        f"{name}.{_PREFIX}type",
        str,
        "linear" if f"{name}.rope.scale_linear" in file.metadata else "none",
    )
    factor = file.number(
        f"{name}.{_PREFIX}factor", float, file.number(f"{name}.rope.scale_linear", float, 1.0)
    )
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"kind": "linear", "factor": factor}
    odd = [
        f"{key} = {value}"
        for key in _YARN
        if (value := file.metadata.get(f"{name}.{_PREFIX}{key}", 1.0)) != 1.0
    ]
    if kind != "yarn" or odd:
        raise ModelFolderError(
            f"{file.path} scales rotary positions by {kind[:60]!r}"
            f"{' with ' + ', '.join(odd) if odd else ''}; Puna reads linear, yarn and the divisors"
            f" of {DIVISORS}"
        )
    return {
        "kind": "yarn",
        "factor": factor,
        "original_context": file.number(f"{name}.{_PREFIX}original_context_length", int),
        "beta_fast": file.number(f"{name}.{_PREFIX}yarn_beta_fast", float, 32.0),
        "beta_slow": file.number(f"{name}.{_PREFIX}yarn_beta_slow", float, 1.0),
    }


def _read_divisors(file: GGUFFile, name: str, head_width: int) -> dict[str, Any] | None:
    tensor = file.tensors[DIVISORS]
    if tensor.type.name != "F32" or tensor.shape != (head_width // 2,) or head_width % 2:
        raise ModelFolderError(
            f"{file.path}: {DIVISORS} is {tensor.type.name} {list(tensor.shape)}, but must be F32"
            f" [{head_width} / 2]"
        )
    divisors = file.raw(tensor).reshape(-1).view("<f4").astype(np.float64)
    if bool((divisors == 1).all()):
        return None
    base = file.number(f"{name}.rope.freq_base", float, 10000.0)
    if bool(np.isfinite(divisors).all() and (divisors >= 1).all()) and base > 1:
        for guess in (*_told(file), *_guesses(divisors, head_width, base)):
            given = _divisors(guess, head_width, base)
            if np.allclose(given, divisors, rtol=_TOLERANCE, atol=0):
                return guess.model_dump(exclude_none=True)
    raise ModelFolderError(
        f"{file.path}: the divisors of {DIVISORS} are not those of Llama 3's scaling, the only one"
        " that Puna reads from there"
    )


def _told(file: GGUFFile) -> Iterator[RopeScaling]:
    """The scaling that a file written here names; it counts only if it gives the divisors."""
    text = file.metadata.get(TOLD)
    if isinstance(text, str):
        with suppress(ValueError, ConfigError):
            found = RopeScaling.model_validate_json(text)
            if found.kind == "llama3":
                yield found


def _divisors(scaling: RopeScaling, head_width: int, base: float) -> Any:
    """theta / theta' of each frequency, float64 [C/2]."""
    frequencies = rope_frequencies(head_width, base).double()
    assert scaling.original_context
    assert scaling.low_frequency_factor
    assert scaling.high_frequency_factor
    stretched = Llama3Scaling(
        scaling.factor,
        scaling.low_frequency_factor,
        scaling.high_frequency_factor,
        scaling.original_context,
    )(frequencies)
    return (frequencies / stretched).numpy()


def _guesses(divisors: Any, head_width: int, base: float) -> Iterator[RopeScaling]:
    """Scalings that may give these divisors: the published numbers, then those that the divisors
    between 1 and the factor lie on, told for the published context.

    With k = (1/f - 1/F) / (1 - 1/F) the share of a frequency that is kept, and n its turns in the
    original context, k = (n - low) / (high - low): a line through the points of the blend.
    """
    factor = float(f"{divisors.max():.6g}")

    def scaling(low: float, high: float) -> RopeScaling:
        return RopeScaling(
            kind="llama3",
            factor=factor,
            original_context=_CONTEXT,
            low_frequency_factor=float(f"{low:.5g}"),
            high_frequency_factor=float(f"{high:.5g}"),
        )

    yield scaling(1.0, 4.0)
    inside = (divisors > 1) & (divisors < divisors.max())
    if inside.sum() >= 2:
        kept = (1 / divisors[inside] - 1 / factor) / (1 - 1 / factor)
        turns = _CONTEXT * rope_frequencies(head_width, base).double().numpy()[inside] / math.tau
        apart = turns - turns.mean()
        with np.errstate(all="ignore"):
            slope = (apart * kept).sum() / (apart**2).sum()
            low, high = turns.mean() - kept.mean() / slope, turns.mean() + (1 - kept.mean()) / slope
        if 0 < low < high < np.inf:
            with suppress(ValueError):  # of numbers that rounding has made equal
                yield scaling(low, high)


def unwritable(scaling: RopeScaling | None) -> list[str]:
    """List what a GGUF file has no place for of a scaling, as `key = value`."""
    if scaling is None:
        return []
    kinds = {
        "ntk": ["factor"],
        "linear": ["factor"],
        "llama3": [*_LLAMA3, "factor", "original_context"],
        "yarn": ["factor", "original_context", "beta_fast", "beta_slow"],
    }
    values = scaling.model_dump(exclude_none=True)
    if scaling.kind not in kinds:
        return [f"rope_scaling.kind = {scaling.kind}"]
    written = ["kind", *kinds[scaling.kind]]
    plain = RopeScaling.model_validate({key: values[key] for key in written})
    return [
        f"rope_scaling.{key} = {value}"
        for key, value in values.items()
        if value != getattr(plain, key)
    ]


def scaling_metadata(config: ModelConfig) -> tuple[float, dict[str, Value]]:
    """The base to write, and the keys of the scaling after the architecture's name."""
    scaling, base = config.rope_scaling, config.rope_base
    if scaling is None:
        return base, {}
    if scaling.kind == "ntk":
        return base * scaling.factor ** (config.head_width / (config.head_width - 2)), {}
    if scaling.kind == "linear":
        return base, {f"{_PREFIX}type": "linear", f"{_PREFIX}factor": scaling.factor}
    if scaling.kind == "llama3":
        return base, {}
    assert scaling.original_context is not None
    assert scaling.beta_fast is not None
    assert scaling.beta_slow is not None
    return base, {
        f"{_PREFIX}original_context_length": scaling.original_context,
        f"{_PREFIX}type": "yarn",
        f"{_PREFIX}factor": scaling.factor,
        f"{_PREFIX}yarn_beta_fast": scaling.beta_fast,
        f"{_PREFIX}yarn_beta_slow": scaling.beta_slow,
    }


def divisors_of(config: ModelConfig) -> torch.Tensor | None:
    """`rope_freqs.weight` float32 [C/2] of a model with Llama 3's scaling, else None."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    found = _divisors(scaling, config.head_width, config.rope_base)
    return torch.from_numpy(found.astype(np.float32))
