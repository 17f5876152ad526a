"""The limits of vLLM's Transformers modeling backend for models of type `puna`; without vLLM."""

from collections.abc import Iterator

from puna.model.config import ModelConfig
from puna.model.parts import BIASED


def unsupported(
    shape: ModelConfig, *, tensor_parallel: int, pipeline_parallel: int
) -> Iterator[str]:
    """The reasons for which vLLM cannot run a model of this shape over so many GPUs, each with its
    remedy.
    """
    if shape.position in BIASED:
        yield (
            f"position {shape.position} adds a bias to scores, and the backend hands none to vLLM's"
            " attention: use puna serve"
        )
    if pipeline_parallel > 1:
        yield (
            f"pipeline_parallel_size {pipeline_parallel} splits the layers, and a model of type"
            " puna takes ids, not the states of another stage: set it to 1"
        )
    if tensor_parallel > 1 and shape.num_kv_heads % tensor_parallel:
        yield (
            f"tensor_parallel_size {tensor_parallel} does not divide num_kv_heads"
            f" {shape.num_kv_heads}: choose a divisor of it"
        )
    if tensor_parallel > 1 and shape.qk_norm_over == "width":
        yield (
            f"tensor_parallel_size {tensor_parallel} splits the heads, over all of which"
            " qk_norm_over width normalises: set it to 1"
        )
