"""`puna study`: controlled comparisons. Runs go to `results.jsonl` one by one; the report is made
from it alone.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from puna.model.transformer import Transformer
    from puna.report.section import StudyResults
    from puna.study.run_metrics import FinishedRun
    from puna.study.runner import JobExecutor
    from puna.training.recipe import Recipe
    from puna.training.trainer import RunInputs

app = typer.Typer(
    name="study",
    help="Controlled comparisons: arms and seeds in, paired differences with intervals out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

VALIDATION_BYTES = 200_000

Folder = Annotated[
    Path,
    typer.Argument(help="A folder with a study.yaml, such as studies/demo.", show_default=False),
]


def open_inputs(recipe: "Recipe") -> "tuple[RunInputs, Callable[[Transformer], FinishedRun]]":
    """The inputs of a run, opened in the process that runs it, and the validation text that
    its model is measured on.
    """
    from puna.study.run_metrics import FinishedRun
    from puna.workflow.run_data import open_data

    data = open_data(recipe)

    def finished_run(model: "Transformer") -> "FinishedRun":
        return FinishedRun(
            model, data.tokenizer, data.validation_text_ids(VALIDATION_BYTES), recipe.context_length
        )

    return data.inputs, finished_run


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
    on.

    Example:

        puna study run studies/demo --jobs 2

        puna study run studies/demo --cluster slurm --cluster-option slurm_partition=gpu
            --cluster-option gpus_per_node=1

    Then measures the arms' step times, if it has not (not after a cluster: puna study time does),
    and writes the report. A study whose code, data or recipes changed since its first run is
    rejected.
    """
    from rich.console import Console

    from puna.cli.progress import RunProgress
    from puna.study.definition import read_study, resolve_arms
    from puna.study.run_metrics import METRICS
    from puna.study.runner import run_study, unfinished
    from puna.study.step_times import FILE as STEP_TIMES
    from puna.workflow.run_data import make_missing_data

    console = Console()
    study = read_study(folder)
    for arm in resolve_arms(study, folder).values():
        with RunProgress(console) as progress:
            make_missing_data(arm.recipe, [progress])
    total, left = len(study.arms) * len(study.seeds), len(unfinished(study, folder))
    if left:
        console.print(
            f"{left} of {total} runs to do, {f'on {cluster}' if cluster else f'{jobs} at a time'}",
            highlight=False,
        )
    with _executor(folder, jobs, threads, cluster, cluster_option or []) as executor:
        for done, (job, record) in enumerate(
            run_study(study, folder, open_inputs, executor), total - left + 1
        ):
            value = record[study.metric]
            found = f"{value:.4f} {METRICS[study.metric].unit}" if value is not None else "diverged"
            console.print(
                f"{done:>4} of {total}  {job.arm}, seed {job.seed}: {found},"
                f" {record['machine']['train_seconds']:.0f} s",
                highlight=False,
            )
    if study.step_times and cluster is None and not (folder / STEP_TIMES).exists():
        time(folder)
    report(folder)


def _executor(
    folder: Path, jobs: int, threads: int | None, cluster: str | None, cluster_options: list[str]
) -> "AbstractContextManager[JobExecutor]":
    from puna.config import apply_overrides
    from puna.study.cluster import ClusterExecutor
    from puna.study.runner import local_executor

    if cluster is not None:
        return nullcontext(ClusterExecutor(cluster, folder, apply_overrides({}, cluster_options)))
    return local_executor(jobs, threads or max(1, (os.cpu_count() or 1) // jobs))


@app.command()
def time(folder: Folder) -> None:
    """Measure the step times of a study's arms, side by side, and write step_times.json. Leave the
    machine alone meanwhile.
    """
    from rich.console import Console

    from puna.durable import write_json
    from puna.spawn import SpawnedPool
    from puna.study.definition import read_study, resolve_arms
    from puna.study.step_times import FILE, measure_step_times

    study, console = read_study(folder), Console()
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
def report(folder: Folder) -> None:
    """Write REPORT.md, and report.html with its figures, from study.yaml, results.jsonl and
    step_times.json.
    """
    from rich.console import Console

    from puna.report.study_report import PAGE, TEXT, write_study_report

    results = write_study_report(folder)
    console = Console()
    console.print(_differences(results))
    console.print(f"report  {folder / TEXT}\npage    {folder / PAGE}", highlight=False)


def _differences(results: "StudyResults") -> "Table":
    """The table of differences, for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    from puna.report.differences import p_value

    table = Table(title=escape(results.study.question), title_justify="left")
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
        table.add_row(escape(comparison.arm), *numbers, comparison.verdict)
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
        table.add_row(
            path.name,
            study.question,
            f"{len(read_results(path))} of {len(study.arms) * len(study.seeds)}",
        )
    Console().print(table)
