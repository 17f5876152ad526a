"""Engine configuration: memory, bounds of a step and features. Plain values, without torch."""

from typing import Literal

from pydantic import Field

from puna.config import Config
from puna.native.library import Isa


class EngineConfig(Config):
    """Memory that an engine may use, bounds of its steps, and its features."""

    cache_bytes: int | None = Field(
        default=None,
        gt=0,
        description=(
            "for keys and values; left out: a context for each running sequence, at most a quarter"
            " of memory"
        ),
    )
    block_size: int = Field(
        default=16,
        gt=0,
        description="tokens a block of the cache: what memory is given out in, and shared",
    )
    max_step_tokens: int = Field(
        default=256,
        gt=0,
        description="tokens a step at most: fewer keep streams smoother, more read prompts faster",
    )
    max_running: int = Field(
        default=64, gt=0, description="sequences continued at once; others wait"
    )
    prefix_caching: bool = Field(
        default=True, description="compute a prefix that several prompts share once"
    )
    speculate: bool = Field(
        default=True, description="let requests draft tokens from their own text and verify them"
    )
    batch_invariant: bool = Field(
        default=False,
        description="equal bits whatever else is in the batch: each token by itself, so slower",
    )
    isa: Isa = Field(
        default="auto",
        description=(
            "on a CPU: a tier of the native core, or torch; auto takes the fastest that runs the"
            " model"
        ),
    )
    weights: Literal["auto", "float32", "bfloat16", "int8", "int4"] = Field(
        default="auto",
        description="format of the matrices in the native core; auto: as they are stored",
    )
    kv_cache_dtype: Literal["auto", "int8"] = Field(
        default="auto",
        description=(
            "format of keys and values; auto: that of the model's arithmetic; int8: about half of"
            " bfloat16's bytes, each head off by at most 1/254 of its largest entry"
        ),
    )
    threads: int | None = Field(
        default=None,
        gt=0,
        description=(
            "of the model's arithmetic; left out: one for each processor in the native core,"
            " PyTorch's own choice elsewhere"
        ),
    )
