"""REPORT.md: what a study asked, how it went about it, what its runs say, and what they cannot say.

A pure function of what `study.yaml`, `results.jsonl` and `step_times.json` hold, so that the page
can be made again, byte for byte, from what is committed. Here are its order, the protocol and the
limits; each of the other sections is a file of its own.
"""

from collections.abc import Mapping

from puna.findings.costs import StepTimes, costs
from puna.findings.differences import analyse_metric, differences, other_measures
from puna.findings.inside import inside
from puna.findings.markdown import code, plain, table
from puna.findings.published import beside
from puna.findings.runs import StudyRuns
from puna.study.definition import Arm, Study
from puna.study.metrics import METRICS


def write_up(
    study: Study,
    arms: Mapping[str, Arm],
    runs: StudyRuns,
    times: StepTimes | None = None,
    law: str = "",
) -> str:
    """The text of REPORT.md. law: the section `Scaling law` of a study that fits one; it is made
    elsewhere, from the same runs.
    """
    analysis = analyse_metric(study, runs, study.metric)
    sections = [
        ("Protocol", _protocol(study, arms, runs)),
        ("Differences", differences(study, runs, analysis)),
        ("Other measures", other_measures(study, runs) if study.also else ""),
        ("Cost", costs(study, arms, runs, times)),
        ("Inside the models", inside(study, runs) if study.probes else ""),
        ("Scaling law", law),
        *(
            (f"Beside {plain(published.source)}", beside(study, published, runs, analysis, times))
            for published in study.published
        ),
        ("What this cannot show", _limits(study, arms, runs, times)),
        ("What was found", study.conclusion.strip()),
    ]
    parts = [
        f"# {plain(study.question)}",
        *(f"## {title}\n\n{text}" for title, text in sections if text),
    ]
    return "\n\n".join(parts) + "\n"


def _protocol(study: Study, arms: Mapping[str, Arm], runs: StudyRuns) -> str:
    recipe = arms[study.baseline].recipe
    tokens = {
        name: arm.recipe.train.steps * arm.recipe.tokens_per_step for name, arm in arms.items()
    }
    alike = len(set(tokens.values())) == 1
    metric, baseline = METRICS[study.metric], plain(study.baseline)
    lines = [
        (
            f"- Base recipe {code(study.base)}{'' if alike else f', in the baseline {baseline}'}:"
            f" {recipe.train.steps:,} steps of {recipe.tokens_per_step:,} tokens."
        ),
        (
            f"- {len(study.arms)} arms, {len(study.seeds)} seeds"
            f" ({', '.join(map(str, study.seeds))}), {len(runs)} runs. A seed decides the initial"
            " weights and the order of the data, which is the same in every arm."
        ),
        (
            f"- Matched: {study.matched}. Metric: {metric.unit} {metric.meaning}, after the last"
            f" step; {'less' if metric.lower_is_better else 'more'} is better."
        ),
        (
            f"- Decided before the runs: an arm differs from {baseline} if its Holm-adjusted"
            f" p-value is below {study.rule.alpha:g} and the mean difference is larger than"
            f" {study.rule.smallest_difference:g}."
        ),
    ]
    if runs.left_out:
        lines.append(
            f"- Left out: {runs.left_out} runs in `results.jsonl` of arms or seeds that"
            " `study.yaml` does not name."
        )
    rows = [
        [
            plain(name),
            " ".join(code(override) for override in study.arms[name]) or "the base recipe",
            f"{arm.recipe.model.feed_forward_width:,}",
            f"{arm.parameters:,} ({arm.parameter_difference:+.2%})",
            f"{arm.flops_per_token / 1e6:.2f} ({arm.flop_difference:+.2%})",
            *([] if alike else [f"{tokens[name]:,}"]),
        ]
        for name, arm in arms.items()
    ]
    header = [
        "arm",
        "changes",
        "feed-forward width",
        "parameters",
        "MFLOPs a token, training",
        *([] if alike else ["tokens"]),
    ]
    return "\n".join(lines) + "\n\n" + table("llrrr" + "r" * (not alike), header, rows)


def _limits(study: Study, arms: Mapping[str, Arm], runs: StudyRuns, times: StepTimes | None) -> str:
    tokens = max(run["tokens"] for run in runs)
    parameters = max(run["parameters"] for run in runs)
    tuned = len({arm.recipe.optimizer.learning_rate for arm in arms.values()}) > 1
    rate = "the learning rates that the arms name" if tuned else "one learning rate for all arms"
    parts = [
        f"These are models of up to {parameters:,} parameters on up to {tokens:,} tokens of one"
        f" collection of text, with {rate}. Nothing here says that a difference stays, or stays"
        " away, at another size, on other text, for longer training or with each arm tuned. An"
        " undecided arm is not shown to be equal: its interval says what it may still be."
    ]
    if METRICS[study.metric].unit.startswith("share"):
        parts.append("A share is not normal near 0 and 1, where the intervals are rough.")
    if times is not None:
        parts.append(
            "Step times are of bare training steps, taken in turns on one machine with one batch"
            " and one length: another machine, another size or other kernels may order the arms"
            " otherwise. Reading data, logging and validation are not in them."
        )
    return " ".join(parts)
