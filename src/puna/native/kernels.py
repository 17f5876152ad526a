"""The kernels of the native core as functions on tensors: shapes, formats and layout are checked
here, memory for results is made here, and pointers go no further.

Two formats: float32, and bfloat16 with float32 arithmetic between its products. Not here: gradients
(autograd.py), and which model they fit (puna/training/native_model.py).
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.native.library import Library

# the activations of native/gate.h, in its order
ACTIVATIONS = ("silu", "sigmoid", "relu", "identity", "gelu")
NORM_PARTS = 64  # of native/norm.h: the rows of its scratch memory
WIDEST = 16  # lanes of the widest tier

_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_ARGUMENTS: dict[str, list[Any]] = {
    "norm": [_pointer, _int, _long, _long, ctypes.c_float, *[_pointer] * 6],
    "norm_backward": [_pointer, _int, _long, _long, *[_pointer] * 9],
    "gate": [_pointer, _int, _int, _long, _long, *[_pointer] * 4],
    "attention_scratch": [_pointer, _int, _int],
    "attention": [_pointer, _pointer, _int, *[_pointer] * 3, _long, *[_pointer] * 3],
    "attention_backward": [_pointer, _pointer, _int, *[_pointer] * 3, _long, *[_pointer] * 5],
    "orthogonalise_scratch": [_long, _long],
    "orthogonalise": [_pointer, _long, _pointer, _long, *[_pointer] * 2, _long],
    "cross_entropy": [_pointer, _int, _long, _long, *[_pointer] * 4],
}


class _Team(ctypes.Structure):
    """PunaTeam of native/threads.h."""

    _fields_ = (("parallel", _pointer), ("threads", ctypes.c_int32))


class _AttentionShape(ctypes.Structure):
    """PunaAttention of native/shapes.h."""

    _fields_ = (
        ("batch", _long),
        ("steps", _long),
        ("heads", _long),
        ("kv_heads", _long),
        ("head_width", _long),
        ("scale", ctypes.c_float),
    )


class _Matrix(ctypes.Structure):
    """PunaMatrix of native/shapes.h."""

    _fields_ = (("entries", _pointer), ("rows", _long), ("columns", _long))


@dataclass(frozen=True)
class Heads:
    """H query heads and K key/value heads of width C in a row of queries, keys and values."""

    heads: int
    kv_heads: int
    width: int

    @property
    def packed(self) -> int:
        """The entries of a row: (H + 2 K) C."""
        return (self.heads + 2 * self.kv_heads) * self.width


class Kernels:
    """The kernels of one tier on the threads of PyTorch.

    Tensors are dense (contiguous), on the CPU, and of one format, float32 or bfloat16, where no
    other is named; anything else raises ValueError.
    """

    def __init__(self, library: Library) -> None:
        self.tier = library.tier
        self._functions = {}
        for name, arguments in _ARGUMENTS.items():
            function = library.function(name)
            function.argtypes, function.restype = arguments, None
            self._functions[name] = function
        for name in ("attention_scratch", "orthogonalise_scratch"):
            self._functions[name].restype = _long
        # OpenMP's team of PyTorch, whose library is loaded with it; without one, a single thread
        try:
            self._parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, _pointer)
        except AttributeError:
            self._parallel = _pointer(None)

    def norm(
        self,
        residual: Float[Tensor, "*B D"],
        branch: Float[Tensor, "*B D"] | None,
        weight: Float[Tensor, "D"],
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Float[Tensor, "*B D"], Float[Tensor, "*B D"], Float[Tensor, "N"]]:
        """x = residual + branch, RMSNorm(x) * weight, and 1 / rms(x), the last for
        `norm_backward`; x is `residual` itself where there is no branch.

        residual, weight and x are float32; branch and the norm are of `dtype`.
        """
        half = _half(dtype)
        _check(torch.float32, residual, weight)
        width = residual.shape[-1]
        _check_shape(weight, (width,))
        if branch is not None:
            _check(dtype, branch)
            _check_shape(branch, residual.shape)
        x = residual if branch is None else torch.empty_like(residual)
        y = torch.empty(residual.shape, dtype=dtype)
        scale = torch.empty(residual.numel() // width)
        self._call("norm", half, len(scale), width, eps, residual, branch, weight, x, y, scale)
        return x, y, scale

    def norm_backward(
        self,
        x: Float[Tensor, "*B D"],
        weight: Float[Tensor, "D"],
        scale: Float[Tensor, "N"],
        grad_y: Float[Tensor, "*B D"],
        grad_x: Float[Tensor, "*B D"] | None,
        *,
        with_branch: bool,
    ) -> tuple[Float[Tensor, "*B D"], Float[Tensor, "*B D"] | None, Float[Tensor, "D"]]:
        """The gradients of residual, of branch (in the format of grad_y; None without one) and of
        the weight. grad_x: what reaches x otherwise, float32.
        """
        _check(torch.float32, x, weight, scale)
        _check(grad_y.dtype, grad_y)
        _check_shape(grad_y, x.shape)
        if grad_x is not None:
            _check(torch.float32, grad_x)
            _check_shape(grad_x, x.shape)
        width = x.shape[-1]
        _check_shape(weight, (width,))
        _check_shape(scale, (x.numel() // width,))
        grad, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        grad_branch = torch.empty_like(grad_y) if with_branch else None
        half, to = _half(grad_y.dtype), (grad, grad_branch, grad_weight)
        given = (x, weight, scale, grad_y, grad_x)
        scratch = torch.empty(NORM_PARTS, width)
        self._call("norm_backward", half, len(scale), width, *given, *to, scratch)
        return grad, grad_branch, grad_weight

    def gate(self, gate_up: Float[Tensor, "*B F2"], activation: str) -> Float[Tensor, "*B F"]:
        """act(gate) * up, where gate is the first half of the columns and up the second.

        activation: one of `ACTIVATIONS`.
        """
        _check(gate_up.dtype, gate_up)
        y = self._half_as_wide(gate_up)
        self._gate(gate_up, None, activation, y, None)
        return y

    def gate_backward(
        self, gate_up: Float[Tensor, "*B F2"], grad_y: Float[Tensor, "*B F"], activation: str
    ) -> tuple[Float[Tensor, "*B F2"], Float[Tensor, "*B F"]]:
        """The gradient of gate_up, and act(gate) * up once more."""
        _check(gate_up.dtype, gate_up, grad_y)
        y, grad = self._half_as_wide(gate_up), torch.empty_like(gate_up)
        _check_shape(grad_y, y.shape)
        self._gate(gate_up, grad_y, activation, y, grad)
        return grad, y

    def _half_as_wide(self, gate_up: Tensor) -> Tensor:
        if gate_up.shape[-1] % 2:
            raise ValueError(f"{gate_up.shape[-1]} columns are not two halves: give an even number")
        return torch.empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2), dtype=gate_up.dtype)

    def _gate(self, gate_up: Tensor, grad_y: Tensor | None, activation: str, *to: Any) -> None:
        width = gate_up.shape[-1] // 2
        rows = gate_up.numel() // (2 * width)
        number = ACTIVATIONS.index(activation)
        self._call("gate", _half(gate_up.dtype), number, rows, width, gate_up, grad_y, *to)

    def attention(
        self,
        qkv: Float[Tensor, "B T P"],
        heads: Heads,
        rotary: tuple[Float[Tensor, "T R"], Float[Tensor, "T R"]] | None,
    ) -> tuple[Float[Tensor, "B T HC"], Float[Tensor, "B H T"]]:
        """Causal attention of queries and keys that it turns first, and the log of each row's sum
        of exponentials, float32, for `attention_backward`.

        qkv: the H query heads of a position, then its K key heads, then its K value heads. rotary:
        cos and sin of the positions, float32; of fewer than C/2 columns they turn the first entries
        of a head alone. None turns nothing.
        """
        batch, steps, _ = self._check_attention(qkv, heads, rotary)
        out = torch.empty((batch, steps, heads.heads * heads.width), dtype=qkv.dtype)
        lse = torch.empty(batch, heads.heads, steps)
        self._attend("attention", qkv, heads, rotary, out, lse)
        return out, lse

    def attention_backward(
        self,
        qkv: Float[Tensor, "B T P"],
        heads: Heads,
        rotary: tuple[Float[Tensor, "T R"], Float[Tensor, "T R"]] | None,
        out: Float[Tensor, "B T HC"],
        lse: Float[Tensor, "B H T"],
        grad_out: Float[Tensor, "B T HC"],
    ) -> Float[Tensor, "B T P"]:
        """The gradient of qkv."""
        batch, steps, _ = self._check_attention(qkv, heads, rotary)
        _check(qkv.dtype, out, grad_out)
        _check(torch.float32, lse)
        for each in (out, grad_out):
            _check_shape(each, (batch, steps, heads.heads * heads.width))
        _check_shape(lse, (batch, heads.heads, steps))
        grad = torch.empty_like(qkv)
        self._attend("attention_backward", qkv, heads, rotary, out, lse, grad_out, grad)
        return grad

    def _attend(
        self,
        name: str,
        qkv: Tensor,
        heads: Heads,
        rotary: tuple[Tensor, Tensor] | None,
        *to: Tensor,
    ) -> None:
        batch, steps, _ = qkv.shape
        shape = _AttentionShape(
            batch, steps, heads.heads, heads.kv_heads, heads.width, heads.width**-0.5
        )
        half, backward = _half(qkv.dtype), int(name == "attention_backward")
        size = self._functions["attention_scratch"](ctypes.byref(shape), half, backward)
        members = min(torch.get_num_threads(), batch * heads.kv_heads)
        scratch = torch.empty(size * members + 64, dtype=torch.uint8)
        # the parts of the scratch memory begin on cache lines
        begin = _pointer(scratch.data_ptr() + -scratch.data_ptr() % 64)
        cos, sin = rotary or (None, None)
        turned = 0 if cos is None else cos.shape[-1]
        self._call(name, ctypes.byref(shape), half, qkv, cos, sin, turned, *to, begin)

    def _check_attention(
        self, qkv: Tensor, heads: Heads, rotary: tuple[Tensor, Tensor] | None
    ) -> Sequence[int]:
        _check(qkv.dtype, qkv)
        _check_shape(qkv, (*qkv.shape[:2], heads.packed))
        if heads.heads % heads.kv_heads:
            raise ValueError(
                f"{heads.heads} query heads cannot be shared out evenly over {heads.kv_heads}"
                " key/value heads"
            )
        if rotary is not None:
            _check(torch.float32, *rotary)
            columns = rotary[0].shape[-1]
            if 2 * columns > heads.width:
                raise ValueError(
                    f"{columns} columns of cos turn {2 * columns} entries, but a head has"
                    f" {heads.width}"
                )
            for table in rotary:
                _check_shape(table, (qkv.shape[1], columns))
        return qkv.shape

    def cross_entropy(
        self, logits: Float[Tensor, "N V"], targets: Int[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """-log softmax(logits)[target] of each row, in nats, float32, and 0 where the target is
        below 0; `logits` becomes its gradient, softmax - one_hot, with rows of 0 there.

        Raises ValueError for a target that is no column.
        """
        _check(logits.dtype, logits)
        _check(torch.int64, targets)
        rows, width = logits.shape
        _check_shape(targets, (rows,))
        if rows and int(targets.max()) >= width:
            raise ValueError(
                f"the target {int(targets.max())} is none of {width} tokens, 0 to {width - 1}"
            )
        loss = torch.empty(rows)
        scratch = torch.empty(torch.get_num_threads(), width + WIDEST)
        self._call(
            "cross_entropy", _half(logits.dtype), rows, width, logits, targets, loss, scratch
        )
        return loss

    def orthogonalise(
        self, matrices: Sequence[Float[Tensor, "_ _"]], coefficients: Float[Tensor, "S 3"]
    ) -> None:
        """Change each matrix to one with its singular vectors and singular values near 1, by S
        steps of a quintic; float32. The twin: `orthogonalise` of puna/training/optimizer.py.
        """
        _check(torch.float32, coefficients, *matrices)
        _check_shape(coefficients, (len(coefficients), 3))
        items = (_Matrix * len(matrices))(
            *(_Matrix(matrix.data_ptr(), *matrix.shape) for matrix in matrices)
        )
        size = self._functions["orthogonalise_scratch"]
        largest = max(size(*matrix.shape) for matrix in matrices)
        scratch = torch.empty(largest * torch.get_num_threads() + 64, dtype=torch.uint8)
        begin = _pointer(scratch.data_ptr() + -scratch.data_ptr() % 64)
        self._call(
            "orthogonalise",
            len(matrices),
            ctypes.byref(items),
            len(coefficients),
            coefficients,
            begin,
            largest,
        )

    def _call(self, name: str, *arguments: Any) -> None:
        team = _Team(self._parallel.value, torch.get_num_threads())
        self._functions[name](
            ctypes.byref(team),
            *(each.data_ptr() if isinstance(each, Tensor) else each for each in arguments),
        )


def _half(dtype: torch.dtype) -> int:
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"the kernels compute in float32 or bfloat16, not in {dtype}")
    return int(dtype == torch.bfloat16)


def _check(dtype: torch.dtype, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(
                f"a dense tensor of {dtype} on the CPU is wanted, not {tensor.dtype} on"
                f" {tensor.device} with strides {tensor.stride()}"
            )


def _check_shape(tensor: Tensor, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"the shape {tuple(shape)} is wanted, not {tuple(tensor.shape)}")
