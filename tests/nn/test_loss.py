"""The summed cross entropy and its chunked twin, against torch and against each other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from puna.nn import cross_entropy_sum, linear_cross_entropy, loss
from puna.nn.loss import CHUNK, IGNORE


def batch(
    rows: int, ignored: float = 0.3, vocabulary: int = 50, width: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(2, rows, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(0, vocabulary, (2, rows))
    return hidden, weight, targets.masked_fill(torch.rand(2, rows) < ignored, IGNORE)


def test_uniform_logits_cost_log_v_a_target() -> None:
    targets = torch.tensor([[0, 1, IGNORE], [9, IGNORE, IGNORE]])
    torch.testing.assert_close(
        cross_entropy_sum(torch.zeros(2, 3, 10), targets), torch.tensor(3 * math.log(10))
    )


def test_equals_torch_with_ignored_targets() -> None:
    logits, targets = torch.randn(4, 7, 11), torch.randint(0, 11, (4, 7))
    targets[0, :3] = IGNORE
    expected = F.cross_entropy(logits.view(28, 11), targets.view(28), reduction="none").sum()
    torch.testing.assert_close(cross_entropy_sum(logits, targets), expected)


def test_sums_bfloat16_logits_in_float32() -> None:
    """8 ln 10 a row over 4,096 rows: a bfloat16 sum would stop growing at a few hundred."""
    total = cross_entropy_sum(torch.zeros(4096, 10).bfloat16(), torch.zeros(4096, dtype=torch.long))
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, torch.tensor(4096 * math.log(10)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 1000])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_chunks_equal_the_whole_in_value_and_gradients(
    chunk: int, ignored: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 x 50 rows in chunks that divide them, that do not, of one row, and larger than all."""
    monkeypatch.setattr(loss, "CHUNK", chunk)
    hidden, weight, targets = batch(50, ignored)
    chunked, whole = (
        linear_cross_entropy(hidden, weight, targets),
        cross_entropy_sum(hidden @ weight.T, targets),
    )
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-5)
    ours, expected = (torch.autograd.grad(total, (hidden, weight)) for total in (chunked, whole))
    for mine, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


def test_the_chunk_that_ships_is_smaller_than_a_batch() -> None:
    """Two full chunks and a part of one, so that the shipped size is tested as it runs."""
    hidden, weight, targets = batch(CHUNK + 100)
    assert targets.numel() > 2 * CHUNK
    torch.testing.assert_close(
        linear_cross_entropy(hidden, weight, targets),
        cross_entropy_sum(hidden @ weight.T, targets),
        rtol=1e-5,
        atol=0,
    )


@settings(max_examples=20)
@given(cut=st.integers(1, 39), seed=st.integers(0, 2**31))
def test_the_loss_of_parts_adds_up(cut: int, seed: int) -> None:
    """What micro-batches and ranks rely on: the sum over a batch is the sum of the sums over its
    parts, ignored targets or not.
    """
    torch.manual_seed(seed)
    hidden, weight, targets = batch(40)
    parts = linear_cross_entropy(hidden[:, :cut], weight, targets[:, :cut]) + linear_cross_entropy(
        hidden[:, cut:], weight, targets[:, cut:]
    )
    torch.testing.assert_close(
        parts, linear_cross_entropy(hidden, weight, targets), rtol=1e-5, atol=1e-4
    )


def test_passes_on_a_scaled_gradient() -> None:
    """Dividing by the targets, as a training step does, must scale the gradients that were computed
    on the way forward.
    """
    hidden, weight, targets = batch(20)
    whole = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    scaled = torch.autograd.grad(
        -linear_cross_entropy(hidden, weight, targets) / 17, (hidden, weight)
    )
    for full, part in zip(whole, scaled, strict=True):
        torch.testing.assert_close(part, -full / 17)


def test_ignored_rows_have_no_gradient_and_all_ignored_is_zero() -> None:
    hidden, weight, targets = batch(30)
    total = linear_cross_entropy(hidden, weight, targets)
    (gradient,) = torch.autograd.grad(total, hidden)
    assert not gradient[targets == IGNORE].any()
    assert gradient[targets != IGNORE].any(-1).all()
    nothing = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORE))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, weight)[0].any()


def test_rows_of_the_logit_gradient_sum_to_zero() -> None:
    """softmax - one_hot sums to 0, so a weight of equal rows leaves the hidden states without
    gradient.
    """
    hidden, _, targets = batch(10, ignored=0)
    equal_rows = torch.randn(1, 8).expand(50, 8)
    (gradient,) = torch.autograd.grad(linear_cross_entropy(hidden, equal_rows, targets), hidden)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


def test_bfloat16_autocast_is_close_and_float32_outside() -> None:
    hidden, weight, targets = batch(300, vocabulary=200, width=32)
    exact = cross_entropy_sum(hidden @ weight.T, targets)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = linear_cross_entropy(hidden, weight, targets)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=5e-3, atol=0)
    for mine, expected in zip(
        torch.autograd.grad(mixed, (hidden, weight)),
        torch.autograd.grad(exact, (hidden, weight)),
        strict=True,
    ):
        assert mine.dtype == torch.float32
        assert (mine - expected).norm() < 0.02 * expected.norm()


def test_large_logits_stay_finite() -> None:
    hidden, weight, targets = batch(10)
    total = linear_cross_entropy(hidden * 1e4, weight, targets)
    assert torch.isfinite(total)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, (hidden, weight)))
