"""From losses of runs to the five constants of a scaling law, and how sure one may be of them.

Minimised is the sum over runs of Huber(log L(N, D) - log L), with Huber(r) = r^2 / 2 up to |r| =
0.001 and linear beyond, so that a run that went wrong pulls like one, not like its square. In
logarithms L(N, D) is a log-sum-exp of three terms,

    log L(N, D) = LSE(a - alpha log N, b - beta log D, e),  with A = exp a, B = exp b, E = exp e,

which stays finite wherever the search goes. Errors are counted in units of 0.001: L-BFGS stops
where a step gains less than a tolerance in absolute terms, and the terms themselves are of the
order of 10^-6.

There are local minima, in which one of the three terms does nothing, hence many starts. Hoffmann's
grid spans all five constants, 4,500 points. Here it spans the two exponents: given them the loss is
linear in E, A and B, which non-negative least squares finds at once. From the best 40 of these 256
starts L-BFGS descends, in under a second, to a minimum that is no higher (tests/plan/test_fit.py).

Source: Hoffmann et al. 2022, appendix D.3; Besiroglu et al. 2024, section 3 and appendices, for
what goes wrong. Usual mistake: averaging the terms instead of adding them, which makes L-BFGS stop
before it has converged, at constants near its start.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, nnls

from puna.errors import PlanError
from puna.plan.scaling import ScalingLaw

Values = npt.NDArray[np.float64]

DELTA = 1e-3
FEWEST = 6
"""Runs that a fit needs: one more than there are constants."""
FEWEST_DIFFERENT = 3
"""Different N, and different D, that a fit needs: two values of A / N^alpha + E fit any
exponent.
"""
STARTS = np.geomspace(0.05, 2, 16)
"""Values of each exponent in the grid of starts."""
DESCENTS = 40
EXPONENTS = (0.01, 5.0)
"""Below, a term is one more constant beside E; beyond, a cliff between one run and the next."""


@dataclass(frozen=True)
class Runs:
    """The losses of runs: arrays of one length, parameters N, training tokens D, loss in nats per
    token.
    """

    parameters: Values
    tokens: Values
    loss: Values

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def enough(self) -> bool:
        """True where they can tell five constants apart."""
        different = min(len(np.unique(self.parameters)), len(np.unique(self.tokens)))
        return len(self) >= FEWEST and different >= FEWEST_DIFFERENT

    def resampled(self, rng: np.random.Generator) -> "Runs":
        """As many runs, drawn with replacement; drawn anew while they are not enough."""
        while True:
            chosen = rng.integers(len(self), size=len(self))
            drawn = Runs(self.parameters[chosen], self.tokens[chosen], self.loss[chosen])
            if drawn.enough:
                return drawn


def read_runs(path: Path) -> tuple[Runs, int]:
    """The runs of a file of JSON lines with `parameters`, `tokens` and `loss`, and how many lines
    lack one of these keys.

    Raises PlanError for a line that is no JSON, for a value that is no number above zero, and where
    no line has the keys.
    """
    keys = [field.name for field in fields(Runs)]
    rows, skipped = [], 0
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise PlanError(
            f"{path} is not UTF-8 text; give JSON lines such as {_example(keys)}"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise PlanError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(record, dict) or not record.keys() >= set(keys):
            skipped += 1
            continue
        for key in keys:
            value = record[key]
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not 0 < value < float("inf")
            ):
                raise PlanError(
                    f"{path}, line {number}: {key} is {value!r}, but must be a number above zero;"
                    " mend the line or leave it out"
                )
        rows.append([float(record[key]) for key in keys])
    if not rows:
        raise PlanError(
            f"{path}: none of {skipped} lines has the keys {', '.join(keys)}; give lines such as"
            f" {_example(keys)}"
        )
    return Runs(*np.array(rows).T), skipped


def _example(keys: Sequence[str]) -> str:
    return json.dumps(dict(zip(keys, (4_000_000, 80_000_000, 2.41), strict=True)))


def fit_law(runs: Runs) -> ScalingLaw:
    """The constants that fit the runs best. Raises PlanError for runs that cannot tell them
    apart.
    """
    if not runs.enough:
        raise PlanError(
            f"{len(runs)} runs with {len(np.unique(runs.parameters))} different numbers of"
            f" parameters and {len(np.unique(runs.tokens))} of tokens do not fix five constants: at"
            f" least {FEWEST} runs are needed, with at least {FEWEST_DIFFERENT} different ones of"
            " each"
        )
    logs = _logs(runs)
    starts = sorted(_starts(runs), key=lambda point: _objective(point, *logs)[0])
    best = min(
        (_descend(start, logs) for start in starts[:DESCENTS]),
        key=lambda point: _objective(point, *logs)[0],
    )
    law = _law(best)
    # at the smallest run, where a term is largest
    gains = {
        "parameters": (law.alpha, law.A / runs.parameters.min() ** law.alpha),
        "tokens": (law.beta, law.B / runs.tokens.min() ** law.beta),
    }
    for name, (exponent, gain) in gains.items():
        if exponent in EXPONENTS or gain < DELTA * runs.loss.min():
            raise PlanError(
                f"these losses do not say how they fall with {name}: the best exponent is"
                f" {exponent:.3g}, and the most that {name} explain is {gain:.3g} nats; add runs"
                f" that differ more in {name}"
            )
    return law


def resampled_laws(runs: Runs, law: ScalingLaw, resamples: int, seed: int) -> Iterator[ScalingLaw]:
    """The fits of `resamples` bootstrap samples of the runs, each descended from `law`, their fit;
    20 ms each for 240 runs.
    """
    rng = np.random.default_rng(seed)
    start = np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])
    for _ in range(resamples):
        yield _law(_descend(start, _logs(runs.resampled(rng))))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The bootstrap's 95% percentile interval: 2.5% of the values lie below it, 2.5% above."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def largest_error(runs: Runs, law: ScalingLaw) -> float:
    """The error of the law at the run that it fits worst, as a share of that run's loss."""
    expected = law.E + law.A / runs.parameters**law.alpha + law.B / runs.tokens**law.beta
    return float(np.abs(expected / runs.loss - 1).max())


