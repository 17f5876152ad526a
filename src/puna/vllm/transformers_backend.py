"""vLLM's Transformers modeling backend for models of type `puna`, and what it cannot run of them.

vLLM makes the model of `puna.auto_model`, puts its own linear layers and embeddings in the place of
those there, and computes attention in its paged cache. Imported by vLLM, where `register` told it.
"""

from typing import Any

from vllm.model_executor.models.transformers import TransformersForCausalLM

from puna.errors import ModelFolderError
from puna.vllm.backend_limits import unsupported


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
