"""The variants of the quickstart's search and the texts that it trains on. No program; search.py
and report.py import it.

A variant is a list of overrides, by name, of the recipe that the quickstart had before the search;
what is kept must still load as LlamaForCausalLM, so parts that a LLaMA lacks are none.
"""

import sysconfig
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from puna.cli.quickstart import quickstart_recipe
from puna.config import apply_overrides, overlay, validate
from puna.training.recipe import Recipe

DEFAULT = "default"  # the recipe before the search
KEPT = "together, rates x 1.4, batch 16 x 128"  # what the quickstart is since
HELD_OUT_TOKENS = 200_000  # that the end of a run is measured on

_HEADERS = Path(sysconfig.get_path("purelib")) / "torch" / "include"
CORPORA: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "python": ("python-stdlib",),
        # C++, 12 MB: in another language, and wherever torch is installed. Not ATen/ops, which is
        # generated and repeats itself
        "cpp": tuple(
            str(_HEADERS / folder) for folder in ("c10", "torch", "ATen/native", "ATen/cpu")
        ),
    }
)


def _shape(width: int, layers: int, heads: int, feed_forward: int) -> tuple[str, ...]:
    """Heads of `width / heads`, as many for keys and values."""
    return (
        f"model.width={width}",
        f"model.num_layers={layers}",
        f"model.num_heads={heads}",
        f"model.num_kv_heads={heads}",
        f"model.head_width={width // heads}",
        f"model.feed_forward_width={feed_forward}",
    )


def _wsd(share: float) -> tuple[str, ...]:
    return ("optimizer.schedule=wsd", f"optimizer.decay_share={share}")


def _rates(factor: float) -> tuple[str, ...]:
    """Both rates of the default times a factor."""
    return (
        f"optimizer.learning_rate={8e-3 * factor:.4g}",
        f"optimizer.muon_learning_rate={0.02 * factor:.4g}",
    )


def _quintic(name: str, iterations: int) -> tuple[str, ...]:
    return (
        f"optimizer.muon_coefficients={name}",
        f"optimizer.muon_iterations={iterations}",
    )


def _vocabulary(entries: int) -> tuple[str, ...]:
    return (f"tokenizer.vocab_size={entries}", f"model.vocab_size={entries}")


