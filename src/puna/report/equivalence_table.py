"""The section `Equivalence`: two one-sided tests of each arm within a margin of the baseline."""

from puna.report.differences import p_value
from puna.report.section import Section, StudyResults, plain, table
from puna.statistics.equivalence import analyse_equivalence


def equivalence(results: StudyResults) -> Section | None:
    """A row for each arm; None where the study names no margin."""
    study = results.study
    margin, alpha = study.rule.equivalence_margin, study.rule.alpha
    if margin is None:
        return None
    rows = []
    for found in analyse_equivalence(
        results.runs.values(study.metric), study.baseline, margin, alpha
    ):
        if found.test is None or found.adjusted_p_value is None:
            rows.append([plain(found.arm), "not tested", "", "", "not shown"])
            continue
        low, high = found.test.confidence_interval
        rows.append(
            [
                plain(found.arm),
                f"{found.test.mean_difference:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                p_value(found.adjusted_p_value),
                "equivalent" if found.equivalent else "not shown",
            ]
        )
    header = [
        "arm",
        "paired difference",
        f"{100 * (1 - 2 * alpha):g}% interval",
        "p, Holm-adjusted",
        f"within ±{margin:g}",
    ]
    text = (
        f"Two one-sided tests (Schuirmann 1987) of each arm within ±{margin:g}"
        f" {results.metric.unit} of {plain(study.baseline)}, a margin written before the runs."
        " `not shown` is no evidence of a difference."
    )
    return Section("Equivalence", f"{table('lrrrl', header, rows)}\n\n{text}")
