"""The section `Protocol`: what was run, what differs between the arms, and the rule that was
written before the runs.
"""

from collections.abc import Mapping

from puna.report.section import Section, StudyResults, code, plain, table
from puna.study.provenance import rule_is_older


def protocol(results: StudyResults) -> Section:
    """Recipe, arms, seeds, metric and rule, then a table of the arms."""
    tokens = {
        name: arm.recipe.train.steps * arm.recipe.tokens_per_step
        for name, arm in results.arms.items()
    }
    alike = len(set(tokens.values())) == 1
    lines = _lines(results, alike)
    return Section("Protocol", "\n".join(lines) + "\n\n" + _table(results, tokens, alike))


def _lines(results: StudyResults, alike: bool) -> list[str]:
    """The list before the table. alike: every arm sees as many tokens."""
    study, metric, baseline = results.study, results.metric, plain(results.study.baseline)
    recipe = results.arms[study.baseline].recipe
    lines = [
        (
            f"- Base recipe {code(study.base)}{'' if alike else f', in the baseline {baseline}'}:"
            f" {recipe.train.steps:,} steps of {recipe.tokens_per_step:,} tokens."
        ),
        (
            f"- {len(study.arms)} arms, {len(study.seeds)} seeds"
            f" ({', '.join(map(str, study.seeds))}), {len(results.runs)} runs. A seed decides the"
            " initial weights and the order of the data, which is the same in every arm."
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
    lines += _stage(results)
    lines += _origin(results)
    if results.runs.left_out:
        lines.append(
            f"- Left out: {results.runs.left_out} runs in `results.jsonl` of arms or seeds that"
            " `study.yaml` does not name."
        )
    return lines


def _stage(results: StudyResults) -> list[str]:
    """The stage that the report is of, and how much text the models have read for their size."""
    study, runs = results.study, results.runs
    lines = []
    if runs.stage:
        overrides = " ".join(code(override) for override in study.stages[runs.stage])
        place = list(study.stages).index(runs.stage) + 1
        last = "" if place < len(study.stages) else ", the last"
        lines.append(
            f"- Stage {place} of {len(study.stages)}{last}: {plain(runs.stage)} ({overrides})."
        )
    shares = [run["tokens"] / run["parameters"] for run in runs]
    low, high = f"{min(shares):.3g}", f"{max(shares):.3g}"
    lines.append(f"- Tokens a parameter: {low if low == high else f'{low} to {high}'}.")
    return lines


def _origin(results: StudyResults) -> list[str]:
    """The commits that hold the rule and the code of the runs, with the machine; nothing for
    records that say nothing of it.
    """
    runs = [run for run in results.runs if "rule" in run]
    if not runs:
        return []
    first, last = (pick(run["started"][:10] for run in runs) for pick in (min, max))
    machines = dict.fromkeys(
        f"{run['machine']['processor']}, torch {run['machine']['torch']}" for run in runs
    )
    commits = dict.fromkeys(run["commit"] for run in runs)
    lines = [
        f"- Runs: {first if first == last else f'{first} to {last}'}, on"
        f" {'; '.join(map(plain, machines))}; code at commit"
        f" {', '.join(code(commit[:12]) if commit else 'unknown' for commit in commits)}."
    ]
    if changed := sum(run["rule"] != results.study.hash for run in runs):
        lines.append(
            f"- **The definition changed after {changed} of the runs**: `study.yaml` is not what"
            " was decided before them."
        )
    elif all(rule_is_older(run) for run in runs):
        rules = {(run["rule_commit"], run["rule_date"]) for run in runs}
        held = " and ".join(
            f"{code(commit[:12])} of {date[:16].replace('T', ' ')}"
            for commit, date in sorted(rules)
        )
        lines.append(f"- The definition is held by commit {held}, older than the first run.")
    else:
        lines.append(
            "- The definition was not committed before the first run: nothing shows that it is"
            " older."
        )
    return lines


def _table(results: StudyResults, tokens: Mapping[str, int], alike: bool) -> str:
    """A row for each arm; its tokens only where they differ."""
    rows = [
        [
            plain(name),
            " ".join(code(override) for override in results.study.arms[name]) or "the base recipe",
            f"{arm.recipe.model.feed_forward_width:,}",
            f"{arm.parameters:,} ({arm.parameter_difference:+.2%})",
            f"{arm.flops_per_token / 1e6:.2f} ({arm.flop_difference:+.2%})",
            *([] if alike else [f"{tokens[name]:,}"]),
        ]
        for name, arm in results.arms.items()
    ]
    header = ["arm", "changes", "feed-forward width", "parameters", "MFLOPs a token, training"]
    if alike:
        return table("llrrr", header, rows)
    return table("llrrrr", [*header, "tokens"], rows)
