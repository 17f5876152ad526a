"""`puna bench inference`: Puna's executors beside the machine's limits and the peers."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puna.cli.inference_options import KVCacheDtype

if TYPE_CHECKING:
    from puna.inference_benchmark.comparison import Plan
    from puna.inference_benchmark.verdict import Row, Verdict

app = typer.Typer(
    name="bench", help="Measure speed on this machine, beside others.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """Keeps `inference` a command of its own while it is the only one."""


@app.command("inference")
def inference(
    model: Annotated[
        str,
        typer.Argument(
            help="A model folder, or a shape with random weights: 15M, 110M, 135M or 1.1B.",
            metavar="MODEL|SHAPE",
            show_default=False,
        ),
    ],
    peers: Annotated[
        Path | None,
        typer.Option(help="A folder of llama.cpp, ik_llama.cpp and transformers, built there."),
    ] = None,
    formats: Annotated[
        str, typer.Option(help="Formats of the weights, of bf16, int8 and int4.")
    ] = "bf16,int8,int4",
    works: Annotated[
        str,
        typer.Option(
            help=(
                "Works: prefill, decode, decode-4k, decode-8k, streams, lookup-repeating,"
                " lookup-misleading, start."
            ),
            show_default="all",
        ),
    ] = "",
    threads: Annotated[int, typer.Option(help="Of every program's arithmetic.")] = 2,
    runs: Annotated[int, typer.Option(help="Rounds of each median, at least 5.")] = 5,
    kv_cache_dtype: KVCacheDtype = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with all figures of all rounds.")
    ] = False,
) -> None:
    """Measure reading prompts and writing tokens, and judge the ratios to the peers.

    Programs take turns and medians are compared. Beside each figure of Puna stands its share of
    what this machine can do, measured in the same run: reading the weights, or the peak of
    products.

    Examples:

        puna bench inference 15M --works decode,prefill

        puna bench inference 1.1B --peers ../peers --formats int8,int4

        puna bench inference runs/quickstart/model --json
    """
    from puna.inference_benchmark.comparison import (
        Plan,
        check_plan,
        compare,
        native_tier,
    )
    from puna.inference_benchmark.peers import find_peers
    from puna.inference_benchmark.subject import find_subject
    from puna.inference_benchmark.verdict import judge
    from puna.inference_benchmark.workload import chosen_formats, chosen_workloads

    subject = find_subject(model)
    chosen = chosen_formats(_words(formats))
    found = (peers, find_peers(peers, subject, chosen)) if peers is not None else None
    int8_cache = kv_cache_dtype == "int8"
    plan = check_plan(
        Plan(subject, chosen_workloads(_words(works)), chosen, threads, runs, found, int8_cache)
    )
    tier = native_tier()
    measured = compare(
        plan, tier, lambda work, weights: typer.echo(f"{work.name} {weights}", err=True)
    )
    rows = [(row, judge(row, subject, tier, int8_cache=int8_cache)) for row in measured]
    if as_json:
        typer.echo(json.dumps(_as_json(plan, tier, rows), indent=1))
    else:
        _print(plan, tier, rows)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


Rows = Sequence[tuple["Row", "Verdict"]]


def _as_json(plan: "Plan", tier: str, rows: Rows) -> dict[str, Any]:
    from puna.inference_benchmark.comparison import peer_commits

    return {
        "model": plan.subject.name,
        "parameters": plan.subject.parameters.total,
        "tier": tier,
        "threads": plan.threads,
        "int8_cache": plan.int8_cache,
        "peers": peer_commits(plan),
        "rows": [
            {"work": row.work.name, "format": row.format, "unit": row.work.unit}
            | {"medians": row.medians, **asdict(verdict), "limits": asdict(row.limits)}
            | {"runs": row.runs, "failed": row.failed}
            for row, verdict in rows
        ],
    }


def _print(plan: "Plan", tier: str, rows: Rows) -> None:
    from puna.cli.columns import print_columns
    from puna.inference_benchmark.comparison import peer_commits
    from puna.native.library import problem
    from puna.number_format import amount

    typer.echo(
        f"{plan.subject.name}: {amount(plan.subject.parameters.total)} parameters;"
        f" tier {tier}, {plan.threads} threads, medians of {plan.runs} runs"
        + (", Puna's keys and values in int8" if plan.int8_cache else "")
    )
    others = max((row.limits.others or 0.0 for row, _ in rows), default=0.0)
    if others >= 0.1:
        typer.echo(f"meanwhile other programs took up to {others:.1f} cores")
    if (reason := problem()) is not None:
        typer.echo(f"without the native core: {reason}")
    for name, commit in peer_commits(plan).items():
        typer.echo(f"{name}: {commit}")
    entries = list(dict.fromkeys(name for row, _ in rows for name in row.runs))
    typer.echo("\ntokens a second; of a start, seconds")
    print_columns([("work", *entries), *(_figures(row, entries) for row, _ in rows)])
    typer.echo()
    header = ("work", "of limit", "limit", "ratio", "beside", "bar", "")
    print_columns([header, *map(_judged, rows)])
    for row, _ in rows:
        for name, reason in row.failed.items():
            typer.echo(f"\n{row.work.name} {row.format}: {name} failed: {reason}")


def _limit(row: "Row") -> str:
    limits = row.limits
    if row.work.kind == "decode":
        return "" if limits.reading is None else f"{limits.reading / 1e9:,.0f} GB/s"
    peak = limits.peak(row.format)
    return "" if peak is None else f"{peak / 1e9:,.0f} GFLOP/s"


def _figures(row: "Row", entries: Sequence[str]) -> tuple[str, ...]:
    medians = row.medians
    form = ",.3f" if row.work.unit == "s" else ",.1f"
    cells = (format(medians[name], form) if name in medians else "" for name in entries)
    return (f"{row.work.name} {row.format}", *cells)


def _judged(judged: "tuple[Row, Verdict]") -> tuple[str, ...]:
    row, verdict = judged
    bar = verdict.bar
    asked = ""
    if bar is not None:
        parts = [f"{bar.ratio:.2f}x"]
        parts += [f"{bar.share:.0%} of the limit"] if bar.share is not None else []
        parts += [f"{bar.seconds:g} s"] if bar.seconds is not None else []
        asked = ", ".join(parts)
    return (
        f"{row.work.name} {row.format}",
        "" if verdict.share is None else f"{verdict.share:.0%}",
        _limit(row),
        "" if verdict.ratio is None else f"{verdict.ratio:.2f}x",
        verdict.rival or "",
        asked,
        {True: "met", False: "missed", None: "" if bar is None else "not known"}[verdict.met],
    )
