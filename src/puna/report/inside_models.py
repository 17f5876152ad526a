"""The section `Inside the models`: the probes' numbers layer by layer, the mean over the seeds,
before and after training.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from puna.plots.canvas import ArmStyle
from puna.plots.layer_chart import LayerChart, LayerSeries
from puna.report.section import Figure, Section, StudyResults, code, plain, table
from puna.study.results import StudyRuns

WHEN = ("start", "end")
NOT_SHOWN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gate_statistics": ("q05", "q25", "q75", "q95"),
        "attention_entropy": ("entropy", "heads_of_layer_"),
    }
)
"""By probe, the beginnings of names that would make its table unreadable; `results.jsonl` has
them.
"""

Layers = list[float]


def series(runs: StudyRuns, probe: str) -> list[str]:
    """The names that are shown of a probe, in its order."""
    names = dict.fromkeys(
        name for run in runs for when in WHEN for name in run["probes"].get(when, {}).get(probe, {})
    )
    return [name for name in names if not name.startswith(NOT_SHOWN.get(probe, ()) or "\0")]


def by_layer(runs: StudyRuns, arm: str, probe: str, name: str, when: str) -> tuple[Layers, int]:
    """The mean over the arm's runs, by layer, and over how many; a number that has no layers is one
    by itself.

    A run that diverged has no end and is not in the mean; an arm that has no such name gives an
    empty list.
    """
    found = [run["probes"].get(when, {}).get(probe, {}).get(name) for run in runs.by_arm[arm]]
    layers = [
        np.atleast_1d(np.array(values, dtype=np.float64)) for values in found if values is not None
    ]
    return (np.mean(layers, axis=0).tolist() if layers else []), len(layers)


def inside_models(results: StudyResults) -> Section | None:
    """A table and a figure for each probe; None where the study asks for none."""
    study, runs = results.study, results.runs
    if not study.probes:
        return None
    parts = [
        "By layer, before the first step → after the last, each the mean over the seeds, on the"
        " first training batch of each seed. Layer 0 reads the embeddings. Nothing is decided by"
        " these."
    ]
    for probe in study.probes:
        names = series(runs, probe)
        parts.append(f"### {plain(probe.replace('_', ' ').capitalize())}")
        if not names:
            parts.append("No run recorded it.")
            continue
        if len(names) == 1:
            parts.append(f"The series {code(names[0])}.")
        parts.append(_table(runs, probe, names))
        if hidden := NOT_SHOWN.get(probe):
            listed = ", ".join(code(name + ("…" if name.endswith("_") else "")) for name in hidden)
            parts.append(f"Recorded too, in `results.jsonl`: {listed}.")
    figures = [_layer_chart(runs, probe, results.styles) for probe in study.probes]
    drawn = [figure for figure in figures if figure]
    return Section("Inside the models", "\n\n".join(parts), drawn)


def _table(runs: StudyRuns, probe: str, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        for arm, of_arm in runs.by_arm.items():
            (start, _), (end, ended) = (by_layer(runs, arm, probe, name, when) for when in WHEN)
            if not start:
                continue
            note = (
                ""
                if ended == len(of_arm)
                else f" ({ended or 'none'} of {len(of_arm)} runs reached the end)"
            )
            cells = [
                f"{_digits(first)} → {_digits(end[layer]) if end else 'diverged'}"
                for layer, first in enumerate(start)
            ]
            rows.append([*([code(name)] if len(names) > 1 else []), plain(arm) + note, *cells])
    depth = max(len(row) for row in rows) - 1 - (len(names) > 1)
    header = [
        *(["series"] if len(names) > 1 else []),
        "arm",
        *(f"layer {layer}" for layer in range(depth)),
    ]
    if depth == 1:
        header[-1] = "value"
    return table(
        "l" * (len(header) - depth) + "r" * depth,
        header,
        [row + [""] * (len(header) - len(row)) for row in rows],
    )


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value == 0 or abs(value) >= 100 else f"{value:#.3g}"


def _layer_chart(runs: StudyRuns, probe: str, styles: Mapping[str, ArmStyle]) -> Figure | None:
    """None where no run recorded the probe."""

    def drawn(name: str, when: str) -> dict[str, Layers]:
        return {arm: by_layer(runs, arm, probe, name, when)[0] for arm in runs.by_arm}

    found = [
        LayerSeries(name, drawn(name, "start"), drawn(name, "end")) for name in series(runs, probe)
    ]
    if not found:
        return None
    title = probe.replace("_", " ").capitalize()
    keys, absent = [], []
    for arm, of_arm in runs.by_arm.items():
        if not any(one.start[arm] for one in found):
            absent.append(arm)
            continue
        ended = sum(not run["diverged"] for run in of_arm)
        note = "" if ended == len(of_arm) else f" (diverged, {ended} at the end)"
        keys.append((styles[arm].key, arm + note))
    caption = "Mean over the seeds; layer 0 reads the embeddings. Each panel has its own scale."
    caption += f" Without such numbers: {', '.join(absent)}." if absent else ""
    chart = LayerChart(probe.replace("_", "-"), title, found, styles)
    return Figure(title, "by layer", chart, caption, keys)
