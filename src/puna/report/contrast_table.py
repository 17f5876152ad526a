"""The section `Contrasts`: the comparisons that the study was made for, each with an interval over
runs and one over runs and documents.
"""

from collections.abc import Sequence

from puna.report.differences import p_value
from puna.report.section import Section, StudyResults, code, plain, table
from puna.statistics.contrasts import ContrastTest, analyse_contrasts
from puna.statistics.paired import POWER
from puna.study.analysis import StudyContrast, analyse_study_contrasts, at_looks, contrast_of
from puna.study.run_metrics import METRICS

Interval = tuple[float, float]


def contrasts(results: StudyResults) -> Section | None:
    """The table, what it says of the primary contrast, and that at each look; None where the study
    names no contrasts.
    """
    if not results.study.contrasts:
        return None
    found = analyse_study_contrasts(results.study, results.runs, results.baselines)
    level = results.analysis.rule.level
    parts = [
        _table(found, level),
        (
            "A contrast is taken seed by seed, and tested over the seeds by Student's t, which uses"
            " its own spread alone. The primary one is tested by itself; the p-values of the others"
            " are Holm's over all of them. Detectable: what the design finds in"
            f" {POWER:.0%} of its repetitions with the spread found here; of less, undecided says"
            " little."
        ),
    ]
    if any(one.result.test and not _has_spread(one.result.test) for one in found):
        parts.append(
            "Where all seeds gave the same value there is no spread to make an interval of; p is"
            " then that of the exact sign test, 2^(1-n) for n seeds."
        )
    if any(one.bootstrap for one in found):
        parts.append(
            "Over runs and documents: both are drawn anew, 10,000 times (Owen 2007), for other"
            " seeds and other text of the same kind; conservative where both vary, and too short"
            " with few seeds, so that the wider of the two intervals is the one to quote."
        )
    primary = [one for one in found if one.result.is_primary]
    parts += [_answer(one, level) for one in primary]
    if primary and results.study.looks:
        parts += ["### The primary contrast at each look", _looks(results, primary[0])]
    return Section("Contrasts", "\n\n".join(parts))


def _table(found: Sequence[StudyContrast], level: str) -> str:
    rows = []
    for one in found:
        result, test = one.result, one.result.test
        name = plain(result.contrast.name) + (" (primary)" if result.is_primary else "")
        row = [name, plain(one.meaning), code(one.of)]
        if test is None:
            rows.append([*row, f"not tested: {result.diverged} runs diverged", "", "", "", "", ""])
            continue
        rows.append(
            [
                *row,
                f"{test.estimate:+.4f}",
                _interval(test.confidence_interval)
                if _has_spread(test)
                else "none: all seeds alike",
                _interval(one.bootstrap.runs_and_documents) if one.bootstrap else "",
                p_value(test.adjusted_p_value),
                f"{test.detectable:.4f}" if _has_spread(test) else "",
                _verdict(one, test),
            ]
        )
    header = [
        "contrast",
        "meaning",
        "of",
        "estimate",
        f"{level} interval over runs",
        "over runs and documents",
        "p",
        "detectable",
        "verdict",
    ]
    return table("lllrrrrrl", header, rows)


def _verdict(one: StudyContrast, test: ContrastTest) -> str:
    """The sign where the rule decides it; where the documents leave it open, that too."""
    if not one.result.found:
        return "undecided"
    sign = "below 0" if test.estimate < 0 else "above 0"
    if one.bootstrap and _holds_zero(one.bootstrap.runs_and_documents):
        return f"{sign}, but other documents may say otherwise"
    return sign


def _answer(one: StudyContrast, level: str) -> str:
    """The primary contrast in a sentence, and what would overturn it."""
    test, name = one.result.test, plain(one.result.contrast.name)
    if test is None:
        return f"The primary contrast, {name}, was not tested: runs of its arms diverged."
    unit = METRICS[one.of].unit if one.of in METRICS else "of the runs, as a share"
    verdict = (
        f"differs from 0 (p {p_value(test.p_value)})"
        if one.result.found
        else f"is not shown to differ from 0 (p {p_value(test.p_value)})"
    )
    against = sum(value * test.estimate <= 0 for value in test.values)
    parts = [
        f"The primary contrast, {name}, is {test.estimate:+.4f} {unit} and {verdict}; of"
        f" {len(test.values)} seeds {against or 'none'} say the opposite or nothing."
    ]
    if one.bootstrap:
        parts.append(
            f"Its {level} interval is {_interval(one.bootstrap.runs)} where only the runs are drawn"
            f" anew, and {_interval(one.bootstrap.documents)} where only the documents are."
        )
    if one.result.found and _has_spread(test):
        # Student's t with the same spread: the estimate at which the interval would reach 0
        low, high = test.confidence_interval
        parts.append(
            "What would overturn it: anything that moves the arms apart by"
            f" {min(abs(low), abs(high)):.4f} the other way, such as another learning rate for one"
            " side, or a longer training, whose trend the looks show where there are any."
        )
    return " ".join(parts)


def _looks(results: StudyResults, one: StudyContrast) -> str:
    """The contrast by the study's metric at each look, the end included."""
    study = results.study
    if one.of in study.outcomes or one.of not in study.looked_at:
        return f"Not taken: {plain(one.of)} is measured at the end alone."
    name = one.result.contrast.name
    contrast = contrast_of(study, name, study.contrasts[name])
    rows = []
    for share, values in at_looks(study, results.runs, one.of):
        (result,) = analyse_contrasts(
            values,
            [contrast],
            study.rule.alpha,
            lower_is_better=METRICS[one.of].lower_is_better,
        )
        cells = (
            [f"{result.test.estimate:+.4f}", _interval(result.test.confidence_interval)]
            if result.test
            else ["not tested", ""]
        )
        rows.append([f"{share:.0%}", *cells])
    header = ["share of the training", "estimate", f"{results.analysis.rule.level} interval"]
    return table("rrr", header, rows) + (
        "\n\nNothing is decided at a look before the end; a trend says where longer training may"
        " lead."
    )


def _has_spread(test: ContrastTest) -> bool:
    return len(set(test.values)) > 1


def _interval(interval: Interval) -> str:
    low, high = interval
    return f"{low:+.4f} to {high:+.4f}"


def _holds_zero(interval: Interval) -> bool:
    low, high = interval
    return low <= 0 <= high
