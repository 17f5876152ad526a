"""What autograd keeps from a forward pass to the backward pass, and models to measure it on."""

from collections.abc import Callable

import torch
from torch import Tensor

from puna.model.config import ModelConfig

SHAPES = {
    "grouped": ModelConfig(
        vocab_size=512, width=64, num_layers=2, num_heads=4, num_kv_heads=2, feed_forward_width=160
    ),
    "deep": ModelConfig(
        vocab_size=512, width=96, num_layers=4, num_heads=4, feed_forward_width=256
    ),
    "wide heads, tied": ModelConfig(
        vocab_size=2000,
        width=64,
        num_layers=3,
        num_heads=3,
        num_kv_heads=1,
        head_width=32,
        feed_forward_width=200,
        tie_embeddings=True,
    ),
}


def kept_bytes(forward: Callable[[], Tensor], owned: set[int]) -> int:
    """Bytes of the distinct storages that autograd saves while `forward` runs, but for those
    `owned` by the model itself.
    """
    # the tensor keeps its memory from being handed out twice
    storages: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(size for size, _ in storages.values())
