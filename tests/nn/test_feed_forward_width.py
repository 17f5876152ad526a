"""The width of a gated feed-forward layer against every published LLaMA, and the parameters it is
meant to match.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from puna.nn import FeedForward, GatedFeedForward, swiglu_hidden_size


@pytest.mark.parametrize(
    ("width", "multiple_of", "multiplier", "published"),
    [
        (4096, 256, 1.0, 11008),  # LLaMA 7B
        (5120, 256, 1.0, 13824),  # 13B
        (6656, 256, 1.0, 17920),  # 33B
        (8192, 256, 1.0, 22016),  # 65B
        (8192, 4096, 1.3, 28672),  # Llama 2 70B, 3 70B
        (4096, 1024, 1.3, 14336),  # Llama 3 8B
        (16384, 4096, 1.2, 53248),  # Llama 3.1 405B
        (2048, 256, 1.5, 8192),  # Llama 3.2 1B
        (3072, 256, 1.0, 8192),  # Llama 3.2 3B: 8/3 of it is whole, nothing to round
    ],
)
def test_published_widths(width: int, multiple_of: int, multiplier: float, published: int) -> None:
    assert swiglu_hidden_size(width, multiple_of, multiplier) == published


def test_the_fraction_is_cut_before_the_rounding_up() -> None:
    assert round(2 / 3 * 4 * 8192, 2) == 21845.33
    assert swiglu_hidden_size(8192, multiple_of=1) == 21845


@given(width=st.integers(1, 20000), multiple_of=st.integers(1, 4096))
def test_rounds_up_by_less_than_one_multiple(width: int, multiple_of: int) -> None:
    hidden = swiglu_hidden_size(width, multiple_of)
    assert hidden % multiple_of == 0
    assert 0 <= hidden - 8 * width // 3 < multiple_of


@given(width=st.integers(2, 20000), multiple_of=st.integers(1, 4096), multiplier=st.floats(0.5, 4))
def test_equals_the_steps_of_meta_s_code(width: int, multiple_of: int, multiplier: float) -> None:
    """Its FeedForward takes 4 D, keeps two thirds, multiplies, and rounds up; each step cuts to a
    whole number.
    """
    hidden = 4 * width
    hidden = int(2 * hidden / 3)
    hidden = int(multiplier * hidden)
    hidden = multiple_of * ((hidden + multiple_of - 1) // multiple_of)
    assert swiglu_hidden_size(width, multiple_of, multiplier) == hidden


def test_is_never_0() -> None:
    assert swiglu_hidden_size(1, 8, multiplier=0.1) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width 0"),
        ({"width": -4}, "width -4"),
        ({"width": 4, "multiple_of": 0}, "multiple_of 0"),
        ({"width": 4, "multiplier": 0.0}, "multiplier 0.0"),
        ({"width": 4, "multiplier": -1.3}, "multiplier -1.3"),
        ({"width": 4, "multiplier": math.nan}, "multiplier nan"),
        ({"width": 4, "multiplier": math.inf}, "multiplier inf"),
    ],
)
def test_numbers_that_give_no_width_are_rejected(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(
        ValueError, match=f"{message} gives no width: it must be above 0 and finite"
    ):
        swiglu_hidden_size(**arguments)


def parameters(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("multiple_of", [1, 256])
@pytest.mark.parametrize("width", [384, 512, 4096, 8192])
def test_a_gated_layer_has_the_parameters_of_an_ungated_one_of_4_d_within_the_rounding(
    width: int, multiple_of: int
) -> None:
    """Three D x F matrices against two of D x 4 D; and no more than the cut fraction less."""
    with torch.device("meta"):
        gated = parameters(GatedFeedForward(width, swiglu_hidden_size(width, multiple_of)))
        ungated = parameters(FeedForward(width, 4 * width, F.relu))
    assert ungated == 8 * width**2
    assert -3 * width < gated - ungated < 3 * width * multiple_of
