"""`puna data prepare RECIPE` and `puna data report`: a corpus through its stages, and the page that
shows what they did.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from puna.corpus.summary import CorpusSummary


def is_recipe(sources: list[str], tokenizer: Path | None, out: Path | None) -> bool:
    """True where `puna data prepare` is given a recipe instead of sources: one YAML file, which
    itself names tokenizer and folder.
    """
    return (
        len(sources) == 1
        and sources[0].endswith((".yaml", ".yml"))
        and tokenizer is None
        and out is None
    )


def reject_options_of_sources(context: typer.Context) -> None:
    """Raise BadParameter for an option that says how sources are read, which the recipe of a corpus
    says itself.
    """
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in ("sources", "workers", "ray")
        and (source := context.get_parameter_source(str(parameter.name))) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise typer.BadParameter(
            f"{', '.join(given)} cannot go with the recipe of a corpus, which says it for each"
            " source; write it into the recipe and leave it out"
        )


def prepare_recipe(path: Path, workers: int | None, ray: str | None) -> None:
    """Prepare the corpus of a recipe, and print what each stage did. ray: address of a cluster, or
    `local` for one on this machine.
    """
    from rich.console import Console

    from puna.cli.work_progress import corpus_progress
    from puna.corpus.corpus_recipe import load_preparation_recipe
    from puna.corpus.local_processes import local_processes
    from puna.corpus.pipeline import prepare_corpus
    from puna.corpus.ray_cluster import ray_cluster
    from puna.data.encode import available_cores
    from puna.report.corpus_report import write_corpus_report

    recipe = load_preparation_recipe(path)
    if ray is None:
        executor = local_processes(available_cores() if workers is None else workers)
    else:
        executor = ray_cluster(None if ray == "local" else ray)
    with corpus_progress(Console(stderr=True, markup=False, emoji=False)) as on_progress:
        summary = prepare_corpus(recipe, executor, on_progress)
    console = Console(markup=False, emoji=False)
    print_counts(console, summary)
    console.print(f"page: {write_corpus_report(recipe.out)}", highlight=False, soft_wrap=True)


def print_counts(console: "Console", summary: "CorpusSummary") -> None:
    """A table of the stages, all sources together."""
    from rich.table import Table

    table = Table()
    table.add_column("stage")
    for unit in ("documents in", "dropped", "text MB in", "MB out"):
        table.add_column(unit, justify="right")
    for name, count in summary.stages.items():
        table.add_row(
            name,
            f"{count.documents_in:,}",
            f"{count.documents_in - count.documents_out:,}",
            f"{count.bytes_in / 1e6:,.2f}",
            f"{count.bytes_out / 1e6:,.2f}",
        )
    console.print(table)
