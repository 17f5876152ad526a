"""vLLM's Transformers modeling backend for models of type `puna`, and what it cannot run of them.

vLLM makes the model of `puna.auto_model`, puts its own linear layers and embeddings in the place of
those there, and computes attention in its paged cache. Imported by vLLM, where `register` told it.
"""

from collections.abc import Iterator
from typing import Any

from vllm.model_executor.models.transformers import TransformersForCausalLM

from puna.errors import ModelFolderError
from puna.model.config import ModelConfig
from puna.model.parts import BIASED


class PunaBackend(TransformersForCausalLM):
    """A model of type `puna` in vLLM. Raises ModelFolderError for what vLLM's backend would compute
    otherwise than Puna, with all reasons at once.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        parallel = vllm_config.parallel_config
        reasons = list(
            unsupported(
                vllm_config.model_config.hf_config.shape,
                tensor_parallel=parallel.tensor_parallel_size,
                pipeline_parallel=parallel.pipeline_parallel_size,
            )
        )
        if reasons:
            raise ModelFolderError(f"vLLM cannot run this model: {'; '.join(reasons)}")
        super().__init__(vllm_config=vllm_config, prefix=prefix)


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
