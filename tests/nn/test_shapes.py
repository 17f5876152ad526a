"""Shapes in the signatures are checked while tests run; if the checker were off, every other test
would be weaker than it looks.
"""

import pytest
import torch
from jaxtyping import TypeCheckError

from puna.nn import RMSNorm, linear_cross_entropy, rotate, softmax_attention


def test_widths_that_differ_are_caught() -> None:
    with pytest.raises(TypeCheckError, match="weight"):
        linear_cross_entropy(
            torch.randn(2, 3, 8), torch.randn(50, 9), torch.zeros(2, 3, dtype=torch.long)
        )


def test_keys_and_values_of_unequal_length_are_caught() -> None:
    with pytest.raises(TypeCheckError):
        softmax_attention(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4))


def test_a_missing_head_axis_is_caught() -> None:
    with pytest.raises(TypeCheckError):
        rotate(torch.randn(1, 3, 4), torch.randn(3, 2), torch.randn(3, 2))


def test_integers_are_not_activations() -> None:
    with pytest.raises(TypeCheckError):
        RMSNorm(4)(torch.ones(2, 4, dtype=torch.long))
