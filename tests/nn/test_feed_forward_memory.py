"""Recomputing the product: what outlives the forward pass, the peak of a stack, the bits of the
gradients, and no matrix product twice.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import set_checkpoint_early_stop

from puna.nn import GatedFeedForward, Swish

ROWS, WIDTH, HIDDEN = 32, 8, 24
WIDE = ROWS * HIDDEN * 4  # bytes of an F-wide float32 tensor


class Watch(TorchDispatchMode):
    """Counts operations, and follows every storage that one makes (views make none) until neither
    Python nor autograd holds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls[func.overloadpacket.__name__] += 1
        taken = {
            each.untyped_storage()._cdata
            for each in tree_leaves((args, kwargs))
            if isinstance(each, Tensor)
        }
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in taken:
                storage = StorageWeakRef(tensor.untyped_storage())
                self.storages[storage.cdata] = (storage, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, sum(self.alive()))
        return out

    def alive(self) -> list[int]:
        """Bytes of each storage that is still held."""
        return [size for storage, size in self.storages.values() if not storage.expired()]


def pair(
    activation: Callable[[Tensor], Tensor] = F.silu, **options: Any
) -> tuple[GatedFeedForward, GatedFeedForward]:
    """The same layer, plain and recomputing."""
    plain = GatedFeedForward(WIDTH, HIDDEN, activation, **options)
    return plain, GatedFeedForward.from_linears(
        plain.gate_proj,
        plain.up_proj,
        plain.down_proj,
        activation,
        limit=plain.limit,
        up_offset=plain.up_offset,
        recompute=True,
    )


VARIANTS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any], int]] = {
    # the last number: F-wide tensors that the plain layer keeps
    "SwiGLU": (F.silu, {}, 4),  # gate, silu(gate), up, product
    "GEGLU": (F.gelu, {}, 4),
    "ReGLU": (F.relu, {}, 3),  # relu keeps its result, not the gate
    "GLU": (torch.sigmoid, {}, 3),
    "Bilinear": (lambda x: x, {}, 3),
    "SwiGLU, learned beta": (Swish(HIDDEN, learned=True), {}, 5),
    "gpt-oss": (Swish(beta=1.702), {"bias": True, "limit": 7.0, "up_offset": 1.0}, 7),
}
variants = pytest.mark.parametrize(
    ("activation", "options", "kept"), VARIANTS.values(), ids=VARIANTS
)


@variants
def test_two_wide_tensors_outlive_the_forward_pass_instead_of_three_to_seven(
    activation: Callable[[Tensor], Tensor], options: dict[str, Any], kept: int
) -> None:
    counts = []
    for layer in pair(activation, **options):
        x = torch.randn(ROWS, WIDTH, requires_grad=True)
        with Watch() as watch:
            y = layer(x)
        counts.append(watch.alive().count(WIDE))
        del y
        assert not watch.alive()
    assert counts == [kept, 2]


@variants
@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_gradients_are_the_same_bits(
    activation: Callable[[Tensor], Tensor], options: dict[str, Any], kept: int, half: bool
) -> None:
    results = []
    x = torch.randn(2, ROWS, WIDTH, requires_grad=True)
    for layer in pair(activation, **options):
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            y = layer(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*results, strict=True))


def backward_calls(layer: nn.Module) -> Counter[str]:
    loss = layer(torch.randn(ROWS, WIDTH, requires_grad=True)).sum()
    with Watch() as watch:
        loss.backward()
    return watch.calls


@pytest.mark.parametrize("bias", [False, True])
def test_backward_makes_the_element_wise_part_anew_and_no_matrix_product(bias: bool) -> None:
    """Two products for each linear: one for its input, one for its weight. Recomputing stops before
    a seventh, which without the early stop would be the forward of down_proj.
    """
    plain, recomputing = pair(bias=bias)
    matrix_products = ("mm", "addmm")
    once, again = backward_calls(plain), backward_calls(recomputing)
    assert [sum(calls[name] for name in matrix_products) for calls in (once, again)] == [6, 6]
    assert (once["silu"], again["silu"]) == (0, 1)
    with set_checkpoint_early_stop(False):
        assert sum(backward_calls(recomputing)[name] for name in matrix_products) == 7


def test_peak_of_a_stack_falls_by_two_wide_tensors_for_every_layer_but_the_one_at_work() -> None:
    peaks = []
    for recompute in (False, True):
        stack = nn.Sequential(
            *(GatedFeedForward(WIDTH, HIDDEN, recompute=recompute) for _ in range(5))
        )
        x = torch.randn(ROWS, WIDTH, requires_grad=True)
        with Watch() as watch:
            stack(x).sum().backward()
        peaks.append(watch.peak)
    assert peaks[0] - peaks[1] >= 4 * 2 * WIDE


def test_without_gradients_there_is_nothing_to_keep() -> None:
    plain, recomputing = pair()
    x = torch.randn(ROWS, WIDTH)
    with torch.no_grad(), Watch() as watch:
        y = recomputing(x)
    assert watch.alive() == [ROWS * WIDTH * 4]
    assert torch.equal(y, plain(x))
