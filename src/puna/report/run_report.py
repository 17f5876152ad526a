"""A run's report: from its folder to `report.html`, one file that explains the run, offline, for
good.

The page holds its own style and drawings and no script; it asks nothing of the network, and its
Content-Security-Policy forbids it to. The text of samples is untrusted: the template escapes it.
Equal run folders give equal pages. It is a view: it computes no metric. Half a second and 70 KiB
for 200 records; 4 s, 230 MiB of memory and 120 KiB for 100,000.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.durable import write_text
from puna.errors import PunaError
from puna.number_format import moment, quantity
from puna.plots.series import Series
from puna.plots.step_chart import Chart, Line, ReferenceLine
from puna.report import headline
from puna.report.pages import render
from puna.run_log import finite, read_run_log

MAX_VALIDATION_ROWS = 40

Records = Sequence[Mapping[str, Any]]


def write_run_report(run: Path) -> Path:
    """Write `run/report.html` from the run's files, and return its path.

    run: a folder with `metrics.jsonl`, `summary.json` (a run without it is called unfinished),
    `recipe.yaml` and `samples.json`; what is absent is left out of the page. Raises PunaError where
    `run` holds none of them, or holds a damaged summary or samples. Replaces an older report, whole
    or not at all.
    """
    files = ("metrics.jsonl", "summary.json", "recipe.yaml", "samples.json")
    if not any((run / name).is_file() for name in files):
        raise PunaError(
            f"{run} is no run folder: it holds none of {', '.join(files)}; give the folder that a"
            " run wrote"
        )
    report = run / "report.html"
    write_text(report, _page(run))
    return report


def _page(run: Path) -> str:
    records = read_run_log(run / "metrics.jsonl")
    summary = _read_json(run / "summary.json", dict) or {}
    recipe = run / "recipe.yaml"
    model = headline.validation_bits_per_byte(summary, records)
    alone, primed = headline.compression_baselines(summary), headline.primed_baselines(summary)
    headed = {"the held-out text alone": alone, headline.primed_heading(summary): primed}
    # the chart has room for the best of the primed, which lie close together
    drawn = [*alone, *sorted(primed, key=lambda baseline: baseline.value)[:1]]
    return render(
        "run_report.html",
        name=run.resolve().name,
        finished=(run / "summary.json").is_file(),
        date=moment(str(summary.get("date") or "")),
        last_step=records[-1]["step"] if records else None,
        versions=_versions(summary),
        bits_per_byte=None if model is None else f"{model:.3f}",
        scored_tokens=headline.scored_tokens(summary, records),
        bars=[] if model is None else headline.bars(model, headed),
        verdict="" if model is None else headline.verdict(model, [*alone, *primed]),
        cards=headline.cards(summary, records),
        charts=run_charts(records, drawn),
        validations=_validations(records),
        samples=_samples(run / "samples.json"),
        rows=headline.rows(summary),
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
    )


def _read_json(path: Path, kind: type) -> Any:
    """The value of a JSON file of the expected type, None where there is no file."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PunaError(
            f"{path} is not valid JSON ({error}); mend it or move it away, and write the report"
            " again"
        ) from error
    if not isinstance(value, kind):
        raise PunaError(
            f"{path} holds a {type(value).__name__} where a {kind.__name__} belongs; mend it or"
            " move it away"
        )
    return value


def _samples(path: Path) -> list[dict[str, str]]:
    samples = _read_json(path, list) or []
    if not all(
        isinstance(sample, dict) and {"prompt", "text"} <= sample.keys() for sample in samples
    ):
        raise PunaError(
            f"{path}: each sample is an object with `prompt` and `text`; mend it or move it away"
        )
    return [{"prompt": str(sample["prompt"]), "text": str(sample["text"])} for sample in samples]


