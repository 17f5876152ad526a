"""NumPy's side of the operations of sampling against PyTorch's, and sampling without PyTorch."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from puna.inference import arrays

# Below, at and above the number of elements that NumPy looks at together
WIDTHS = [1, 2, 63, 64, 65, 128, 4097, 5000]


def random_rows(width: int, seed: int = 0) -> NDArray[np.float32]:
    values: NDArray[Any] = np.random.default_rng(seed).standard_normal((3, width))
    return values.astype(np.float32)


def equal(ours: NDArray[Any], theirs: torch.Tensor) -> bool:
    return ours.dtype == theirs.numpy().dtype and np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("width", WIDTHS)
def test_the_operations_agree_with_pytorchs(width: int) -> None:
    values = random_rows(width)
    tensor = torch.from_numpy(values)
    ids = np.array([[0], [width - 1], [width // 2]])
    assert equal(arrays.greatest(values), arrays.greatest(tensor))
    assert equal(arrays.gather(values, ids), arrays.gather(tensor, torch.from_numpy(ids)))
    assert equal(arrays.floor(9 * values), arrays.floor(9 * tensor))
    assert equal(arrays.ascending(values), arrays.ascending(tensor))
    assert equal(arrays.where(values > 0, 2.0, values), arrays.where(tensor > 0, 2.0, tensor))
    assert equal(arrays.sort_keys(abs(values)), arrays.sort_keys(abs(tensor)))
    assert arrays.softmax(values) == pytest.approx(arrays.softmax(tensor).numpy(), rel=1e-5)
    assert arrays.log_softmax(values) == pytest.approx(
        arrays.log_softmax(tensor).numpy(), rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_smallest_of_a_row_are_found_among_equals_too(width: int) -> None:
    for values in (random_rows(width), np.round(random_rows(width, 1))):
        for count in {0, 1, 2, 50, width} & set(range(width + 1)):
            assert equal(
                arrays.smallest(values, count), arrays.smallest(torch.from_numpy(values), count)
            )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("floor", [-9.0, 0.3, 9.0])
def test_elements_below_the_floor_come_first_and_the_others_sorted(
    width: int, floor: float
) -> None:
    values = random_rows(width)
    ordered = arrays.ascending_from(values, np.array([[floor], [floor], [9.0]]))
    assert np.array_equal(np.sort(ordered), np.sort(values)), "a permutation"
    below = int((values[0] < floor).sum())
    assert (ordered[0, :below] < floor).all()
    assert np.array_equal(ordered[0, below:], np.sort(values[0])[below:])


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=200).filter(any),
    st.integers(0, 4) | st.floats(0, 1),
)
def test_the_first_sum_above_a_share_is_found_in_any_block(
    weights: list[int], share: float
) -> None:
    """Whole numbers, whose sums are exact, against Python's own; a share of 1 and more gives the
    last element.
    """
    values = np.array([weights], np.float32)
    bound, total, expected = share * sum(weights), 0, len(weights) - 1
    for index, weight in enumerate(weights):
        total += weight
        if total > bound:
            expected = index
            break
    shares = np.array([[share]], np.float64)
    assert arrays.first_above(values, shares).tolist() == [[expected]]
    assert arrays.first_above(torch.from_numpy(values), torch.from_numpy(shares)).tolist() == [
        [expected]
    ]


def test_a_column_is_int64_of_integers_and_float32_of_other_numbers() -> None:
    for like in (np.zeros(1), torch.zeros(1)):
        assert [
            str(arrays.column(values, like).dtype).removeprefix("torch.")
            for values in ([1, 2], [1.0, 2.0], [1, 0.5])
        ] == ["int64", "float32", "float32"]
        assert arrays.column([1, 2], like).tolist() == [[1], [2]]


def test_a_row_without_a_finite_logit_gives_nan_as_pytorch_does() -> None:
    values = np.full((1, 4), -np.inf, np.float32)
    for function in (arrays.softmax, arrays.log_softmax):
        assert np.isnan(function(values)).all()
        assert function(torch.from_numpy(values)).isnan().all()


def test_an_engine_of_numpy_logits_needs_no_pytorch() -> None:
    """Modules of the native path, and draws by every processor, in a process of its own."""
    program = """
import sys
import numpy as np
import puna.cli.generate, puna.cli.vocabulary_view
import puna.inference.engine, puna.inference.language_model
import puna.inference.native_executor, puna.inference.native_choice
from puna.inference.request import GenerationOptions
from puna.inference.logits_processors import SamplingRow
from puna.inference.sampling import choose, log_probabilities
rows = [
    SamplingRow(GenerationOptions(**options), 0, [1, 2], [3], 7, allowed, banned)
    for options, allowed, banned in [
        ({"temperature": 0}, None, ()),
        ({}, np.arange(300) < 9, (2,)),
        (dict(top_k=40, top_p=0.9, min_p=0.01, typical_p=0.9, temperature=0.7), None, ()),
        (dict(repetition_penalty=1.2, presence_penalty=1, logit_bias={4: 2.0}), None, ()),
    ]
]
logits = np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32)
tokens = choose(logits, rows)
assert log_probabilities(logits, tokens, [0, 3, None, 5])[3].id == tokens[3]
sys.exit("torch" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr or "PyTorch was imported"