# what the default has in place of what was kept (puna/cli/quickstart.py)
_BEFORE = (
    "model.num_layers=4",
    *_vocabulary(2048),
    *_rates(1.0),
    *_quintic("jordan", 5),
    "optimizer.muon_momentum=0.95",
    "train.batch_size=8",
    "train.context_length=256",
)
_SMALLER = ("train.batch_size=4",)
_FINAL = "optimizer.final_factor=0.05"
_SHORTER = ("train.context_length=128",)
_SHORT = (*_SHORTER, "train.batch_size=16")
_LAYERS_2, _LAYERS_3 = ("model.num_layers=2",), ("model.num_layers=3",)
# what gained most by itself, besides a shape and a vocabulary
_TOGETHER = (*_quintic("jordan", 3), "optimizer.muon_momentum=0.9")
_GROWING = "together, rates x 1.4, batch 8 x 128, then 16 x 128"
_KEPT = (*_TOGETHER, *_LAYERS_3, *_vocabulary(4096), *_rates(1.4), *_SHORT)
VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        DEFAULT: (),
        # tokens a step, and sequences of other lengths
        "batch 4 x 256": _SMALLER,
        "batch 4 x 256, rates x 0.7": (*_SMALLER, *_rates(0.7)),
        "batch 4 x 256, momentum 0.9": (*_SMALLER, "optimizer.muon_momentum=0.9"),
        "batch 8 x 128": _SHORTER,
        "batch 16 x 128": _SHORT,
        "batch 16 x 256": ("train.batch_size=16",),
        "micro-batch 4": ("train.micro_batch_size=4",),
        # the schedule
        "wsd, last 35%, to 5%": (*_wsd(0.35), _FINAL),
        "wsd, last 50%, to 5%": (*_wsd(0.5), _FINAL),
        "wsd, last 65%, to 5%": (*_wsd(0.65), _FINAL),
        "wsd, last 65%, to 0": _wsd(0.65),
        "linear, to 5%": (_FINAL,),
        "cosine, to 0": ("optimizer.schedule=cosine",),
        "warm-up 1%": ("optimizer.warmup_ratio=0.01",),
        "warm-up 10%": ("optimizer.warmup_ratio=0.1",),
        # rates
        "rates x 0.5": _rates(0.5),
        "rates x 0.7": _rates(0.7),
        "rates x 1.4": _rates(1.4),
        "rates x 2": _rates(2.0),
        "muon rate x 0.7": ("optimizer.muon_learning_rate=0.014",),
        "muon rate x 1.4": ("optimizer.muon_learning_rate=0.028",),
        "embedding rate x 0.5": ("optimizer.embedding_learning_rate=4e-3",),
        "embedding rate x 2": ("optimizer.embedding_learning_rate=1.6e-2",),
        "vector rate x 0.25": ("optimizer.vector_learning_rate=2e-3",),
        "vector rate x 4": ("optimizer.vector_learning_rate=3.2e-2",),
        "own head": ("model.tie_embeddings=false",),
        "own head, its rate x 0.25": (
            "model.tie_embeddings=false",
            "optimizer.head_learning_rate=2e-3",
        ),
        "own head, embedding rate x 4": (
            "model.tie_embeddings=false",
            "optimizer.embedding_learning_rate=3.2e-2",
        ),
        # the start
        "projections at 0": ("model.zero_residual_init=true",),
        "fan-in": ("model.init=fan_in",),
        "fan-in, projections at 0": ("model.init=fan_in", "model.zero_residual_init=true"),
        "fan-in, embeddings 0.02": ("model.init=fan_in", "model.embedding_std=0.02"),
        # the optimizer
        "momentum 0.85": ("optimizer.muon_momentum=0.85",),
        "momentum 0.9": ("optimizer.muon_momentum=0.9",),
        "momentum 0.97": ("optimizer.muon_momentum=0.97",),
        "decay 0": ("optimizer.weight_decay=0",),
        "decay 0.5": ("optimizer.weight_decay=0.5",),
        "cautious decay 0.1": ("optimizer.cautious_decay=true",),
        "cautious decay 0.5": ("optimizer.cautious_decay=true", "optimizer.weight_decay=0.5"),
        "jordan x 3": _quintic("jordan", 3),
        "jordan x 4": _quintic("jordan", 4),
        "polar express x 3": _quintic("polar_express", 3),
        "polar express x 4": _quintic("polar_express", 4),
        "polar express x 5": _quintic("polar_express", 5),
        "betas 0.8, 0.95": ("optimizer.betas=[0.8, 0.95]",),
        "betas 0.9, 0.99": ("optimizer.betas=[0.9, 0.99]",),
        "clip at 10": ("optimizer.clip_norm=10",),
        # width against depth, and what a LLaMA may have besides
        "192 x 2": _LAYERS_2,
        "192 x 3": _LAYERS_3,
        "192 x 6": ("model.num_layers=6",),
        "256 x 2": _shape(256, 2, 4, 704),
        "256 x 3": _shape(256, 3, 4, 704),
        "256 x 4": _shape(256, 4, 4, 704),
        "128 x 6": _shape(128, 6, 2, 352),
        "heads of 32": ("model.num_heads=6", "model.num_kv_heads=6", "model.head_width=32"),
        "one key/value head": ("model.num_kv_heads=1",),
        "feed-forward 768": ("model.feed_forward_width=768",),
        "RoPE base 1,000": ("model.rope_base=1000",),
        # entries
        "vocabulary 1,024": _vocabulary(1024),
        "vocabulary 3,072": _vocabulary(3072),
        "vocabulary 4,096": _vocabulary(4096),
        # several at once
        "together": (*_TOGETHER, *_LAYERS_3, *_vocabulary(4096)),
        "together, 192 x 2": (*_TOGETHER, *_LAYERS_2, *_vocabulary(4096)),
        "together, 256 x 2": (*_TOGETHER, *_shape(256, 2, 4, 704), *_vocabulary(4096)),
        "together, vocabulary 6,144": (*_TOGETHER, *_LAYERS_3, *_vocabulary(6144)),
        "together, batch 16 x 128": (*_TOGETHER, *_LAYERS_3, *_vocabulary(4096), *_SHORT),
        "together, rates x 1.4": (*_TOGETHER, *_LAYERS_3, *_vocabulary(4096), *_rates(1.4)),
        KEPT: _KEPT,
        f"{KEPT}, embedding rate x 2": (*_KEPT, "optimizer.embedding_learning_rate=2.24e-2"),
        f"{KEPT}, then 8 x 256": _KEPT,
        _GROWING: (*_TOGETHER, *_LAYERS_3, *_vocabulary(4096), *_rates(1.4), *_SHORTER),
        "together, 192 x 4, rates x 1.4, batch 16 x 128": (
            *_TOGETHER,
            *_vocabulary(4096),
            *_rates(1.4),
            *_SHORT,
        ),
        "together, 192 x 2, rates x 1.4": (
            *_TOGETHER,
            *_LAYERS_2,
            *_vocabulary(4096),
            *_rates(1.4),
        ),
        "together, 192 x 2, rates x 1.4, batch 16 x 128": (
            *_TOGETHER,
            *_LAYERS_2,
            *_vocabulary(4096),
            *_rates(1.4),
            *_SHORT,
        ),
        "together, 256 x 3, rates x 1.4, batch 16 x 128": (
            *_TOGETHER,
            *_shape(256, 3, 4, 704),
            *_vocabulary(4096),
            *_rates(1.4),
            *_SHORT,
        ),
    }
)

