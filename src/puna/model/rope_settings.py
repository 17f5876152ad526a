"""The rotary positions of a config.json, read and written: base, scaling, usable context.

transformers 4 and most published folders have `rope_theta` and `rope_scaling`, transformers 5 has
`rope_parameters` for both. Of a scaling that follows the length of the text at hand the form for
the context of pretraining is read. Source of all names and defaults: transformers 5.24,
modeling_rope_utils.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from puna.model.config import ModelConfig, RopeScaling
from puna.model.families import family_name

ORIGINAL = "original_max_position_embeddings"
# RopeScaling -> rope_scaling, kind by kind; `ntk` is absent because it is a larger rope_theta, and
# `listed` because it is one half of longrope
SCALINGS: Mapping[str, dict[str, str]] = MappingProxyType(
    {
        "llama3": {
            "factor": "factor",
            "low_frequency_factor": "low_freq_factor",
            "high_frequency_factor": "high_freq_factor",
            "original_context": ORIGINAL,
        },
        "linear": {"factor": "factor"},
        "yarn": {
            "factor": "factor",
            "original_context": ORIGINAL,
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "mscale": "attention_factor",
            "truncate": "truncate",
        },
    }
)
# those that are left out, or null, have their paper's values
OPTIONAL = ("beta_fast", "beta_slow", "attention_factor", "truncate")
KINDS = ("default", *SCALINGS, "dynamic", "longrope")


@dataclass(frozen=True)
class RopeSettings:
    """base: of the frequencies. scaling: the keys of `RopeScaling`. context: positions up to which
    this is the model. fraction: of a head's entries that are turned. unsupported: what would be
    misread; empty where all was read.
    """

    base: Any
    scaling: dict[str, Any] | None
    context: Any
    unsupported: tuple[str, ...] = ()
    fraction: Any = 1.0


def read_rope(values: Mapping[str, Any], context: Any, default_base: float) -> RopeSettings:
    """The rotary positions of a config.json. context: its max_position_embeddings; default_base:
    where no rope_theta is given.

    Raises KeyError for a number that the kind of scaling requires.
    """
    base = values.get("rope_theta", default_base)
    older, newer = (_object(values.get(key), base) for key in ("rope_scaling", "rope_parameters"))
    if older is None or newer is None:
        return RopeSettings(base, None, context, ("rope_scaling is no object of keys and values",))
    differing = older and newer and any(older.get(key) != newer[key] for key in newer)
    if differing:
        both = {key: values[key] for key in ("rope_scaling", "rope_parameters")}
        return RopeSettings(base, None, context, (_contradiction(both),))
    rope = older or newer or {"rope_type": "default", "rope_theta": base}
    kind = rope["rope_type"]
    phi3 = family_name(values) == "phi3"
    # Phi-3 calls its scaling by the names of its first two releases
    if phi3 and kind in ("su", "yarn"):
        kind = "longrope"
    fraction = rope.get("partial_rotary_factor", values.get("partial_rotary_factor")) or 1.0
    unsupported = _unsupported(rope, kind, 1.0 if phi3 else fraction)
    if unsupported:
        return RopeSettings(rope["rope_theta"], None, context, unsupported)
    # What stands beside counts over what stands inside
    original = values.get(ORIGINAL) or rope.get(ORIGINAL) or context
    scaling = None
    if kind in SCALINGS:
        scaling = {"kind": kind, **_known(SCALINGS[kind], _completed(rope, context, original))}
    elif kind == "longrope":
        scaling = {"kind": "listed", **_listed(rope, context, original)}
        context = min(context, original) if _are_numbers(context, original) else context
    # `dynamic` stretches only beyond max_position_embeddings, where a model here ends
    return RopeSettings(rope["rope_theta"], scaling, context, fraction=fraction)


def _object(rope: Any, base: Any) -> dict[str, Any] | None:
    """One of the two objects with its kind and base spelled out, and what is null left out; empty
    where there is none, None where it is no object.
    """
    if not rope:
        return {}
    if not isinstance(rope, dict):
        return None
    # `type` is the older spelling
    kind = rope.get("rope_type", rope.get("type", "default"))
    given = {key: value for key, value in rope.items() if value is not None and key != "type"}
    return {"rope_theta": base, **given, "rope_type": kind}


def _contradiction(both: Mapping[str, Any]) -> str:
    said = " beside ".join(f"{key} = {json.dumps(value)}" for key, value in both.items())
    return f"{said}, which says otherwise: remove the one that is wrong"


def _unsupported(rope: Mapping[str, Any], kind: Any, fraction: Any) -> tuple[str, ...]:
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    if nested:
        return (f"positions that differ between layers ({', '.join(nested)})",)
    if kind not in KINDS:
        known = ", ".join(repr(name) for name in KINDS[1:])
        return (f"rope scaling {kind!r} (only {known} is supported)",)
    if fraction != 1:
        return (f"partial_rotary_factor = {fraction!r} (only 1.0 is supported, but for phi3)",)
    return ()


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and value > 0 for value in values)


def _completed(rope: Mapping[str, Any], context: Any, original: Any) -> dict[str, Any]:
    """The object with what transformers derives for llama3 and yarn."""
    completed: dict[str, Any] = dict(rope)
    if _are_numbers(original):
        completed[ORIGINAL] = original
    if "factor" not in rope and _are_numbers(context, original):
        completed["factor"] = context / original
    numbers: list[Any] = [completed.get(key) for key in ("factor", "mscale", "mscale_all_dim")]
    if "attention_factor" not in rope and _are_numbers(*numbers):
        factor, *scales = numbers
        over, under = (0.1 * scale * math.log(max(factor, 1)) + 1 for scale in scales)
        completed["attention_factor"] = over / under
    return completed


def _known(names: Mapping[str, str], rope: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a scaling under our names."""
    return {
        ours: rope[theirs]
        for ours, theirs in names.items()
        if theirs not in OPTIONAL or rope.get(theirs) is not None
    }


