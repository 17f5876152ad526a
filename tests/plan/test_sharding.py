"""Traffic and time of training with shared weights, against sums by hand."""

import pytest
from said import said

from puna.errors import PlanError
from puna.plan.sharding import NETWORK_BYTES, NODE_BYTES, ShardedStep, bandwidth


def step(gpus: int) -> ShardedStep:
    """Ten blocks of 90 parameters and 100 more."""
    return ShardedStep(1000, 900, gpus)


def test_the_ring_sends_all_but_ones_own_share() -> None:
    # blocks twice in two bytes, the rest once in four, gradients in four
    whole = 4 * 900 + 4 * 100 + 4 * 1000
    assert step(2).traffic == whole / 2
    assert step(4).traffic == whole * 3 / 4


def test_efficiency_is_one_where_sending_hides() -> None:
    found = step(2)
    assert found.sending_seconds(4000) == 1.0
    assert found.efficiency(2.0, 4000) == 1.0
    assert found.efficiency(0.5, 4000) == 0.5


def test_more_gpus_than_a_node_has_send_over_the_network() -> None:
    assert (bandwidth(8), bandwidth(9)) == (NODE_BYTES, NETWORK_BYTES)


def test_one_gpu_is_rejected() -> None:
    with pytest.raises(PlanError, match=said("1 GPU shares weights with no other")):
        step(1)
