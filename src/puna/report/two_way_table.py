"""The section `All arms together`: the same comparisons by a two-way analysis of variance, which
pools the spread of all arms.
"""

from puna.report.differences import p_value
from puna.report.section import Section, StudyResults, plain, table
from puna.statistics.two_way import analyse_two_way


def two_way(results: StudyResults) -> Section | None:
    """Holm's and Dunnett's p-values for each arm; None where fewer than two arms have all their
    runs, or the baseline has not.
    """
    study = results.study
    found = analyse_two_way(results.runs.values(study.metric), study.baseline, study.rule.alpha)
    if not found.comparisons or found.residual_standard_deviation is None:
        return None
    rows = []
    for comparison in found.comparisons:
        low, high = comparison.confidence_interval
        rows.append(
            [
                plain(comparison.arm),
                f"{comparison.mean_difference:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                p_value(comparison.holm_p_value),
                p_value(comparison.dunnett_p_value),
            ]
        )
    header = [
        "arm",
        "difference",
        f"{results.analysis.rule.level} interval",
        "p, Holm",
        "p, Dunnett",
    ]
    text = (
        "No verdict rests on it. The additive model arm + seed has a residual standard deviation of"
        f" {found.residual_standard_deviation:.4f} {results.metric.unit} with"
        f" {found.degrees_of_freedom} degrees of freedom, in place of {len(study.seeds) - 1} for"
        " each arm by itself: it finds smaller differences, and is right only where all arms spread"
        " alike."
    )
    if found.equal_spread_p_value is not None:
        text += (
            " Brown and Forsythe's test of that gives p"
            f" {p_value(found.equal_spread_p_value)}; a large p-value shows no equality."
        )
    if found.left_out:
        text += f" Left out, because runs diverged: {', '.join(map(plain, found.left_out))}."
    return Section("All arms together", f"{table('lrrrr', header, rows)}\n\n{text}")
