"""The section `Outcomes`: runs that end in one of two ways, counted."""

from puna.report.differences import p_value
from puna.report.section import Section, StudyResults, plain, table
from puna.statistics.proportions import Outcomes, fisher_test, interaction_test, share_of
from puna.study.analysis import outcome_of


def outcomes(results: StudyResults) -> Section | None:
    """A table and tests for each outcome; None where the study names none."""
    study = results.study
    if not study.outcomes:
        return None
    parts = [
        "Counts, for a mean of runs that end in two ways says nothing of either. Intervals are"
        " Wilson's, each by itself."
    ]
    for name, outcome in study.outcomes.items():
        found = outcome_of(study, results.runs, name)
        parts += [f"### {plain(name)}", plain(outcome.meaning), _arms(results, found)]
        if study.factors:
            parts += [_levels(results, found), _interactions(results, found)]
    return Section("Outcomes", "\n\n".join(filter(None, parts)))


def _arms(results: StudyResults, found: Outcomes) -> str:
    """Every arm, with Fisher's test against the baseline."""
    study, alpha = results.study, results.study.rule.alpha
    rows = []
    for arm in study.arms:
        share = share_of(found, [arm], alpha)
        low, high = share.confidence_interval
        against = (
            ""
            if arm == study.baseline
            else p_value(fisher_test(found, [arm], [study.baseline], alpha).p_value)
        )
        rows.append(
            [plain(arm), f"{share.count} of {share.total}", f"{low:.0%} to {high:.0%}", against]
        )
    header = [
        "arm",
        "runs",
        f"{results.analysis.rule.level} interval",
        f"Fisher's p against {plain(study.baseline)}, unadjusted",
    ]
    return table("lrrr", header, rows)


def _levels(results: StudyResults, found: Outcomes) -> str:
    """The share at each pair of levels of the first two factors, over all others; empty where there
    is one alone.
    """
    study, alpha = results.study, results.study.rule.alpha
    if len(study.factors) < 2:
        return ""
    first, second, *_ = study.factors
    by_arm = study.levels_by_arm
    rows = []
    for one in study.factors[first]:
        cells = []
        for other in study.factors[second]:
            arms = [arm for arm, at in by_arm.items() if at[first] == one and at[second] == other]
            share = share_of(found, arms, alpha)
            low, high = share.confidence_interval
            cells.append(f"{share.count} of {share.total} ({low:.0%} to {high:.0%})")
        rows.append([plain(one), *cells])
    header = [f"{plain(first)} / {plain(second)}", *map(plain, study.factors[second])]
    return table("l" + "r" * len(study.factors[second]), header, rows)


def _interactions(results: StudyResults, found: Outcomes) -> str:
    """Each pair of factors: does one change what the other does to the odds?"""
    study = results.study
    names, by_arm = list(study.factors), study.levels_by_arm
    counts = {arm: found[arm] for arm in by_arm}
    rows = []
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            test = interaction_test(counts, by_arm, first, second)
            rows.append(
                [
                    f"{plain(first)} x {plain(second)}",
                    f"{test.deviance_difference:.2f}",
                    f"{test.degrees_of_freedom}",
                    p_value(test.p_value),
                ]
            )
    if not rows:
        return ""
    header = ["interaction", "deviance", "degrees of freedom", "p, unadjusted"]
    return (
        table("lrrr", header, rows)
        + "\n\nLogistic regression on all factors, with and without the interaction, by the"
        " likelihood ratio: finite where all runs of a cell fail, or none."
    )
