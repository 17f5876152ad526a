"""`puna study`: controlled comparisons. Runs go to `results.jsonl` one by one; the report is made
from it alone.

`puna study simulate` is in study_simulate.py.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puna.cli import study_simulate

if TYPE_CHECKING:
    from rich.table import Table

    from puna.report.section import StudyResults
    from puna.study.definition import Study
    from puna.study.run_metrics import StudyText
    from puna.study.runner import JobExecutor
    from puna.training.recipe import Recipe
    from puna.training.run_inputs import RunInputs

app = typer.Typer(
    name="study",
    help="Controlled comparisons: arms and seeds in, paired differences with intervals out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("simulate")(study_simulate.simulate)

Folder = Annotated[
    Path,
    typer.Argument(help="A folder with a study.yaml, such as studies/demo.", show_default=False),
]


def open_inputs(recipe: "Recipe", study: "Study") -> "tuple[RunInputs, StudyText]":
    """The inputs of a run, opened in the process that runs it, and the text that its model is
    measured on.
    """
    from puna.data.additions import read_additions
    from puna.study.run_metrics import StudyText
    from puna.workflow.run_data import open_data, sample_ids

    data = open_data(recipe)
    others = sample_ids(study.out_of_domain, data.tokenizer) if study.out_of_domain else None
    sums = tuple(form for source in data.sources if (form := read_additions(source)) is not None)
    return data.inputs, StudyText(data.tokenizer, *data.validation_documents(), others, sums)


@app.command()
def run(
    folder: Folder,
    jobs: Annotated[
        int,
        typer.Option(
            help="Runs at a time. For small models on a CPU, as many as it has cores is fastest.",
            min=1,
        ),
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of each run; left out, the cores divided by --jobs.", min=1),
    ] = None,
    nice: Annotated[
        bool, typer.Option("--nice", help="At the lowest priority: other programs come first.")
    ] = False,
    stage: Annotated[
        str | None, typer.Option(help="The last stage to run; left out, every stage of study.yaml.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Submit every run as a job of its own instead: slurm, through submitit."),
    ] = None,
    cluster_option: Annotated[
        list[str] | None,
        typer.Option(help="One of submitit's parameters, such as timeout_min=240."),
    ] = None,
) -> None:
    """Run every arm with every seed; what is finished is not run again, what was interrupted goes
    on. Arms are tuned first, where study.yaml asks for it; then stage follows stage.

    Example:

        puna study run studies/demo --jobs 2

        puna study run studies/gates --jobs 2 --nice --stage quarter

        puna study run studies/demo --cluster slurm --cluster-option slurm_partition=gpu
            --cluster-option gpus_per_node=1

    Then measures the arms' step times, if it has not (not after a cluster: puna study time does),
    and writes the report. A study whose code, data or recipes changed since its first run is
    rejected.
    """
    from rich.console import Console

    from puna.cli.progress import RunProgress
    from puna.number_format import duration
    from puna.study.arms import resolve_arms
    from puna.study.baselines import FILE as BASELINES
    from puna.study.definition import read_study
    from puna.study.forecast import Forecast
    from puna.study.run_metrics import METRICS
    from puna.study.runner import run_study
    from puna.study.step_times import FILE as STEP_TIMES
    from puna.workflow.missing_data import make_missing_data

    console = Console(markup=False, emoji=False)
    study = read_study(folder)
    with RunProgress(console) as progress:
        for arm in resolve_arms(study, folder).values():
            # shards that some runs were trained on are never prepared again
            make_missing_data(arm.recipe, [progress], again=False)
    forecast = Forecast(study, folder, jobs, stage)
    total = sum(len(phase.jobs) for phase in forecast.phases)
    left = sum(len(phase.unfinished(folder)) for phase in forecast.phases)
    if left:
        where = (
            f"on {cluster}" if cluster else f"{jobs} at a time, about {duration(forecast.seconds)}"
        )
        console.print(f"{left} of {total} runs to do, {where}", highlight=False)
    with _executor(folder, jobs, threads, nice, cluster, cluster_option or []) as executor:
        for done, (job, record) in enumerate(
            run_study(study, folder, open_inputs, executor, stage), total - left + 1
        ):
            value = record[study.metric]
            found = f"{value:.4f} {METRICS[study.metric].unit}" if value is not None else "diverged"
            rest = "" if cluster or done == total else f"; about {duration(forecast.seconds)} left"
            console.print(
                f"{done:>4} of {total}  {job.name}: {found},"
                f" {record['machine']['seconds']:.0f} s{rest}",
                highlight=False,
            )
    if not (folder / BASELINES).exists():
        baselines(folder)
    if study.step_times and cluster is None and not (folder / STEP_TIMES).exists():
        time(folder)
    report(folder)


def _executor(
    folder: Path,
    jobs: int,
    threads: int | None,
    nice: bool,
    cluster: str | None,
    cluster_options: list[str],
) -> "AbstractContextManager[JobExecutor]":
    from puna.config import apply_overrides
    from puna.study.cluster import ClusterExecutor
    from puna.study.runner import local_executor

    if cluster is not None:
        return nullcontext(ClusterExecutor(cluster, folder, apply_overrides({}, cluster_options)))
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    return local_executor(jobs, threads, nice=nice)


@app.command()
def time(folder: Folder) -> None:
    """Measure the step times of a study's arms, side by side, and write step_times.json. Leave the
    machine alone meanwhile.
    """
    from rich.console import Console

    from puna.durable import write_json
    from puna.spawn import SpawnedPool
    from puna.study.arms import resolve_arms
    from puna.study.definition import read_study
    from puna.study.step_times import FILE, measure_step_times

    study, console = read_study(folder), Console(markup=False, emoji=False)
    with (
        console.status("measuring step times: compiling takes about half a minute an arm"),
        SpawnedPool(1) as process,
    ):
        write_json(
            folder / FILE,
            process.submit(
                measure_step_times, resolve_arms(study, folder), study.step_times
            ).result(),
        )
    console.print(f"step times  {folder / FILE}", highlight=False)


@app.command()
def baselines(folder: Folder) -> None:
    """Measure what counting tokens and compressing bytes make of a study's validation text, and
    write baselines.json.

    All of them have read the training text of the baseline arm first, up to 12 MB of it. About a
    quarter of a minute.
    """
    from dataclasses import asdict

    from rich.console import Console

    from puna.durable import write_json
    from puna.study.arms import resolve_arms
    from puna.study.baselines import FILE, measure_baselines
    from puna.study.definition import read_study
    from puna.workflow.evaluation import PRIMING_BYTES
    from puna.workflow.run_data import open_data

    study = read_study(folder)
    recipe = resolve_arms(study, folder)[study.baseline].recipe
    _, text = open_inputs(recipe, study)
    found = measure_baselines(open_data(recipe).training_text(PRIMING_BYTES), text)
    write_json(folder / FILE, asdict(found))
    Console(markup=False, emoji=False).print(f"baselines  {folder / FILE}", highlight=False)


@app.command()
def report(folder: Folder) -> None:
    """Write REPORT.md, and report.html with its figures, from study.yaml, results.jsonl and
    step_times.json.
    """
    from rich.console import Console

    from puna.report.study_report import PAGE, TEXT, write_study_report

    results = write_study_report(folder)
    console = Console(markup=False, emoji=False)
    console.print(_differences(results))
    console.print(f"report  {folder / TEXT}\npage    {folder / PAGE}", highlight=False)


def _differences(results: "StudyResults") -> "Table":
    """The table of differences, for the terminal."""
    from rich.table import Table

    from puna.report.differences import p_value

    table = Table(title=results.study.question, title_justify="left")
    for column in (
        "arm",
        f"difference, {results.metric.unit}",
        f"{results.analysis.rule.level} interval",
        "p, Holm",
        "verdict",
    ):
        table.add_column(column)
    for comparison in results.analysis.best_first:
        test = comparison.test
        numbers = ("", "", "")
        if test is not None:
            low, high = test.confidence_interval
            numbers = (
                f"{test.mean_difference:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                p_value(test.adjusted_p_value),
            )
        table.add_row(comparison.arm, *numbers, comparison.verdict)
    return table


@app.command("list")
def list_studies(
    folder: Annotated[Path, typer.Argument(help="The folder of the studies.")] = Path("studies"),
) -> None:
    """List the studies in a folder with their questions and how far they are."""
    from rich.console import Console
    from rich.table import Table

    from puna.errors import ConfigError
    from puna.study.definition import FILE, read_study
    from puna.study.results import read_results

    found = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
    if not found:
        raise ConfigError(f"{folder} holds no study: a study is a folder with a {FILE}")
    table = Table("study", "question", "runs")
    for path in found:
        study = read_study(path)
        runs = len(study.arms) * len(study.seeds) * len(study.stages)
        table.add_row(path.name, study.question, f"{len(read_results(path))} of {runs}")
    Console(markup=False, emoji=False).print(table)
