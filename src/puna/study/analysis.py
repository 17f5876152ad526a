"""From a study and its runs to what they say: its contrasts, the runs that failed, the times to a
level, and the runs' results at every look.

Not here: the arithmetic (puna.statistics), and words (puna.report).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from puna.statistics.contrasts import Contrast, ContrastResult, Term, analyse_contrasts
from puna.statistics.document_bootstrap import DocumentBootstrap, bootstrap_contrast
from puna.statistics.paired import detectable_effect, holm
from puna.statistics.survival import TimeToLevel, time_to_level
from puna.study.baselines import Baselines
from puna.study.definition import Study
from puna.study.questions import ContrastDefinition
from puna.study.results import StudyRuns, value_of
from puna.study.run_metrics import METRICS

Values = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class StudyContrast:
    """A contrast of a study. of: its metric or outcome. bootstrap: over runs and documents, None
    where the metric is not bits per byte of the validation text or the text's sizes are not known.
    """

    of: str
    meaning: str
    result: ContrastResult
    bootstrap: DocumentBootstrap | None


def analyse_study_contrasts(
    study: Study, runs: StudyRuns, baselines: Baselines | None
) -> tuple[StudyContrast, ...]:
    """Every contrast of the study in its order. The primary one is tested by itself; all others are
    secondary, with Holm's adjustment over all of them, whatever they are of.
    """
    each = []
    for name, defined in study.contrasts.items():
        of = defined.of or study.metric
        contrast = contrast_of(study, name, defined)
        measured = study.outcomes[of].metric if of in study.outcomes else of
        lower = METRICS[measured].lower_is_better
        (result,) = analyse_contrasts(
            values_of(study, runs, of), [contrast], study.rule.alpha, lower_is_better=lower
        )
        result = replace(result, is_primary=defined.primary)
        each.append(
            StudyContrast(
                of, defined.meaning, result, _bootstrap(study, runs, of, contrast, baselines)
            )
        )
    secondary = [one for one in each if not one.result.is_primary]
    adjusted = (
        dict(
            zip(
                (one.result.contrast.name for one in secondary),
                holm([one.result.test.p_value if one.result.test else 1.0 for one in secondary]),
                strict=True,
            )
        )
        if secondary
        else {}
    )
    level = study.rule.alpha / max(1, len(secondary))
    return tuple(
        one
        if one.result.is_primary
        else _as_secondary(one, adjusted, study.rule.alpha, level, len(study.seeds))
        for one in each
    )


def contrast_of(study: Study, name: str, defined: ContrastDefinition) -> Contrast:
    """The contrast that study.yaml defines, its patterns put into arms."""
    groups = defined.groups(list(study.arms))
    return Contrast(name, tuple(Term(weight, arms, defined.pick) for weight, arms in groups))


def values_of(study: Study, runs: StudyRuns, of: str) -> Values:
    """A metric, or an outcome as 1 for yes and 0 for no, by arm and seed; a metric is nan where the
    run diverged.
    """
    if of not in study.outcomes:
        return runs.values(of)
    return {
        arm: {seed: float(failed) for seed, failed in by_seed.items()}
        for arm, by_seed in outcome_of(study, runs, of).items()
    }


def outcome_of(study: Study, runs: StudyRuns, name: str) -> dict[str, dict[int, bool]]:
    """An outcome by arm and seed: True where the metric is above its level. A run that diverged has
    the worse of the two, so it is above where less is better.
    """
    outcome = study.outcomes[name]
    diverged = METRICS[outcome.metric].lower_is_better
    return {
        arm: {
            seed: diverged if math.isnan(value) else value > outcome.above
            for seed, value in by_seed.items()
        }
        for arm, by_seed in runs.values(outcome.metric).items()
    }


def times_of(study: Study, runs: StudyRuns, name: str) -> dict[str, list[TimeToLevel]]:
    """The share of its training after which each run's metric reached a level of `times`, by arm,
    as seen at the looks and at the end: shares compare where arms read equal text in unequal
    numbers of tokens.
    """
    time = study.times[name]
    lower = METRICS[time.metric].lower_is_better
    return {
        arm: [
            time_to_level(
                [
                    *(
                        (share, value_of(look, time.metric))
                        for share, look in zip(study.looks, run["looks"], strict=False)
                    ),
                    (1.0, value_of(run, time.metric)),
                ],
                time.level,
                lower_is_better=lower,
            )
            for run in of_arm
        ]
        for arm, of_arm in runs.by_arm.items()
    }


def at_looks(study: Study, runs: StudyRuns, metric: str) -> list[tuple[float, Values]]:
    """The metric by arm and seed at each look and at the end, with the share of the training done;
    looks that a diverged run did not reach are nan.
    """
    looks = [
        (
            share,
            {
                arm: {run["seed"]: _at(run, number, metric) for run in of_arm}
                for arm, of_arm in runs.by_arm.items()
            },
        )
        for number, share in enumerate(study.looks)
    ]
    return [*looks, (1.0, runs.values(metric))]


def _at(run: Mapping[str, object], look: int, metric: str) -> float:
    looks = run["looks"]
    assert isinstance(looks, list)
    return value_of(looks[look], metric) if look < len(looks) else math.nan


def _bootstrap(
    study: Study, runs: StudyRuns, of: str, contrast: Contrast, baselines: Baselines | None
) -> DocumentBootstrap | None:
    if of != "bits_per_byte" or baselines is None:
        return None
    sizes = np.array(baselines.documents, dtype=np.float64)
    bits = {arm: _document_bits(runs, arm, len(sizes)) for arm in contrast.arms}
    return bootstrap_contrast(bits, sizes, contrast, study.rule.alpha)


def _document_bits(runs: StudyRuns, arm: str, documents: int) -> NDArray[np.float64]:
    """[seeds, documents]; nan for a run that diverged."""
    return np.array(
        [run["documents"] or [math.nan] * documents for run in runs.by_arm[arm]], dtype=np.float64
    )


def _as_secondary(
    one: StudyContrast, adjusted: Mapping[str, float], alpha: float, level: float, seeds: int
) -> StudyContrast:
    test = one.result.test
    if test is None:
        return one
    p_value = adjusted[one.result.contrast.name]
    test = replace(
        test,
        adjusted_p_value=p_value,
        detectable=test.standard_deviation * detectable_effect(seeds, level),
    )
    return replace(one, result=replace(one.result, test=test, found=p_value < alpha))
