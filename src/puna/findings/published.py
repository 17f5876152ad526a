"""The sections of a report that put figures of others beside the study's."""

from puna.findings.costs import StepTimes, ratio
from puna.findings.differences import arm_mean, level
from puna.findings.markdown import plain, table
from puna.findings.runs import StudyRuns
from puna.study.definition import Published, Study
from puna.study.metrics import METRICS
from puna.study.statistics import Analysis, PairedTest


def beside(
    study: Study, published: Published, runs: StudyRuns, analysis: Analysis, times: StepTimes | None
) -> str:
    """The section `Beside <source>`: their figures and how far they are from the baseline's, with
    ours.
    """
    text = (
        _beside_metric(study, published, runs, analysis)
        if published.beside == "metric"
        else _beside_times(study, published, times)
    )
    if study.baseline not in published.values:
        text += (
            f"\n\nThere is no published figure of the baseline {plain(study.baseline)}, so nothing"
            " to compare the others with."
        )
    return text


def _beside_metric(study: Study, published: Published, runs: StudyRuns, analysis: Analysis) -> str:
    """Differences from the baseline, ours with intervals, and whether they say that the same arm is
    better.
    """
    tests = {comparison.arm: comparison.test for comparison in analysis.comparisons}
    reference = published.values.get(study.baseline)
    same_way = published.lower_is_better == analysis.rule.lower_is_better
    rows = []
    for arm, figure in published.values.items():
        theirs = (
            None if reference is None or arm == study.baseline else _rounded(figure - reference)
        )
        ours = tests.get(arm)
        row = [
            plain(arm),
            f"{figure:g}",
            "" if theirs is None else f"{theirs:+g}",
            arm_mean(runs, arm, study.metric),
        ]
        agree = (
            ""
            if theirs is None or ours is None
            else _agreement(theirs if same_way else -theirs, ours)
        )
        rows.append([*row, _difference(ours), agree])
    unit, baseline = METRICS[study.metric].unit, plain(study.baseline)
    header = ["arm", plain(published.column), f"its difference from {baseline}", f"here, {unit}"]
    return table("lrrrrl", [*header, f"our difference, {level(study)} interval", "agree"], rows)


def _beside_times(study: Study, published: Published, times: StepTimes | None) -> str:
    """Ratios to the baseline, ours of step times in each mode."""
    if times is None:
        return "Step times were not measured, so there is nothing of ours to stand beside these."
    reference, baseline = published.values.get(study.baseline), plain(study.baseline)
    rows = []
    for arm, figure in published.values.items():
        row = [plain(arm), f"{figure:g}", "" if reference is None else f"{figure / reference:.3f}"]
        for mode in times.modes:
            relative = ratio(times, mode, arm, study.baseline)
            row.append(
                f"{relative.median:.3f} ({relative.low:.3f} to {relative.high:.3f})"
                if relative
                else "not timed"
            )
        rows.append(row)
    header = [
        "arm",
        plain(published.column),
        f"relative to {baseline}",
        *(f"our step, {mode}, relative to {baseline}" for mode in times.modes),
    ]
    return table("l" + "r" * (len(header) - 1), header, rows)


def _rounded(difference: float) -> float:
    return float(f"{difference:.6g}")  # 1.942 - 1.997 is -0.05500000000000016


def _difference(test: PairedTest | None) -> str:
    if test is None:
        return ""
    low, high = test.confidence_interval
    return f"{test.mean_difference:+.4f} ({low:+.4f} to {high:+.4f})"


def _agreement(theirs: float, ours: PairedTest) -> str:
    """Whether both say better, or both worse."""
    low, high = ours.confidence_interval
    if theirs == 0 or ours.mean_difference == 0:
        return "no difference"
    answer = "yes" if (theirs > 0) == (ours.mean_difference > 0) else "no"
    return f"{answer}, but our interval holds 0" if low <= 0 <= high else answer
