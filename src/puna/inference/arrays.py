"""The operations of sampling that numpy arrays and PyTorch's tensors name differently.

The rules of sampling are written once, in operators and methods that both kinds share and in these
functions. Each takes arrays of one kind and returns that kind, on the same device. PyTorch is
imported for a tensor only, so the native executor's logits are sampled without it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy.typing import NDArray
    from torch import Tensor

Array = TypeVar("Array", "NDArray[Any]", "Tensor")

_BLOCK = 64  # elements that NumPy looks at together, where not each has to be by itself


def float32(array: Any) -> Any:
    """The numbers in float32, without gradients, on a device where float64 exists too, which is not
    so on Apple's GPUs.
    """
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array, np.float32)
    import torch

    device = "cpu" if array.device.type == "mps" else array.device
    return array.detach().to(device, torch.float32)


def like(values: "NDArray[Any]", array: Array) -> Array:
    """`values`, of the kind and on the device of `array`."""
    if isinstance(array, np.ndarray):
        return values
    import torch

    return torch.from_numpy(values).to(array.device)


def column(values: Sequence[float], array: Array) -> Array:
    """One number for each row, [R, 1], of the kind of `array`: int64 of integers, else float32."""
    numbers = np.array(values)[:, None]
    return like(numbers if numbers.dtype == np.int64 else numbers.astype(np.float32), array)


def where(condition: Array, one: Any, other: Array) -> Array:
    """`one`, an array or a number, where the condition holds, and `other` elsewhere."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, one, other)
    import torch

    return torch.where(condition, one, other)


def replaced(array: Array, index: Any, values: Any) -> Array:
    """A copy with `values` at `index`."""
    copy: Array = array.copy() if isinstance(array, np.ndarray) else array.clone()
    copy[index] = values
    return copy


def gather(array: Array, indices: "Int[Array, 'R N']") -> Array:
    """Of each row the elements at that row's indices."""
    if isinstance(array, np.ndarray):
        return np.take_along_axis(array, indices, -1)
    return array.gather(-1, indices)


def greatest(array: "Float[Array, 'R V']") -> "Float[Array, 'R 1']":
    """The greatest number of each row."""
    if isinstance(array, np.ndarray):
        highest: NDArray[Any] = array.max(-1, keepdims=True)
        return highest
    return array.amax(-1, keepdim=True)


def softmax(logits: "Float[Array, 'R V']") -> "Float[Array, 'R V']":
    """Probabilities in float32, each row computed without regard to the others; nan where no logit
    is finite.
    """
    if isinstance(logits, np.ndarray):
        shifted = _shifted(logits)
        np.exp(shifted, out=shifted)
        shifted /= shifted.sum(-1, keepdims=True)
        return shifted
    return logits.softmax(-1)


def log_softmax(logits: "Float[Array, 'R V']") -> "Float[Array, 'R V']":
    """Logarithms of the probabilities, likewise."""
    if isinstance(logits, np.ndarray):
        shifted = _shifted(logits)
        shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
        return shifted
    return logits.log_softmax(-1)


def floor(array: Array) -> Array:
    """The greatest whole numbers that are not above the elements."""
    whole: Array = np.floor(array) if isinstance(array, np.ndarray) else array.floor()
    return whole


def running_sums(array: "Float[Array, 'R V']") -> "Float[Array, 'R V']":
    """Sums of each row's elements up to each, in float64."""
    if isinstance(array, np.ndarray):
        return array.astype(np.float64).cumsum(-1)
    return array.double().cumsum_(-1)


def first_reaching(values: "Float[Array, 'R V']", bounds: "Float[Array, 'R 1']") -> Array:
    """The index of each row's first element at which the running sum is at least the row's bound,
    [R, 1]; the last one's where none is.
    """
    sums, last = running_sums(values), values.shape[-1] - 1
    if isinstance(sums, np.ndarray):
        found = [row.searchsorted(bound) for row, bound in zip(sums, bounds, strict=True)]
        return np.stack(found).clip(max=last)
    import torch

    return torch.searchsorted(sums, bounds.double()).clip(max=last)