def _listed(rope: Mapping[str, Any], context: Any, original: Any) -> dict[str, Any]:
    """LongRoPE's list for texts within the context of pretraining. Its factor on cos and sin is
    sqrt(1 + ln(s) / ln(original)), s the ratio of the two contexts (Ding et al. 2024).
    """
    mscale = rope.get("attention_factor")
    if mscale is None and _are_numbers(context, original) and original > 1:
        factor = rope.get("factor", context / original)
        grows = _are_numbers(factor) and factor > 1
        mscale = math.sqrt(1 + math.log(factor) / math.log(original)) if grows else 1.0
    return {"factors": rope["short_factor"], "mscale": mscale}


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The keys rope_theta and rope_scaling for this shape."""
    scaling, base = config.rope_scaling, config.rope_base
    # NTK scaling is one larger base, factor^(C/(C-2)) base, so it needs no kind of its own
    if scaling and scaling.kind == "ntk":
        base, scaling = base * scaling.factor ** (config.head_width / (config.head_width - 2)), None
    return {
        "rope_theta": base,
        "rope_scaling": scaling and _written(scaling, config.context_length),
    }


def _written(scaling: RopeScaling, context: int) -> dict[str, Any]:
    if scaling.kind == "listed":
        factors = list(scaling.factors or ())
        return {
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "factor": 1.0,
            "attention_factor": scaling.mscale,
            ORIGINAL: context,
        }
    written = {theirs: getattr(scaling, ours) for ours, theirs in SCALINGS[scaling.kind].items()}
    # A later key that is at its default was no part of what earlier releases wrote
    later = {"attention_factor": None, "truncate": True}
    return {
        "rope_type": scaling.kind,
        **{key: value for key, value in written.items() if key not in later or value != later[key]},
    }
