"""Fitting scaling laws: constants found again, an independent minimiser, and data that cannot
tell.
"""

import json
from dataclasses import astuple
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from said import said
from scipy.optimize import approx_fprime, least_squares

from puna.errors import PlanError
from puna.plan.fit import (
    DELTA,
    Runs,
    _descend,
    _logs,
    _objective,
    fit_law,
    interval,
    largest_error,
    read_runs,
    resampled_laws,
)
from puna.plan.scaling import LAWS, ScalingLaw

NAMES = ("E", "A", "B", "alpha", "beta")


def made_runs(
    law: ScalingLaw,
    *,
    noise: float = 0.0,
    sizes: int = 7,
    ratios: tuple[float, ...] = (2, 5, 10, 20, 40, 80, 160),
) -> Runs:
    """Runs of 50M to 10B parameters at several tokens a parameter, with normal noise on the
    logarithm of the loss.
    """
    parameters, ratio = (
        axis.ravel() for axis in np.meshgrid(np.geomspace(5e7, 1e10, sizes), ratios)
    )
    loss = law.E + law.A / parameters**law.alpha + law.B / (parameters * ratio) ** law.beta
    return Runs(
        parameters,
        parameters * ratio,
        loss * np.exp(noise * np.random.default_rng(1).standard_normal(len(loss))),
    )


def constants(law: ScalingLaw) -> np.ndarray:
    """(a, b, e, alpha, beta), as the search has them."""
    return np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])


@pytest.mark.parametrize("name", ["hoffmann", "epoch"])
def test_exact_losses_give_their_constants_back(name: str) -> None:
    runs = made_runs(LAWS[name], sizes=4, ratios=(5, 20, 80))
    law = fit_law(runs)
    assert astuple(law) == pytest.approx(astuple(LAWS[name]), rel=1e-3)
    assert largest_error(runs, law) < 1e-6


def test_noisy_losses_give_their_constants_back_within_the_intervals() -> None:
    runs = made_runs(LAWS["epoch"], noise=0.002)
    law = fit_law(runs)
    laws = list(resampled_laws(runs, law, 100, seed=0))
    for name in NAMES:
        low, high = interval([getattr(other, name) for other in laws])
        assert low < getattr(LAWS["epoch"], name) < high
        assert low <= getattr(law, name) <= high
    low, high = interval([other.exponents[0] for other in laws])
    assert low < LAWS["epoch"].exponents[0] < high
    assert high - low < 0.06  # and the interval says something: 49 runs with 0.2% of noise


def test_an_independent_minimiser_finds_the_same_constants() -> None:
    """scipy's trust-region least squares with its own Huber loss, from the truth; Huber(r) there is
    r^2 up to 1 and 2 sqrt - 1 beyond.
    """
    truth = LAWS["hoffmann"]
    runs = made_runs(truth, noise=0.003)

    def errors(point: np.ndarray) -> np.ndarray:
        a, b, e, alpha, beta = point
        expected = np.exp(a) / runs.parameters**alpha + np.exp(b) / runs.tokens**beta + np.exp(e)
        return np.log(expected) - np.log(runs.loss)

    found = least_squares(
        errors,
        constants(truth),
        loss="huber",
        f_scale=DELTA,
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
        max_nfev=5000,
    )
    law = fit_law(runs)
    ours = constants(law)
    assert _objective(ours, *_logs(runs))[0] * DELTA**2 == pytest.approx(found.cost, rel=1e-6)
    np.testing.assert_allclose(ours, found.x, rtol=2e-3)