LATER: Mapping[str, tuple[float, tuple[str, ...]]] = MappingProxyType(
    {
        f"{KEPT}, then 8 x 256": (0.7, ("train.batch_size=8", "train.context_length=256")),
        _GROWING: (0.5, ("train.batch_size=16",)),
    }
)
"""Variants that change on the way: the share of the steps after which they do, and to what."""


def variant_recipe(
    name: str, *, corpus: str, seed: int, steps: int, folder: Path, later: bool = False
) -> Recipe:
    """The default with the variant's overrides, for a run of `steps` that measures its end alone;
    with `later` that of its last steps (`LATER`). Tokenizer and shards are those of the corpus and
    the vocabulary below `folder`.

    Raises ConfigError for overrides that are no recipe, and ValueError for one that the variant's
    other choices ignore.
    """
    source: dict[str, Any] = {"sources": list(CORPORA[corpus])}
    default = quickstart_recipe(folder / "run", source, steps)
    overrides = (*VARIANTS[name], *(LATER[name][1] if later else ()))
    overridden = apply_overrides(default.model_dump(), [*_BEFORE, *overrides])
    recipe = validate(Recipe, overridden, origin=name)
    chosen = LATER[name][1] if later else overrides
    if idle := [each for each in chosen if not _in_effect(each, recipe)]:
        raise ValueError(
            f"the variant {name!r} sets {', '.join(idle)}, which its other choices ignore: leave"
            " that out"
        )
    data = folder / corpus / str(recipe.tokenizer.vocab_size)
    part = recipe.data.mixture[0].model_dump() | {"path": str(data / "data")}
    own = {
        "seed": seed,
        "tokenizer": {"path": str(data / "tokenizer")},
        "data": {"mixture": [part]},
        "train": {
            "log_every": max(1, steps // 50),
            "validate_every": steps,
            "checkpoint_every": steps,
            "validation_tokens": HELD_OUT_TOKENS,
        },
    }
    return validate(Recipe, overlay(recipe.model_dump(), own), origin=name)


def _in_effect(override: str, recipe: Recipe) -> bool:
    path = override.partition("=")[0].split(".")
    asked = reduce(getitem, path, apply_overrides({}, [override]))
    found = reduce(getattr, path, cast(Any, recipe))
    return bool(found == (tuple(asked) if isinstance(asked, list) else asked))