def _logs(runs: Runs) -> tuple[Values, Values, Values]:
    return np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)


def _law(point: Values) -> ScalingLaw:
    a, b, e = np.exp(point[:3]).tolist()
    return ScalingLaw(E=e, A=a, B=b, alpha=float(point[3]), beta=float(point[4]))


def _starts(runs: Runs) -> list[Values]:
    """For each pair of exponents the a, b and e of the least squares of relative errors; a term
    that gets nothing keeps a thousandth.
    """
    points = []
    for alpha in STARTS:
        for beta in STARTS:
            terms = np.stack([runs.parameters**-alpha, runs.tokens**-beta, np.ones(len(runs))])
            # terms differ by orders of magnitude: scaled to 1 at most, so that nnls is well posed
            tops = terms.max(1)
            shares, _ = nnls((terms / tops[:, None] / runs.loss).T, np.ones(len(runs)))
            a, b, e = np.log(np.maximum(shares, 1e-3 * runs.loss.min()) / tops)
            points.append(np.array([a, b, e, alpha, beta]))
    return points


def _descend(start: Values, logs: tuple[Values, Values, Values]) -> Values:
    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-14, "gtol": 1e-6, "maxcor": 20}
    point: Values = minimize(
        _objective,
        start,
        args=logs,
        jac=True,
        method="L-BFGS-B",
        bounds=[(None, None)] * 3 + [EXPONENTS] * 2,
        options=options,
    ).x
    return point


def _objective(
    point: Values, log_n: Values, log_d: Values, log_loss: Values
) -> tuple[float, Values]:
    """The sum of Huber terms in units of DELTA^2, and its gradient."""
    a, b, e, alpha, beta = point
    terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    top = terms.max(0)
    shares = np.exp(terms - top)
    sums = shares.sum(0)
    shares /= sums
    errors = (top + np.log(sums) - log_loss) / DELTA
    small = np.abs(errors) <= 1
    value = np.where(small, errors**2 / 2, np.abs(errors) - 0.5).sum()
    slopes = np.where(small, errors, np.sign(errors)) / DELTA * shares
    by_a, by_b, by_e = slopes.sum(1)
    return float(value), np.array([by_a, by_b, by_e, -slopes[0] @ log_n, -slopes[1] @ log_d])