def test_a_run_that_went_wrong_hardly_moves_the_fit() -> None:
    """Least squares would put its square into every constant; the Huber loss gives it the pull of
    one run.
    """
    runs = made_runs(LAWS["epoch"])
    loss = runs.loss.copy()
    loss[10] *= 1.5
    assert astuple(fit_law(Runs(runs.parameters, runs.tokens, loss))) == pytest.approx(
        astuple(LAWS["epoch"]), rel=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_hoffmann_s_grid_of_4500_starts_finds_no_lower_minimum(noise: float) -> None:
    runs = made_runs(LAWS["hoffmann"], noise=noise, sizes=4, ratios=(5, 20, 80))
    logs = _logs(runs)
    grid = product(
        range(0, 30, 5),
        range(0, 30, 5),
        (-1, -0.5, 0, 0.5, 1),
        (0, 0.5, 1, 1.5, 2),
        (0, 0.5, 1, 1.5, 2),
    )
    lowest = min(
        _objective(_descend(np.array(start, dtype=float), logs), *logs)[0] for start in grid
    )
    assert _objective(constants(fit_law(runs)), *logs)[0] <= lowest + 1e-6


@pytest.mark.parametrize(
    "point", [np.zeros(5), np.array([10, 5, -0.5, 1.5, 0.5]), np.array([6.2, 7.6, 0.6, 0.35, 0.37])]
)
def test_the_gradient_is_that_of_the_objective(point: np.ndarray) -> None:
    logs = _logs(made_runs(LAWS["epoch"], noise=0.001))
    numeric = approx_fprime(point, lambda at: _objective(at, *logs)[0], 1e-9)
    np.testing.assert_allclose(_objective(point, *logs)[1], numeric, rtol=2e-3, atol=20)


def test_resampling_is_decided_by_its_seed() -> None:
    runs = made_runs(LAWS["epoch"], noise=0.002, sizes=4)
    first, again, other = (list(resampled_laws(runs, LAWS["epoch"], 3, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_resamples_too_can_tell_five_constants_apart() -> None:
    runs = made_runs(LAWS["epoch"], sizes=3, ratios=(5, 20))
    rng = np.random.default_rng(0)
    assert all(runs.resampled(rng).enough for _ in range(200))


@pytest.mark.parametrize(
    ("sizes", "ratios", "counts"),
    [
        (5, (20,), "5 runs ... 5 different ... parameters ... 5 ... tokens"),
        (1, (1, 2, 4, 8, 16, 32), "6 runs ... 1 different ... parameters ... 6 ... tokens"),
        (2, (1, 2, 4, 8), "8 runs ... 2 different ... parameters ... 8 ... tokens"),
    ],
)
def test_runs_that_fix_no_five_constants_are_rejected(
    sizes: int, ratios: tuple[float, ...], counts: str
) -> None:
    with pytest.raises(
        PlanError, match=said(f"{counts} ... at least 6 runs ... at least 3 different")
    ):
        fit_law(made_runs(LAWS["epoch"], sizes=sizes, ratios=ratios))


def test_six_runs_are_enough() -> None:
    assert astuple(fit_law(made_runs(LAWS["epoch"], sizes=3, ratios=(5, 80)))) == pytest.approx(
        astuple(LAWS["epoch"]), rel=0.01
    )


@pytest.mark.parametrize(
    ("axis", "words"), [("parameters", "with parameters"), ("tokens", "with tokens")]
)
def test_losses_that_do_not_depend_on_an_axis_are_rejected(axis: str, words: str) -> None:
    runs = made_runs(LAWS["epoch"])
    kept = runs.tokens if axis == "parameters" else runs.parameters
    with pytest.raises(PlanError, match=words):
        fit_law(Runs(runs.parameters, runs.tokens, 1.5 + 100 / kept**0.3))


def write(path: Path, *lines: object) -> Path:
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines),
        encoding="utf-8",
    )
    return path


def test_lines_without_the_keys_are_passed_over_and_counted(tmp_path: Path) -> None:
    run = {"parameters": 4_000_000, "tokens": 8e7, "loss": 2.41, "name": "other keys do no harm"}
    runs, skipped = read_runs(
        write(
            tmp_path / "r.jsonl",
            run,
            {"step": 3},
            "",
            [1, 2],
            {**run, "loss": 2.5},
            {"loss": 1.0, "tokens": 3},
        )
    )
    assert (runs.parameters.tolist(), runs.tokens.tolist(), runs.loss.tolist()) == (
        [4e6, 4e6],
        [8e7, 8e7],
        [2.41, 2.5],
    )
    assert skipped == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['{"loss": 2}', "{}"],
            '2 lines ... parameters, tokens, loss ... {"parameters": 4000000',
        ),
        ([], "0 lines"),
        (["{}", "loss 2.3"], "line 2 ... JSON"),
        (
            ['{"parameters": 1e6, "tokens": 1e9, "loss": -1}'],
            "line 1: loss ... -1 ... above zero",
        ),
        (['{"parameters": 1e6, "tokens": NaN, "loss": 2}'], "line 1: tokens ... nan"),
        (['{"parameters": null, "tokens": 1, "loss": 2}'], "line 1: parameters ... None"),
        (['{"parameters": "1M", "tokens": 1, "loss": 2}'], "line 1: parameters ... '1M'"),
        (['{"parameters": true, "tokens": 1, "loss": 2}'], "line 1: parameters ... True"),
    ],
)
def test_results_that_cannot_be_read_are_one_clear_error(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=said(message)):
        read_runs(write(tmp_path / "r.jsonl", *lines))


def test_a_file_that_is_no_text_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "r.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match=said("r.bin ... UTF-8")):
        read_runs(tmp_path / "r.bin")
