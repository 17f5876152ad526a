"""A contiguous key/value cache: what one batch of equally long sequences has computed so far.

Memory is taken once, for the whole length: 2 L B K S C elements.
"""

from collections.abc import Iterator, Sequence
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from puna.model.config import ModelConfig


class LayerCache:
    """Keys and values of one layer, [B, K, S, C] with `length` of the S positions filled. A `puna.nn.attention.KeyValueCache`."""

    def __init__(self, keys: Float[Tensor, "B K S C"], values: Float[Tensor, "B K S C"], length: int = 0) -> None:
        self.keys, self.values, self.length = keys, values, length

    def append(
        self, keys: Float[Tensor, "B K T C"], values: Float[Tensor, "B K T C"]
    ) -> tuple[Float[Tensor, "B K S C"], Float[Tensor, "B K S C"]]:
        """Store T positions after the ones held; returns views of all that are held. Raises ValueError when they do not fit."""
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"{end} positions do not fit a cache of {self.keys.shape[2]}")
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache(Sequence[LayerCache]):
    """One `LayerCache` a layer: what `Transformer.forward` takes as `cache`."""

    def __init__(self, layers: list[LayerCache]) -> None:
        self.layers = layers

    @classmethod
    def empty(
        cls,
        config: ModelConfig,
        batch: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "KVCache":
        """A cache with room for `capacity` positions of `batch` sequences."""
        shape = (batch, config.num_kv_heads, capacity, config.head_width)
        return cls(
            [
                LayerCache(torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype))
                for _ in range(config.num_layers)
            ]
        )

    @property
    def length(self) -> int:
        """Positions held."""
        return self.layers[0].length

    def repeat(self, times: int) -> "KVCache":
        """A cache for `times` copies of the one sequence held: a prompt is computed once, however many samples follow it."""
        return KVCache(
            [LayerCache(layer.keys.repeat(times, 1, 1, 1), layer.values.repeat(times, 1, 1, 1), layer.length) for layer in self.layers]
        )

    @overload
    def __getitem__(self, index: int) -> LayerCache: ...
    @overload
    def __getitem__(self, index: slice) -> list[LayerCache]: ...
    def __getitem__(self, index: int | slice) -> LayerCache | list[LayerCache]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerCache]:
        return iter(self.layers)