def first_above(values: "Float[Array, 'R V']", shares: "Float[Array, 'R 1']") -> Array:
    """The index of each row's first element at which the running sum, in float64, is above the
    row's share of the sum of all, [R, 1]; the last one's where none is. No element is negative.
    """
    if isinstance(values, np.ndarray):
        pairs = zip(values, shares[:, 0].tolist(), strict=True)
        return np.array([[_first_above(row, share)] for row, share in pairs])
    import torch

    sums = running_sums(values)
    return torch.searchsorted(sums, shares * sums[:, -1:], right=True).clip(
        max=values.shape[-1] - 1
    )


def ascending(array: Array) -> Array:
    """The rows sorted, each by itself."""
    if isinstance(array, np.ndarray):
        return np.sort(array, -1)
    # NumPy's sort uses the processor's vectors: 4,096 floats took it 55 us, PyTorch's sort 260, and
    # PyTorch's topk of 256 about 60, after which a flat distribution still wants the sort (one core
    # of an AMD EPYC, AVX-512)
    if array.device.type == "cpu":
        return like(np.sort(array.numpy(), -1), array)
    return array.sort(-1).values


def ascending_from(array: Array, floors: "Float[Array, 'R 1']") -> Array:
    """The rows reordered: elements below the row's floor first, in any order, then all others,
    sorted.
    """
    if isinstance(array, np.ndarray):
        return np.stack(
            [_sorted_from(row, row < floor) for row, floor in zip(array, floors, strict=True)]
        )
    return ascending(array)


def smallest(array: Array, count: int) -> Array:
    """The `count` smallest elements of each row, ascending."""
    if isinstance(array, np.ndarray):
        return np.stack([_smallest(row, count) for row in array])
    return array.topk(count, largest=False).values


def sort_keys(values: "Float[Array, 'R V']") -> "Int[Array, 'R V']":
    """Numbers in the order of non-negative float32 values, whose bits grow with them, and of their
    ids where the values are equal.
    """
    ids = np.arange(values.shape[-1])
    if isinstance(values, np.ndarray):
        return values.view(np.int32).astype(np.int64) << 32 | ids
    import torch

    return values.view(torch.int32).long() << 32 | torch.arange(len(ids), device=values.device)


def ids_of_keys(keys: "Int[Array, 'R N']") -> "Int[Array, 'R N']":
    """The ids that went into the keys."""
    return keys & 0xFFFFFFFF


def _shifted(logits: "NDArray[Any]") -> "NDArray[Any]":
    """The logits less the greatest of their row; nan where that is not finite."""
    with np.errstate(invalid="ignore"):
        shifted: NDArray[Any] = logits - logits.max(-1, keepdims=True)
    return shifted


def _first_above(values: "NDArray[Any]", share: float) -> int:
    # A sum of each block, then a running sum in one of them, since a running sum of all elements
    # waits for every addition before the next
    blocks = np.zeros((-(-len(values) // _BLOCK), _BLOCK))
    blocks.reshape(-1)[: len(values)] = values
    ends = blocks.sum(-1).cumsum()
    bound = share * ends[-1]
    block = min(int(ends.searchsorted(bound, "right")), len(ends) - 1)
    sums = (ends[block - 1] if block else 0.0) + blocks[block].cumsum()
    return min(block * _BLOCK + int(sums.searchsorted(bound, "right")), len(values) - 1)


def _sorted_from(row: "NDArray[Any]", below: "NDArray[np.bool_]") -> "NDArray[Any]":
    return np.concatenate((row[below], np.sort(row[~below])))


def _smallest(row: "NDArray[Any]", count: int) -> "NDArray[Any]":
    parts = len(row) // _BLOCK
    if 0 < count <= parts:
        # The parts' least elements are elements too, so the count-th of them bounds the count-th of
        # all; few pass it
        least = row[: parts * _BLOCK].reshape(_BLOCK, parts).min(0)
        row = row[row <= np.partition(least, count - 1)[count - 1]]
    return np.sort(row)[:count]
