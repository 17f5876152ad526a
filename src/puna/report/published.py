"""The sections that put figures of others beside the study's, one for each source."""

from puna.report.section import Section, StudyResults, plain, table
from puna.statistics.paired import PairedTest
from puna.study.questions import Published


def published(results: StudyResults, theirs: Published) -> Section:
    """Their figures and how far they are from the baseline's, with ours."""
    text = (
        _beside_metric(results, theirs)
        if theirs.beside == "metric"
        else _beside_times(results, theirs)
    )
    baseline = results.study.baseline
    if baseline not in theirs.values:
        text += (
            f"\n\nThere is no published figure of the baseline {plain(baseline)}, so nothing"
            " to compare the others with."
        )
    return Section(f"Beside {plain(theirs.source)}", text)


def _beside_metric(results: StudyResults, published: Published) -> str:
    """Differences from the baseline, ours with intervals, and whether they say that the same arm is
    better.
    """
    study, analysis = results.study, results.analysis
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
            results.arm_mean(arm, study.metric),
        ]
        agree = (
            ""
            if theirs is None or ours is None
            else _agreement(theirs if same_way else -theirs, ours)
        )
        rows.append([*row, _difference(ours), agree])
    header = [
        "arm",
        plain(published.column),
        f"its difference from {plain(study.baseline)}",
        f"here, {results.metric.unit}",
        f"our difference, {analysis.rule.level} interval",
        "agree",
    ]
    return table("lrrrrl", header, rows)


def _beside_times(results: StudyResults, published: Published) -> str:
    """Ratios to the baseline, ours of step times in each mode."""
    times, baseline = results.times, results.study.baseline
    if times is None:
        return "Step times were not measured, so there is nothing of ours to stand beside these."
    reference = published.values.get(baseline)
    rows = []
    for arm, figure in published.values.items():
        row = [plain(arm), f"{figure:g}", "" if reference is None else f"{figure / reference:.3f}"]
        row += [str(times.ratio(mode, arm, baseline) or "not timed") for mode in times.modes]
        rows.append(row)
    header = [
        "arm",
        plain(published.column),
        f"relative to {plain(baseline)}",
        *(f"our step, {mode}, relative to {plain(baseline)}" for mode in times.modes),
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
    """`yes` where both say better, or both worse."""
    low, high = ours.confidence_interval
    if theirs == 0 or ours.mean_difference == 0:
        return "no difference"
    answer = "yes" if (theirs > 0) == (ours.mean_difference > 0) else "no"
    return f"{answer}, but our interval holds 0" if low <= 0 <= high else answer
