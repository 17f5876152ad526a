"""The executor on the native core: whole steps in one call, without torch.

TorchExecutor (torch_executor.py) is its twin, and what runs a model that the core has no kernels
for.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from puna.errors import NativeError
from puna.formats.model_path import find_model, open_weights
from puna.inference.engine_config import EngineConfig
from puna.inference.executor import ScheduledChunk, StepOutput
from puna.inference.native_choice import native_model
from puna.inference.native_weights import WeightFormat, random_parts, shape_by
from puna.model.config import ModelConfig
from puna.native.library import Library, load
from puna.native.model_runner import Chunk, ModelRunner
from puna.native.packed_adapter import PackedAdapter
from puna.native.packed_model import PackedModel


class NativeExecutor:
    """An `Executor` that runs a packed model on a CPU.

    Its logits are numpy arrays. A row of them is the same to the last bit whatever else the step
    computes, wherever a prompt is cut, and on any number of threads.

    vocab_size: the ids that have a text, which may be fewer than the model has rows for.
    int8_cache: keys and values in int8, with a scale for each token and head. adapters: by the
    names that chunks choose them by; the rows of a chunk without one have the bits that they have
    without any.
    """

    def __init__(
        self,
        library: Library,
        model: PackedModel,
        *,
        num_blocks: int,
        block_size: int = 16,
        vocab_size: int | None = None,
        threads: int = 1,
        int8_cache: bool = False,
        adapters: Mapping[str, PackedAdapter] = MappingProxyType({}),
    ) -> None:
        self.adapters: Collection[str] = tuple(adapters)
        self.vocab_size = model.shape.vocabulary if vocab_size is None else vocab_size
        self.context_length = model.shape.positions
        self.num_blocks, self.block_size = num_blocks, block_size
        self.runner = ModelRunner(
            library,
            model,
            num_blocks=num_blocks,
            block_size=block_size,
            threads=threads,
            int8_cache=int8_cache,
            adapters=adapters,
        )

    def run(self, chunks: Sequence[ScheduledChunk]) -> StepOutput:
        """As `Executor.run`."""
        pooled = any(chunk.pooled for chunk in chunks)
        logits, states = self.runner.run(
            [
                Chunk(chunk.ids, chunk.start, chunk.blocks, chunk.rows, chunk.adapter)
                for chunk in chunks
            ],
            self.vocab_size,
            states=pooled,
        )
        sums, token = [], 0
        for chunk in chunks:
            end = token + len(chunk.ids)
            sums.append(states[token:end].sum(0) if chunk.pooled and states is not None else None)
            token = end
        return StepOutput(logits, sums)


def random_native(
    config: ModelConfig,
    weights: WeightFormat = "bfloat16",
    *,
    threads: int = 1,
    num_blocks: int = 128,
    block_size: int = 16,
    int8_cache: bool = False,
    isa: str | None = None,
) -> NativeExecutor:
    """An executor of random weights, for measuring."""
    library = load(isa)
    shape = shape_by(config, config.head_width // 2)
    model = PackedModel(shape, library.lanes, weights != "float32")
    for name, part in random_parts(shape, weights, library.lanes, tied=config.tie_embeddings):
        model.add(name, part)
    return NativeExecutor(
        library,
        model,
        num_blocks=num_blocks,
        block_size=block_size,
        threads=threads,
        int8_cache=int8_cache,
    )


def open_native(
    path: Path,
    weights: Literal["auto", "float32", "bfloat16", "int8", "int4"] = "auto",
    *,
    threads: int = 1,
    num_blocks: int = 128,
    block_size: int = 16,
    int8_cache: bool = False,
    isa: str | None = None,
) -> NativeExecutor:
    """An executor of the model at `path`; its tokenizer is not asked for. Raises NativeError where
    the core does not run it.
    """
    library = load(isa)
    options = EngineConfig(weights=weights, block_size=block_size)
    packed = native_model(find_model(path), library, options, lambda: open_weights(path))
    if packed is None:
        raise NativeError(f"{path} has parts that the native core has no kernels for")
    return NativeExecutor(
        library,
        packed,
        num_blocks=num_blocks,
        block_size=block_size,
        threads=threads,
        int8_cache=int8_cache,
    )
