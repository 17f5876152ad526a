"""The curves of a plan: on every point the loss or the cost that the curve stands for, and the mark
at its lowest.
"""

import numpy as np
import pytest

from puna.plan.cost import Training
from puna.plan.curves import equal_loss, lifetime_cost
from puna.plan.scaling import LAWS


@pytest.mark.parametrize("name", LAWS)
def test_every_point_of_a_curve_of_equal_loss_has_that_loss(name: str) -> None:
    law = LAWS[name]
    for curve in equal_loss(law, (2.0, 2.4)):
        losses = [
            law.loss(Training(*point)) for point in zip(curve.parameters, curve.values, strict=True)
        ]
        np.testing.assert_allclose(losses, curve.level, rtol=1e-12)
        least = np.argmin(6 * curve.parameters * curve.values)
        # the grid's step
        assert curve.parameters[least] == pytest.approx(curve.chosen[0], rel=0.05)
        assert np.all(np.diff(curve.values) < 0)


@pytest.mark.parametrize("served", [0, 1e11, 1e15, 1e20])
def test_the_mark_of_a_cost_curve_is_its_lowest_point(served: float) -> None:
    law = LAWS["sardana"]
    (curve,) = lifetime_cost(law, 2.0, [served])
    assert curve.level == served
    assert curve.chosen[1] <= curve.values.min() * (1 + 1e-12)
    assert curve.values.min() == pytest.approx(curve.chosen[1], rel=0.01)
    lowest = int(np.argmin(curve.values))
    assert 0 < lowest < len(curve.values) - 1  # the grid holds both sides
    point = Training(curve.parameters[7], law.tokens_for(2.0, curve.parameters[7]))
    assert curve.values[7] == 6 * point.parameters * point.tokens + 2 * point.parameters * served


def test_costs_of_several_lives_share_their_grid() -> None:
    one, other = lifetime_cost(LAWS["epoch"], 2.1, [0, 1e13])
    np.testing.assert_array_equal(one.parameters, other.parameters)
    assert np.all(one.values < other.values)
