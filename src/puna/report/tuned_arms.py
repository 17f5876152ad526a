"""The section `Tuning`: the point of the grid that each arm was given, and whether the grid holds
its best.
"""

import math

from puna.report.section import Section, StudyResults, code, plain, table
from puna.study.run_metrics import METRICS
from puna.study.tuning import Point, TunedArm


def tuning(results: StudyResults) -> Section | None:
    """A row for each arm with the mean at every point; None where the study tunes nothing."""
    study, tuned = results.study, results.tuned
    if study.tune is None or not tuned:
        return None
    points = list(dict.fromkeys(point for arm in tuned.values() for point in arm.means))
    sign = 1 if METRICS[study.metric].lower_is_better else -1
    rows = [
        [
            plain(arm),
            *(_cell(found, point, sign) for point in points),
        ]
        for arm, found in tuned.items()
    ]
    seeds = ", ".join(map(str, study.tune.seeds))
    recipe = results.arms[study.baseline].recipe
    changed = " ".join(code(override) for override in study.tune.overrides)
    text = (
        f"Each arm by itself, before the runs above, on seed {seeds}, which tests nothing; with"
        f" {changed or 'the base recipe'} in place of {recipe.train.steps:,} steps. In bold, the"
        " point with the best mean, which the arm was tested with. One seed tells points apart only"
        " beyond its noise, and a shorter training prefers higher rates."
    )
    header = ["arm", *(", ".join(map(_short, point)) for point in points)]
    edges = _edges(results)
    return Section(
        "Tuning",
        "\n\n".join(filter(None, [table("l" + "r" * len(points), header, rows), text, edges])),
    )


def _cell(arm: TunedArm, point: Point, sign: int) -> str:
    if point not in arm.means:
        return ""
    mean = arm.means[point]
    text = "diverged" if math.isinf(mean) else f"{sign * mean:.4f}"
    return f"**{text}**" if point == arm.point else text


def _short(override: str) -> str:
    """`learning_rate=0.002` of `optimizer.learning_rate=0.002`."""
    key, _, value = override.partition("=")
    return code(f"{key.rpartition('.')[2]}={value}")


def _edges(results: StudyResults) -> str:
    """A sentence on arms whose best point lies at the end of a numeric axis."""
    study, tuned = results.study, results.tuned
    if study.tune is None:
        return ""
    found = []
    for arm, of_arm in tuned.items():
        for key, values in {**study.tune.grid, **study.tune.arms.get(arm, {})}.items():
            numbers = [value for value in values if isinstance(value, int | float)]
            chosen = next(o.partition("=")[2] for o in of_arm.point if o.startswith(f"{key}="))
            if len(numbers) > 1 and float(chosen) in (min(numbers), max(numbers)):
                found.append(f"{plain(arm)} ({_short(f'{key}={chosen}')})")
    if not found:
        return ""
    return f"At the end of its axis, so that the best may lie beyond: {', '.join(found)}."
