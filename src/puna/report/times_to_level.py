"""The section `Times to a level`: the share of the training that runs take, with those that never
get there.
"""

from puna.report.differences import p_value
from puna.report.section import Section, StudyResults, code, plain, table
from puna.statistics.survival import log_rank_test, median_time
from puna.study.analysis import times_of


def times_to_level(results: StudyResults) -> Section | None:
    """A table and a log-rank test for each time; None where the study names none."""
    study = results.study
    if not study.times:
        return None
    parts = [
        "Seen at the looks, so each time is up to one look too late; runs that never reach the"
        " level count until their end (Kaplan and Meier 1958)."
    ]
    for name, time in study.times.items():
        found = times_of(study, results.runs, name)
        rows = []
        for arm, runs in found.items():
            median = median_time(runs, study.rule.alpha)
            low, high = median.confidence_interval
            rows.append(
                [
                    plain(arm),
                    f"{median.reached} of {median.runs}",
                    _share(median.median),
                    f"{_share(low)} to {_share(high)}",
                ]
            )
        test = log_rank_test(found)
        header = [
            "arm",
            "runs that reach it",
            "median share of the training",
            f"{results.analysis.rule.level} interval",
        ]
        parts += [
            f"### {plain(name)}",
            f"{code(time.metric)} at {time.level:g}.",
            table("lrrr", header, rows),
            f"Log-rank test over all arms: chi squared {test.statistic:.2f} with"
            f" {test.degrees_of_freedom} degrees of freedom, p {p_value(test.p_value)}.",
        ]
    return Section("Times to a level", "\n\n".join(parts))


def _share(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.0%}"
