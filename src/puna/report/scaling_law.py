"""The section `Scaling law` of a study whose arms are a grid of sizes and tokens, and the curves
that are drawn of it.

Fitted by `puna.plan`, which knows nothing of studies, to the loss of every run that did not
diverge. All that is printed is rounded to three digits, fewer than two machines could differ in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from puna.errors import PunaError
from puna.number_format import amount
from puna.plan.cost import Training
from puna.plan.curves import equal_loss, lifetime_cost
from puna.plan.fit import Runs, fit_law, interval, largest_error, resampled_laws
from puna.plan.scaling import ScalingLaw
from puna.plots.scaling_curves import Panel, ScalingCurves
from puna.report.section import Figure, Section, StudyResults, plain, table
from puna.study.results import StudyRuns, value_of

RESAMPLES = 200
SEED = 0
SERVED = (1, 10, 100)
"""Tokens that the model reads and writes after training, in tokens of training of the compute
optimum.
"""
LEVELS = 4
"""Curves of equal loss."""
NOTHING = 1e-9
"""Below this a constant is 0: where the fit ends on its way there says nothing."""


@dataclass(frozen=True)
class StudyLaw:
    """The law that fits the study's runs, and those of bootstrap samples of them."""

    runs: Runs
    law: ScalingLaw
    resampled: Sequence[ScalingLaw]
    left_out: int

    @property
    def best(self) -> Training:
        """The compute optimum at the largest 6 N D of the study."""
        return self.law.compute_optimum(6 * float((self.runs.parameters * self.runs.tokens).max()))


def fit_study(runs: StudyRuns) -> StudyLaw:
    """The law of a study. Raises PunaError where its runs do not fix one."""
    finished = [
        (run["parameters"], run["tokens"], run["loss"])
        for run in runs
        if value_of(run, "loss") < float("inf")
    ]
    columns = np.array(finished, dtype=np.float64).reshape(-1, 3).T
    points = Runs(*columns)
    law = fit_law(points)
    return StudyLaw(
        points, law, tuple(resampled_laws(points, law, RESAMPLES, SEED)), len(runs) - len(points)
    )


def scaling_law(results: StudyResults) -> Section | None:
    """The law with its optima and curves, or why none can be fitted; None where the study asks for
    none.
    """
    if not results.study.fit:
        return None
    try:
        fitted = fit_study(results.runs)
    except PunaError as error:
        return Section("Scaling law", f"No law was fitted: {plain(str(error))}.")
    return Section("Scaling law", _text(fitted), [_figure(results.runs, fitted)])


def _text(fitted: StudyLaw) -> str:
    parts = [
        _fit(fitted),
        _constants(fitted),
        (
            f"Intervals are percentiles of {RESAMPLES} bootstrap samples of the runs (seed"
            f" {SEED}). They hold what chance does in these runs, and not that the form of the"
            " law may be wrong. E, A and B trade off against each other and against their"
            " exponents."
        ),
        _optimum(fitted),
        _lifetimes(fitted),
        (
            "Saved: of those FLOPs, against training and serving the compute optimum. What lies"
            " outside the sizes and tokens that were run is an extrapolation here too."
        ),
    ]
    return "\n\n".join(parts)


def _fit(fitted: StudyLaw) -> str:
    """The sentences on the runs behind the law, and on its error."""
    runs = fitted.runs
    left = f" {fitted.left_out} runs diverged and are left out." if fitted.left_out else ""
    return (
        f"L(N, D) = E + A / N^alpha + B / D^beta, nats per token, fitted to {len(runs)}"
        f" runs of {_amount(runs.parameters.min())} to {_amount(runs.parameters.max())} parameters"
        f" on {_amount(runs.tokens.min())} to {_amount(runs.tokens.max())} tokens; N counts all"
        f" parameters, embeddings included.{left} The run that it fits worst is off by"
        f" {largest_error(runs, fitted.law):.1%}."
    )


def _constants(fitted: StudyLaw) -> str:
    """The table of the constants and of the optimum's exponents, with intervals."""
    laws = (fitted.law, *fitted.resampled)
    rows = [
        [name, *_cells([getattr(law, name) for law in laws])]
        for name in ("E", "A", "B", "alpha", "beta")
    ]
    labels = ("optimal N grows like C^a: a", "optimal D grows like C^b: b")
    rows += [
        [label, *_cells([law.exponents[index] for law in laws])]
        for index, label in enumerate(labels)
    ]
    return table("lrr", ["", "fit", "95% interval"], rows)