def _versions(summary: dict[str, Any]) -> list[str]:
    """The origin of the numbers, in the few words under the title."""
    named = (("puna", "puna_version"), ("torch", "torch_version"), ("recipe", "recipe_hash"))
    return [f"{word} {summary[key]}" for word, key in named if summary.get(key)]


def _validations(records: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Step, tokens, loss and bits per byte of validations as text; of a long run every n-th,
    counted from the last.
    """
    found = [record for record in records if record["kind"] == "validation"]
    stride = -(-len(found) // MAX_VALIDATION_ROWS) or 1
    return [
        (
            f"{record['step']:,}",
            _cell(record.get("tokens"), quantity),
            _cell(record.get("loss"), "{:.4f}".format),
            _cell(record.get("bits_per_byte"), "{:.4f}".format),
        )
        for record in found[::-1][::stride][::-1]
    ]


def _cell(value: object, text: Any) -> str:
    number = finite(value)
    return "\N{EN DASH}" if number is None else str(text(number))


def run_charts(records: Records, baselines: Sequence[ReferenceLine]) -> list[Chart]:
    """The charts of a run, in reading order. baselines: levels in bits per byte, for the chart of
    that metric.
    """
    charts = (
        _loss_chart(records),
        _bits_per_byte_chart(records, tuple(baselines)),
        _learning_rate_chart(records),
        _training_chart(
            records, "gradient_norm", "gradient-norm", "Gradient norm", "L2 over all parameters"
        ),
        _training_chart(
            records, "tokens_per_second", "throughput", "Throughput", "tokens per second"
        ),
        _training_chart(
            records, "mfu", "mfu", "Model FLOPs utilisation", "% of matmul peak", factor=100
        ),
    )
    return [chart for chart in charts if chart.lines]


def _loss_chart(records: Records) -> Chart:
    validation = Series.of(records, "validation", "loss")
    lines = _noisy("training", Series.of(records, "train", "loss")) + _validation_line(validation)
    return Chart("loss", "Loss", "nats per token", lines, latest=_latest(lines, decimals=3))


def _bits_per_byte_chart(records: Records, baselines: tuple[ReferenceLine, ...]) -> Chart:
    validation = Series.of(records, "validation", "bits_per_byte")
    lines = _noisy("training", Series.of(records, "train", "bits_per_byte")) + _validation_line(
        validation
    )
    latest = _latest(lines, decimals=3)
    return Chart("bits-per-byte", "Bits per byte", "of UTF-8 text", lines, baselines, latest=latest)


def _learning_rate_chart(records: Records) -> Chart:
    rate = Series.of(records, "train", "learning_rate")
    lines = (Line("learning rate", rate, "train"),) if len(rate) else ()
    return Chart("learning-rate", "Learning rate", "", lines, from_zero=True, latest=_latest(lines))


def _training_chart(
    records: Records, metric: str, name: str, title: str, unit: str, factor: float = 1.0
) -> Chart:
    lines = _noisy("training", Series.of(records, "train", metric).scaled(factor))
    return Chart(name, title, unit, lines, from_zero=True, latest=_latest(lines))


def _noisy(label: str, series: Series) -> tuple[Line, ...]:
    """Raw values faint behind their moving mean over 4% of the run; below 100 records there is
    nothing to smooth.
    """
    half_window = len(series) // 100
    if not len(series):
        return ()
    if half_window == 0:
        return (Line(label, series, "train"),)
    return (
        Line(label, series, "train", "faint"),
        Line(f"{label}, smoothed", series.smoothed(half_window), "train"),
    )


def _validation_line(series: Series) -> tuple[Line, ...]:
    return (Line("validation", series, "validation", "dotted"),) if len(series) else ()


def _latest(lines: tuple[Line, ...], decimals: int | None = None) -> str:
    """The last value of the last line, the one that matters most: the validation one where there is
    one.
    """
    if not lines:
        return ""
    value = float(lines[-1].series.values[-1])
    return quantity(value) if decimals is None else f"{value:.{decimals}f}"
