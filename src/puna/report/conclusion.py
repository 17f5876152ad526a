"""The sections of a report that are words: the limits of the study, and its conclusion."""

from puna.report.section import Section, StudyResults


def own_limits(results: StudyResults) -> Section | None:
    """The section `Limits of this study`: its own words, None where it has none."""
    text = results.study.limits.strip()
    return Section("Limits of this study", text) if text else None


def shared_limits(results: StudyResults) -> Section:
    """The section `What this cannot show`: what holds for every study of these sizes and rates."""
    tokens = max(run["tokens"] for run in results.runs)
    parameters = max(run["parameters"] for run in results.runs)
    rates = {arm.recipe.optimizer.learning_rate for arm in results.arms.values()}
    if results.tuned:
        rate, untried = "each arm at the best point of its grid", "a finer or wider tuning"
    else:
        named = "the learning rates that the arms name"
        rate = named if len(rates) > 1 else "one learning rate for all arms"
        untried = "each arm tuned"
    parts = [
        f"These are models of up to {parameters:,} parameters on up to {tokens:,} tokens of one"
        f" collection of text, with {rate}. Nothing here says that a difference stays, or stays"
        f" away, at another size, on other text, for longer training or with {untried}. An"
        " undecided arm is not shown to be equal: its interval says what it may still be."
    ]
    if results.metric.unit.startswith("share"):
        parts.append("A share is not normal near 0 and 1, where the intervals are rough.")
    if results.times is not None:
        parts.append(
            "Step times are of bare training steps, taken in turns on one machine with one batch"
            " and one length: another machine, another size or other kernels may order the arms"
            " otherwise. Reading data, logging and validation are not in them."
        )
    return Section("What this cannot show", " ".join(parts))


def conclusion(results: StudyResults) -> Section | None:
    """The section `What was found`: the study's own words, None before they are written."""
    text = results.study.conclusion.strip()
    return Section("What was found", text) if text else None
