"""Each kernel against its twin in PyTorch, in float64, over shapes that hypothesis draws; and what
the kernels do not take.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from closeness import assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from said import said
from torch import Tensor
from torch.nn import functional as F

from puna.native.kernels import ACTIVATIONS, Heads, Kernels
from puna.nn.rope import rotate
from puna.training.optimizer import QUINTICS, orthogonalise, quintic_steps

TWINS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "identity": lambda x: x,
    "gelu": F.gelu,
}
HALF, WHOLE = torch.bfloat16, torch.float32
dtypes = st.sampled_from([WHOLE, HALF])
rows, widths, seeds = st.integers(1, 40), st.integers(1, 70), st.integers(0, 2**32)
few = settings(max_examples=25, derandomize=True)


def drawn(seed: int) -> Callable[..., Tensor]:
    """A function that draws normal tensors of a shape and format."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape, dtype=WHOLE: torch.randn(*shape, generator=generator).to(dtype)


def wide(*tensors: Tensor) -> list[Tensor]:
    """The same in float64, with gradients."""
    return [tensor.double().requires_grad_() for tensor in tensors]


@given(rows, widths, dtypes, st.booleans(), st.booleans(), seeds)
@few
def test_norm(
    kernels: Kernels,
    rows: int,
    width: int,
    dtype: torch.dtype,
    with_branch: bool,
    with_grad_x: bool,
    seed: int,
) -> None:
    draw = drawn(seed)
    residual, branch, weight = draw(rows, width), draw(rows, width, dtype=dtype), draw(width)
    grad_y, grad_x = draw(rows, width, dtype=dtype), draw(rows, width)
    x, y, scale = kernels.norm(residual, branch if with_branch else None, weight, 1e-5, dtype)
    grad, grad_branch, grad_weight = kernels.norm_backward(
        x, weight, scale, grad_y, grad_x if with_grad_x else None, with_branch=with_branch
    )
    stream, factor = wide(residual + branch.float() if with_branch else residual, weight)
    out = F.rms_norm(stream, (width,), factor, 1e-5)
    ((out * grad_y).sum() + (stream * grad_x).sum() * with_grad_x).backward()
    assert x.equal(stream.detach().float())
    assert_near(y, out, 1e-6)
    assert_near(scale, (stream.square().mean(-1) + 1e-5).rsqrt(), 1e-6)
    terms = float(grad_y.abs().max() * weight.abs().max() * scale.max())
    assert_near(grad, stream.grad, 4e-6, terms)
    assert_near(grad_weight, factor.grad, 4e-6, float(grad_y.abs().max()))
    assert (grad_branch is not None) == with_branch
    if grad_branch is not None:
        assert_near(grad_branch, stream.grad, 4e-6, terms)


