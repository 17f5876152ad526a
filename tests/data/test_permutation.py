"""The shuffle without an index is a permutation, depends on its key alone and is well mixed."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from puna.data.permutation import permute


@given(st.integers(1, 3000), st.text(max_size=20))
def test_it_is_a_bijection(n: int, key: str) -> None:
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


@given(st.integers(1, 2**50), st.text(max_size=5), st.data())
def test_a_place_goes_to_the_same_image_in_any_company(
    n: int, key: str, data: st.DataObject
) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
    together = permute(places, n, key)
    assert ((together >= 0) & (together < n)).all()
    assert permute(places[-1:], n, key)[0] == together[-1]


def test_every_order_of_four_is_about_equally_likely() -> None:
    orders = Counter(
        tuple(permute(np.arange(4), 4, f"key {number}").tolist()) for number in range(4800)
    )
    chi_squared = sum((count - 200) ** 2 / 200 for count in orders.values())
    assert len(orders) == 24
    assert chi_squared < 49.7  # 23 degrees of freedom: one honest shuffle in a thousand is beyond


def test_neighbours_are_scattered() -> None:
    n = 100_003
    images = permute(np.arange(n), n, "key").astype(float)
    steps = np.abs(np.diff(images))
    # the mean distance of two independent places is n/3
    assert abs(steps.mean() / n - 1 / 3) < 0.01
    correlation = np.corrcoef(np.arange(n), images)[0, 1]
    assert abs(correlation) < 0.015  # 4.7 standard deviations of 1/sqrt(n)