def _optimum(fitted: StudyLaw) -> str:
    """The sentences on the compute optimum, which introduce the table of lifetime optima."""
    runs, best = fitted.runs, fitted.best
    optima = [law.compute_optimum(best.flops) for law in (fitted.law, *fitted.resampled)]
    within = (
        runs.parameters.min() <= best.parameters <= runs.parameters.max()
        and runs.tokens.min() <= best.tokens <= runs.tokens.max()
    )
    beyond = " That lies outside the sizes or tokens that were run: an extrapolation."
    return (
        f"At the largest compute of the study, 6 N D = {best.flops:.3g} FLOPs, the law is"
        f" lowest, {fitted.law.loss(best):.2f}, at N = {_amount(best.parameters)}"
        f" ({_range([one.parameters for one in optima])}) and D = {_amount(best.tokens)}"
        f" ({_range([one.tokens for one in optima])}).{'' if within else beyond} A model that will"
        " be used is cheapest over its life if it is smaller and trained for longer, to the same"
        " loss; training costs 6 N D FLOPs, inference 2 N a token:"
    )


def _lifetimes(fitted: StudyLaw) -> str:
    """The table of the compute optimum and the lifetime optima for `SERVED` times its tokens."""
    law, best = fitted.law, fitted.best
    rows = [["compute optimum", "none", *_model(best), f"{best.flops:.3g}", ""]]
    for times in SERVED:
        served = times * best.tokens
        longer = law.lifetime_optimum(law.loss(best), served)
        cost, instead = (training.lifetime_flops(served) for training in (longer, best))
        saved = f"{1 - cost / instead:.0%}"
        rows.append(["lifetime optimum", _amount(served), *_model(longer), f"{cost:.3g}", saved])
    header = ["", "tokens served", "N", "D", "D / N", "FLOPs of the life", "saved"]
    return table("lrrrrrr", header, rows)


def _figure(runs: StudyRuns, fitted: StudyLaw) -> Figure:
    arms = [
        (arm, float(of_arm[0]["parameters"]), float(max(run["tokens"] for run in of_arm)))
        for arm, of_arm in runs.by_arm.items()
    ]
    described = (
        "Curves of equal loss over parameters and tokens, with the arms"
        f" {', '.join(arm for arm, _, _ in arms)}; cost of a life."
    )
    return Figure(
        "Equal loss, and the cost of a life",
        "all axes logarithmic",
        ScalingCurves("scaling-law", _panels(fitted, arms), described),
        "Squares: the study's arms. A dot on a curve is its cheapest point: of training on the"
        " left, of a life on the right.",
    )


def _panels(fitted: StudyLaw, arms: Sequence[tuple[str, float, float]]) -> list[Panel]:
    """Curves of equal loss, from the best that the study's most compute can buy to what its least
    can, and the cost of a life at the best.

    arms: name, N, D.
    """
    spent = 6 * fitted.runs.parameters * fitted.runs.tokens
    losses = [
        fitted.law.loss(fitted.law.compute_optimum(flops))
        for flops in np.geomspace(spent.max(), spent.min(), LEVELS).tolist()
    ]
    equal = [(f"loss {curve.level:.2f}", *curve[1:]) for curve in equal_loss(fitted.law, losses)]
    served = [0.0, *(times * fitted.best.tokens for times in SERVED)]
    lives = [
        (f"{_amount(curve.level)} tokens served", *curve[1:])
        for curve in lifetime_cost(fitted.law, losses[0], served)
    ]
    return [
        Panel("Equal loss, and where it takes the least training", "training tokens", equal, arms),
        Panel(f"Cost of a life at loss {losses[0]:.2f}", "FLOPs", lives),
    ]


def _cells(values: Sequence[float]) -> tuple[str, str]:
    """The first value, and the interval of the others."""
    low, high = interval(values[1:])
    return _digits(values[0]), f"{_digits(low)} to {_digits(high)}"


def _range(values: Sequence[float]) -> str:
    low, high = interval(values[1:])
    return f"95% interval {_amount(low)} to {_amount(high)}"


def _model(training: Training) -> tuple[str, str, str]:
    return (
        _amount(training.parameters),
        _amount(training.tokens),
        _digits(training.tokens / training.parameters),
    )


def _amount(value: float) -> str:
    return amount(float(f"{value:.3g}"))


def _digits(value: float) -> str:
    rounded = float(f"{value:.3g}")
    if abs(rounded) < NOTHING:
        return "0"
    return f"{rounded:,.0f}" if 100 <= abs(rounded) < 1e9 else f"{value:#.3g}"