@given(st.sampled_from(ACTIVATIONS), rows, widths, dtypes, seeds)
@few
def test_gate(
    kernels: Kernels, activation: str, rows: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    draw = drawn(seed)
    gate_up, grad_y = 4 * draw(rows, 2 * width, dtype=dtype), draw(rows, width, dtype=dtype)
    (both,) = wide(gate_up)
    gate, up = both.chunk(2, dim=-1)
    twin = TWINS[activation](gate) * up
    (twin * grad_y).sum().backward()
    assert_near(kernels.gate(gate_up, activation), twin, 2e-6, 1.0)
    grad, y = kernels.gate_backward(gate_up, grad_y, activation)
    assert_near(y, twin, 2e-6, 1.0)
    assert_near(grad, both.grad, 2e-6, 1.0)


def attention_twin(
    qkv: Tensor, heads: Heads, rotary: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Softmax attention as its formula reads, and the log of each row's sum of exponentials."""
    batch, steps, _ = qkv.shape
    counts = (heads.heads, heads.kv_heads, heads.kv_heads)
    q, k, v = qkv.view(batch, steps, -1, heads.width).transpose(1, 2).split(counts, dim=1)
    if rotary is not None:
        q, k = rotate(q, *rotary), rotate(k, *rotary)
    group = heads.heads // heads.kv_heads
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.mT / heads.width**0.5
    future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    scores = scores.masked_fill(future, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2), scores.logsumexp(-1)


@given(
    st.integers(1, 2),
    st.integers(1, 150),
    st.sampled_from([(1, 1), (2, 1), (3, 1), (2, 2), (4, 2), (6, 3)]),
    st.integers(1, 80),
    st.one_of(st.none(), st.floats(0, 1)),
    dtypes,
    seeds,
)
@few
def test_attention(
    kernels: Kernels,
    batch: int,
    steps: int,
    counts: tuple[int, int],
    width: int,
    turned: float | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    draw, heads = drawn(seed), Heads(*counts, width)
    qkv = draw(batch, steps, heads.packed, dtype=dtype)
    grad_out = draw(batch, steps, heads.heads * width, dtype=dtype)
    rotary = None
    if turned is not None:
        angles = draw(steps, round(turned * (width // 2)))
        rotary = (angles.cos(), angles.sin())
    out, lse = kernels.attention(qkv, heads, rotary)
    grad = kernels.attention_backward(qkv, heads, rotary, out, lse, grad_out)
    (packed,) = wide(qkv)
    twin, sums = attention_twin(
        packed, heads, (rotary[0].double(), rotary[1].double()) if rotary else None
    )
    (twin * grad_out).sum().backward()
    # in bfloat16 the operands of every product are rounded: two units of the largest
    assert_near(out, twin, 5e-6 if dtype == WHOLE else 2**-7)
    assert_near(lse, sums, 5e-6 if dtype == WHOLE else 2**-7, 1.0)
    assert_near(grad, packed.grad, 1e-5 if dtype == WHOLE else 2**-6)


@given(rows, widths, dtypes, seeds)
@few
def test_cross_entropy(
    kernels: Kernels, rows: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    logits = 3 * drawn(seed)(rows, width, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(-1, width, (rows,), generator=generator)
    targets[targets < 0] = -100
    (twin,) = wide(logits)
    losses = F.cross_entropy(twin, targets, reduction="none")
    losses.sum().backward()
    assert_near(kernels.cross_entropy(logits, targets), losses, 2e-6, 1.0)
    assert_near(logits, twin.grad, 2e-6, 1.0)
    assert not logits[targets < 0].any()


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
    st.sampled_from(sorted(QUINTICS)),
    st.integers(1, 6),
    seeds,
)
@few
def test_orthogonalise(
    kernels: Kernels, shapes: list[tuple[int, int]], name: str, iterations: int, seed: int
) -> None:
    """A step enlarges small singular values up to 8 times, and their rounding with them."""
    steps = quintic_steps(name, iterations)
    matrices = [drawn(seed)(*shape) for shape in shapes]
    twins = [orthogonalise(matrix.double(), steps) for matrix in matrices]
    kernels.orthogonalise(matrices, torch.tensor(steps))
    for matrix, twin in zip(matrices, twins, strict=True):
        assert_near(matrix, twin, 2e-4)


@pytest.mark.parametrize("dtype", [WHOLE, HALF])
def test_one_and_two_threads_give_equal_bits(kernels: Kernels, dtype: torch.dtype) -> None:
    draw, heads = drawn(0), Heads(4, 2, 24)
    qkv, grad_out = draw(2, 90, heads.packed, dtype=dtype), draw(2, 90, 96, dtype=dtype)
    x, weight, grad_y = draw(700, 33), draw(33), draw(700, 33, dtype=dtype)
    logits, targets = draw(700, 50, dtype=dtype), torch.arange(700) % 50

    def results() -> list[Tensor]:
        out, lse = kernels.attention(qkv, heads, None)
        grad = kernels.attention_backward(qkv, heads, None, out, lse, grad_out)
        _, y, scale = kernels.norm(x, None, weight, 1e-5, dtype)
        stream, _, factor = kernels.norm_backward(x, weight, scale, grad_y, None, with_branch=False)
        probabilities = logits.clone()
        loss = kernels.cross_entropy(probabilities, targets)
        return [out, lse, grad, y, scale, stream, factor, loss, probabilities]

    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(results())
    torch.set_num_threads(before)
    assert all(one.equal(two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(kernels: Kernels, bad: float) -> None:
    """It is never turned into a plausible number, so the loss of the step is none either."""
    draw, heads = drawn(0), Heads(2, 1, 6)
    qkv, gate_up, x, logits = draw(1, 9, heads.packed), draw(3, 10), draw(4, 7), draw(4, 7)
    for tensor in (qkv, gate_up, x, logits):
        tensor.flatten()[3] = bad
    assert not kernels.attention(qkv, heads, None)[0].isfinite().all()
    assert not kernels.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))[0].isfinite()
    assert not kernels.gate(gate_up, "silu")[0].isfinite().all()
    _, y, _ = kernels.norm(x, None, torch.ones(7), 1e-5, WHOLE)
    assert not y[0].isfinite().all()
    assert y[1:].isfinite().all()


HEADS = Heads(2, 1, 4)
MISTAKES: dict[str, tuple[Callable[[Kernels], Any], str]] = {
    "width": (
        lambda k: k.norm(torch.ones(2, 3), None, torch.ones(4), 1e-5, WHOLE),
        "shape (3,) ... (4,)",
    ),
    "branch": (
        lambda k: k.norm(torch.ones(2, 3), torch.ones(3, 3), torch.ones(3), 1e-5, WHOLE),
        "shape (2, 3) ... (3, 3)",
    ),
    "format of the residual": (
        lambda k: k.norm(torch.ones(2, 3, dtype=HALF), None, torch.ones(3), 1e-5, HALF),
        "torch.float32 ... torch.bfloat16",
    ),
    "double": (
        lambda k: k.gate(torch.ones(2, 4, dtype=torch.float64), "silu"),
        "float32 or bfloat16 ... torch.float64",
    ),
    "strides": (lambda k: k.gate(torch.ones(4, 2).t(), "silu"), "dense ... strides (1, 2)"),
    "device": (lambda k: k.gate(torch.ones(2, 4, device="meta"), "silu"), "CPU ... meta"),
    "odd columns": (lambda k: k.gate(torch.ones(2, 3), "silu"), "3 columns ... even"),
    "scale": (
        lambda k: k.norm_backward(
            torch.ones(2, 3),
            torch.ones(3),
            torch.ones(3),
            torch.ones(2, 3),
            None,
            with_branch=False,
        ),
        "shape (2,) ... (3,)",
    ),
    "packed": (lambda k: k.attention(torch.ones(1, 5, 15), HEADS, None), "(1, 5, 16)"),
    "groups": (
        lambda k: k.attention(torch.ones(1, 5, 28), Heads(3, 2, 4), None),
        "3 query heads ... 2 key/value heads",
    ),
    "too many angles": (
        lambda k: k.attention(torch.ones(1, 5, 16), HEADS, (torch.ones(5, 3), torch.ones(5, 3))),
        "3 columns ... 6 entries ... 4",
    ),
    "angles of other positions": (
        lambda k: k.attention(torch.ones(1, 5, 16), HEADS, (torch.ones(4, 2), torch.ones(4, 2))),
        "shape (5, 2) ... (4, 2)",
    ),
    "sums": (
        lambda k: k.attention_backward(
            torch.ones(1, 5, 16),
            HEADS,
            None,
            torch.ones(1, 5, 8),
            torch.ones(1, 2, 4),
            torch.ones(1, 5, 8),
        ),
        "shape (1, 2, 5) ... (1, 2, 4)",
    ),
    "target": (
        lambda k: k.cross_entropy(torch.ones(2, 5), torch.tensor([4, 5])),
        "target 5 ... 0 to 4",
    ),
    "format of targets": (
        lambda k: k.cross_entropy(torch.ones(2, 5), torch.tensor([4, 3], dtype=torch.int32)),
        "torch.int64 ... torch.int32",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_tensor_is_refused(kernels: Kernels, mistake: str) -> None:
    call, words = MISTAKES[mistake]
    with pytest.raises(ValueError, match=said(words)) as error:
        call(kernels)
    assert re.search(r"\d|CPU", str(error.value))
