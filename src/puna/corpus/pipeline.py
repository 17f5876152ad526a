"""From a corpus recipe to folders of shards: the stages run as tasks, on any executor.

    filter    a run of files a task: read, the stages that look at one document, pieces with keys
    compare   a band and a range of keys a task: links between documents of equal keys; then labels
    finish    a piece a task: repeated documents left out, the others tokenised, a shard a split

    OUT/NAME/          shards of the source NAME with manifest and tokenizer, as training reads them
    OUT/mixture.yaml   the sources and their weights, for a training recipe to extend
    OUT/corpus.json    inputs, and counts and samples of every stage (`CorpusSummary`); written last
    OUT/work/          pieces and records of tasks until then

Each task writes its record last, so the same call continues an interrupted one with the tasks that
have none. Tasks, their numbers and the documents that are kept depend on the recipe and the files
alone: every executor writes the same bytes. Cost: the text is written once more, compressed, and
read again. Memory: that of a task in each process; here a few numbers a piece.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from puna import durable
from puna.config import dump_yaml
from puna.corpus.corpus_recipe import PreparationRecipe
from puna.corpus.decontamination import warn_of_short_texts
from puna.corpus.duplicates import LinkTask, link, link_tasks, write_labels
from puna.corpus.filter_task import FilterRecord, FilterTask, filter_files
from puna.corpus.finish_task import FinishRecord, FinishTask, finish_piece, plan_source_split
from puna.corpus.input_files import InputFiles, find_files, task_files
from puna.corpus.local_processes import TaskExecutor
from puna.corpus.pieces import keys_file
from puna.corpus.summary import (
    SUMMARY_NAME,
    CorpusInputs,
    CorpusSummary,
    SourceSummary,
    begun_inputs,
    write_manifest,
)
from puna.corpus.tally import StageCounts, summed
from puna.data.left_out import LeftOut
from puna.data.manifest import SPLITS, Shard, SplitName
from puna.data.output_folder import writing_folder
from puna.data.split import SplitPlan
from puna.errors import DataError
from puna.spawn import require_main_guard
from puna.tokenizer.tokenizer import Tokenizer

WORK_NAME = "work"
MIXTURE_NAME = "mixture.yaml"


class CorpusProgress(NamedTuple):
    """Progress of one part of the work, that of an interrupted call before it included."""

    part: str
    """filter, compare or finish."""
    done: int
    """Bytes, as stored or of text; of `compare` keys."""
    total: int


OnProgress = Callable[[CorpusProgress], None]


@dataclass
class _SourceWork:
    """One source on its way."""

    files: InputFiles
    tasks: list[FilterTask]
    pieces: list[FinishTask]
    left_out: LeftOut
    stages: StageCounts
    shards: dict[SplitName, list[Shard]]


def prepare_corpus(
    recipe: PreparationRecipe, executor: TaskExecutor, on_progress: OnProgress = lambda _: None
) -> CorpusSummary:
    """Prepare the corpus of a recipe, or continue what an interrupted call began.

    A folder that is complete and was made from the same inputs is left as it is. Raises DataError
    for sources that are not there or damaged beyond `bad_share`, for a folder that was begun from
    other inputs, for a stage whose package is not installed, and for a full disk.
    """
    require_main_guard()
    out = recipe.out.resolve()
    tokenizer = None if recipe.tokenizer is None else Tokenizer.load(recipe.tokenizer)
    found = [find_files(source, (out,)) for source in recipe.sources]
    inputs = CorpusInputs.of(recipe, found, tokenizer)
    with writing_folder(out):
        if (out / SUMMARY_NAME).exists():
            summary = CorpusSummary.load(out)
            summary.inputs.require_same(inputs, out)
            return summary
        work = out / WORK_NAME
        begun_inputs(work, inputs, out)
        if recipe.stages.decontaminate is not None:
            warn_of_short_texts(recipe.stages.decontaminate)
        sources = _filter(recipe, found, work, executor, on_progress)
        labels = _compare(recipe, sources, work, executor, on_progress)
        _plan_finish(recipe, sources, labels, out, tokenizer)
        _finish(sources, executor, on_progress)
        summary = _conclude(recipe, sources, inputs, out, tokenizer)
        shutil.rmtree(work)
    return summary


def _filter(
    recipe: PreparationRecipe,
    found: Sequence[InputFiles],
    work: Path,
    executor: TaskExecutor,
    on_progress: OnProgress,
) -> list[_SourceWork]:
    """Run the first part, and gather its records source by source. Raises DataError for a source
    that gives no document, or too much that is damaged.
    """
    sources = [
        _SourceWork(
            files,
            [
                FilterTask(
                    source, recipe.stages, recipe.piece_bytes, run, work / source.name, number
                )
                for number, run in enumerate(task_files(files.files))
            ],
            [],
            LeftOut(bad_share=recipe.bad_share),
            {},
            {split: [] for split in SPLITS},
        )
        for source, files in zip(recipe.sources, found, strict=True)
    ]
    tasks = [task for source in sources for task in source.tasks]
    _run("filter", tasks, filter_files, executor, on_progress)
    first = 0
    for options, source in zip(recipe.sources, sources, strict=True):
        source.files.report_passed_over(source.left_out)
        for task in source.tasks:
            record = FilterRecord.model_validate_json(task.record.read_bytes())
            source.stages = summed((source.stages, record.stages))
            source.left_out.include(record.left_out, record.examples)
            for piece in record.pieces:
                path = task.folder / f"{piece.name}.parquet"
                source.pieces.append(
                    FinishTask(
                        piece=path,
                        size=piece.bytes,
                        first=first,
                        documents=piece.documents,
                        labels=(),
                        out=recipe.out.resolve() / options.name,
                        number=len(source.pieces),
                        tokenize=recipe.tokenizer is not None,
                        split=SplitPlan(0.0),
                    )
                )
                first += piece.documents
        read = source.stages["read"].documents_in if source.stages else 0
        source.left_out.finish_source(options.name, read, len(source.files.files))
    return sources


def _compare(
    recipe: PreparationRecipe,
    sources: Sequence[_SourceWork],
    work: Path,
    executor: TaskExecutor,
    on_progress: OnProgress,
) -> tuple[tuple[str, Path], ...]:
    """Run the second part: the labels of each stage that compares documents."""
    pieces = [piece for source in sources for piece in source.pieces]
    keys = [keys_file(piece.piece) for piece in pieces]
    documents = sum(piece.documents for piece in pieces)
    near = recipe.stages.near_duplicates
    rows = {
        "exact_duplicates": [0],
        "near_duplicates": [] if near is None else list(range(2, 2 + near.bands)),
    }
    planned: dict[str, list[LinkTask]] = {
        name: link_tasks(keys, documents, rows[name], work) for name in recipe.stages.compared
    }
    tasks = [task for stage in planned.values() for task in stage]
    _run("compare", tasks, link, executor, on_progress)
    labels = []
    for name, stage in planned.items():
        path = work / f"{name}.npy"
        if not path.exists():
            write_labels([task.record for task in stage], documents, path)
        labels.append((name, path))
    return tuple(labels)


def _finish(
    sources: Sequence[_SourceWork], executor: TaskExecutor, on_progress: OnProgress
) -> None:
    """Run the last part, and gather its records."""
    tasks = [task for source in sources for task in source.pieces]
    _run("finish", tasks, finish_piece, executor, on_progress)
    for source in sources:
        for task in source.pieces:
            record = FinishRecord.model_validate_json(task.record.read_bytes())
            source.stages = summed((source.stages, record.stages))
            for split, shards in record.shards.items():
                source.shards[split] += shards


def _plan_finish(
    recipe: PreparationRecipe,
    sources: Sequence[_SourceWork],
    labels: tuple[tuple[str, Path], ...],
    out: Path,
    tokenizer: Tokenizer | None,
) -> None:
    """Give the tasks of the last part their labels and split, and their folders the tokenizer."""
    for options, source in zip(recipe.sources, sources, strict=True):
        source.pieces = [piece._replace(labels=labels) for piece in source.pieces]
        (out / options.name).mkdir(exist_ok=True)
        for leftover in (out / options.name).glob(".*.partial"):
            leftover.unlink()
        if tokenizer is not None:
            tokenizer.save(out / options.name)
            source.pieces = _with_split(source.pieces, options.name, recipe, out)


def _with_split(
    pieces: list[FinishTask], name: str, recipe: PreparationRecipe, out: Path
) -> list[FinishTask]:
    try:
        split = plan_source_split(pieces, out / name, recipe.validation_fraction)
    except DataError as error:
        raise DataError(f"the source {name}: {error}; or make validation_fraction 0") from error
    return [piece._replace(split=split) for piece in pieces]


def _conclude(
    recipe: PreparationRecipe,
    sources: Sequence[_SourceWork],
    inputs: CorpusInputs,
    out: Path,
    tokenizer: Tokenizer | None,
) -> CorpusSummary:
    """Write the manifests, the mixture and the summary."""
    summaries = []
    for options, source in zip(recipe.sources, sources, strict=True):
        summary = SourceSummary(
            name=options.name,
            weight=options.weight,
            files=len(source.files.files),
            size=source.files.size,
            stages=source.stages,
            left_out=dict(source.left_out.counts),
            examples={kind: tuple(names) for kind, names in source.left_out.examples.items()},
        )
        if tokenizer is not None:
            cut = any(piece.split.cut for piece in source.pieces)
            write_manifest(
                out / options.name, options, summary, inputs, source.shards, cut, tokenizer
            )
        summaries.append(summary)
    if tokenizer is not None:
        mixture = [
            {"path": str(recipe.out / source.name), "weight": source.weight}
            for source in recipe.sources
        ]
        durable.write_text(out / MIXTURE_NAME, dump_yaml({"data": {"mixture": mixture}}))
    corpus = CorpusSummary(inputs=inputs, sources=tuple(summaries))
    durable.write_json(out / SUMMARY_NAME, corpus.model_dump(mode="json"))
    return corpus


def _run(
    part: str,
    tasks: Sequence[Any],
    function: Callable[[Any], Any],
    executor: TaskExecutor,
    on_progress: OnProgress,
) -> None:
    """Do the tasks that have no record yet. A result has the task's `size`."""
    waiting = [task for task in tasks if not task.record.exists()]
    total = sum(task.size for task in tasks)
    done = total - sum(task.size for task in waiting)
    on_progress(CorpusProgress(part, done, total))
    for size in executor(function, waiting):
        done += size
        on_progress(CorpusProgress(part, done, total))
