"""The sections of a report that compare: each arm's paired difference by the study's metric, and by
the further ones.

Which test, and what a verdict is, is decided in statistics.py; here it is put into tables and
sentences.
"""

import math
from collections.abc import Sequence

from puna.findings.markdown import code, plain, table
from puna.findings.runs import StudyRuns
from puna.study.definition import Study
from puna.study.metrics import METRICS
from puna.study.statistics import POWER, Analysis, Comparison, analyse, detectable_effect


def analyse_metric(study: Study, runs: StudyRuns, metric: str) -> Analysis:
    """Every arm against the baseline by one metric."""
    return analyse(runs.values(metric), study.baseline, study.rule_for(metric))


def best_first(analysis: Analysis) -> list[Comparison]:
    """The comparisons from the best arm to the worst, those without a test last."""
    sign = 1 if analysis.rule.lower_is_better else -1
    return sorted(
        analysis.comparisons,
        key=lambda one: (one.test is None, sign * one.test.mean_difference if one.test else 0.0),
    )


def level(study: Study) -> str:
    """Of the intervals, as text: `95%`."""
    return f"{100 * (1 - study.rule.alpha):g}%"


def p_value(value: float) -> str:
    """To three decimals, and never 0."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def arm_mean(runs: StudyRuns, arm: str, metric: str) -> str:
    """The mean of an arm's runs, or how many of them diverged: a mean over the others would be a
    mean of the lucky.
    """
    values = list(runs.values(metric)[arm].values())
    if diverged := runs.diverged(arm, metric):
        return f"{diverged} of {len(values)} diverged"
    return f"{sum(values) / len(values):.4f}"


def differences(study: Study, runs: StudyRuns, analysis: Analysis) -> str:
    """The section `Differences`: the table, and what it can resolve."""
    return "\n\n".join(
        [
            _table(study, runs, study.metric, analysis, verdicts=True),
            (
                "A difference is arm minus baseline, seed by seed, and then the mean;"
                f" {'less' if analysis.rule.lower_is_better else 'more'} is better, the best arm"
                " stands first. The interval is each arm's own; the p-value is adjusted for all of"
                " them, so that an interval without 0 may still decide nothing."
            ),
            _resolution(study, analysis),
        ]
    )


def other_measures(study: Study, runs: StudyRuns) -> str:
    """The section `Other measures`: each of the study's further metrics in the same way, without
    verdicts.
    """
    parts = [
        "Secondary: the same paired analysis, with Holm's adjustment within each metric. No verdict"
        " of the study rests on it."
    ]
    for metric in study.also:
        analysis = analyse_metric(study, runs, metric)
        better = "less is better" if analysis.rule.lower_is_better else "more is better"
        what = METRICS[metric]
        parts += [
            f"### {code(metric)}",
            f"{what.unit[0].upper()}{what.unit[1:]} {what.meaning}; {better}.",
        ]
        parts += [_table(study, runs, metric, analysis, verdicts=False)]
        if analysis.noise_floor.standard_deviation is not None:
            parts += [
                f"Noise floor: {plain(study.baseline)}'s own runs have a standard deviation of"
                f" {_noise(analysis)}."
            ]
    return "\n\n".join(parts)


def _table(
    study: Study, runs: StudyRuns, metric: str, analysis: Analysis, *, verdicts: bool
) -> str:
    first = [
        f"{plain(study.baseline)} (baseline)",
        arm_mean(runs, study.baseline, metric),
        "",
        "",
        "",
    ]
    rows = [[*first, ""] if verdicts else first]
    for comparison in best_first(analysis):
        row = [plain(comparison.arm), arm_mean(runs, comparison.arm, metric), *_numbers(comparison)]
        rows.append([*row, comparison.verdict] if verdicts else row)
    header = [
        "arm",
        METRICS[metric].unit,
        "paired difference",
        f"{level(study)} interval",
        "p, Holm-adjusted",
    ]
    return table("lrrrrl", [*header, "verdict"], rows) if verdicts else table("lrrrr", header, rows)


def _numbers(comparison: Comparison) -> Sequence[str]:
    test = comparison.test
    if test is None:
        return ("not tested", "", "")
    low, high = test.confidence_interval
    return (
        f"{test.mean_difference:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        p_value(test.adjusted_p_value),
    )


def _noise(analysis: Analysis) -> str:
    return f"{analysis.noise_floor.standard_deviation:.4f}"


def _resolution(study: Study, analysis: Analysis) -> str:
    """How far the baseline's runs lie apart, what pairing brought, and how small a difference this
    many arms and seeds can find.
    """
    seeds, arms, baseline = len(analysis.seeds), len(analysis.comparisons), plain(study.baseline)
    if analysis.noise_floor.diverged:
        return (
            f"{analysis.noise_floor.diverged} of {seeds} runs of the baseline {baseline} diverged,"
            " so there is no noise floor, nothing to pair with, and no arm was tested."
        )
    unit = METRICS[study.metric].unit
    floor = (
        f"Noise floor: the {seeds} runs of {baseline} have a standard deviation of"
        f" {_noise(analysis)} {unit}."
    )
    detectable, gain = analysis.detectable_difference, analysis.pairing_gain
    if detectable is None or gain is None:
        return f"{floor} Every other arm diverged, so there are no differences to speak of."
    if math.isinf(gain):
        pairing = (
            "The paired differences of every arm are the same for all seeds, so they have no"
            " spread."
        )
    elif gain > 1:
        pairing = (
            f"Pairing by seed helped: unpaired groups would need about {gain:.1f} times as many"
            " seeds, roughly."
        )
    else:
        pairing = (
            "Pairing by seed did not help: the differences vary at least as much as those of two"
            f" separate runs of {baseline} would."
        )
    compared = "1 arm is" if arms == 1 else f"{arms} arms are"
    effect = detectable_effect(seeds, study.rule.alpha / arms)
    return (
        f"{floor} {pairing}\n\nWhat this can resolve: {compared} compared, so the smallest p-value"
        f" has to be below {study.rule.alpha / arms:.2g} before adjustment, and {seeds} seeds leave"
        f" {seeds - 1} degree{'' if seeds == 2 else 's'} of freedom. Where one arm alone differs,"
        f" that is found in {POWER:.0%} of the repetitions if the true difference is {effect:.1f}"
        " standard deviations of the paired differences: with the spread found here,"
        f" {detectable:.4f} {unit}. Of smaller ones, undecided says little; more seeds or fewer"
        " arms would find them."
    )
