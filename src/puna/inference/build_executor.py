"""The executor of a model's weights, with a cache of as many blocks as the options allow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from puna import host
from puna.errors import ConfigError
from puna.inference.engine_config import EngineConfig
from puna.inference.executor import Executor
from puna.inference.native_executor import NativeExecutor
from puna.native.library import Library
from puna.native.model_runner import block_bytes
from puna.native.packed_adapter import PackedAdapter
from puna.native.packed_model import PackedModel

if TYPE_CHECKING:
    from puna.model.adapters import Adapters
    from puna.model.transformer import Transformer


@dataclass(frozen=True)
class PackedWeights:
    """A model for the native core, with its adapters by name. read: opens the same model with
    PyTorch, without adapters.
    """

    packed: PackedModel
    library: Library
    read: "Callable[[], Transformer]"
    adapters: Mapping[str, PackedAdapter] = field(default_factory=dict)


def build_executor(
    weights: "Transformer | PackedWeights",
    options: EngineConfig,
    vocab_size: int,
    adapters: "Adapters | None" = None,
) -> Executor:
    """The executor of these weights; its cache is allocated here, and `options.threads` is from
    here on the number of all of PyTorch's threads.

    adapters: those attached to a Transformer; packed weights have their own. Raises ConfigError for
    a cache too small for one block.
    """
    int8_cache = options.kv_cache_dtype == "int8"
    if isinstance(weights, PackedWeights):
        library, packed = weights.library, weights.packed
        layers = 2 * packed.shape.layers
        return NativeExecutor(
            library,
            packed,
            num_blocks=_cache_blocks(
                options,
                layers * block_bytes(library, packed, options.block_size, int8_cache=int8_cache),
                packed.shape.positions,
                host.memory_bytes(),
            ),
            block_size=options.block_size,
            vocab_size=vocab_size,
            int8_cache=int8_cache,
            threads=options.threads or host.processors(),
            adapters=weights.adapters,
        )
    import torch

    from puna.device import memory_bytes
    from puna.inference.torch_executor import TorchExecutor
    from puna.model.accounting import kv_bytes_per_token

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    weight = weights.output_weight
    token_bytes = kv_bytes_per_token(weights.config, weight.element_size(), int8_cache=int8_cache)
    return TorchExecutor(
        weights,
        num_blocks=_cache_blocks(
            options,
            options.block_size * token_bytes,
            weights.config.context_length,
            memory_bytes(weight.device),
        ),
        block_size=options.block_size,
        vocab_size=vocab_size,
        batch_invariant=options.batch_invariant,
        int8_cache=int8_cache,
        adapters=adapters,
    )


def _cache_blocks(options: EngineConfig, block_bytes: int, context: int, memory: int | None) -> int:
    """Number of blocks of the cache. memory: of the device, in bytes."""
    wanted = options.cache_bytes
    if wanted is None:
        most = options.max_running * context * block_bytes // options.block_size
        wanted = min(most, (memory or 1 << 32) // 4)
    if wanted < block_bytes:
        raise ConfigError(
            f"cache_bytes = {wanted} holds no block of {options.block_size} tokens at"
            f" {block_bytes // options.block_size} bytes a token: give at least {block_bytes}"
        )
    return wanted // block_bytes
