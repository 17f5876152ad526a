"""`puna quickstart`: from raw text to a trained and measured model in a few minutes, with a line
on each stage.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puna.cli.reading_options import (
    BadShare,
    Exclude,
    Include,
    MaxDocuments,
    Normalize,
    Separator,
    Strict,
    TextField,
)

if TYPE_CHECKING:
    from rich.console import Console

    from puna.cli.progress import RunProgress
    from puna.training.recipe import Recipe


def quickstart(
    minutes: Annotated[float, typer.Option(help="Time to train, about.", min=0.05)] = 2.5,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Your own text: a folder or a file; may be given several times.",
            show_default="Python's library",
        ),
    ] = None,
    run: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/quickstart"),
    max_documents: MaxDocuments = None,
    text_field: TextField = "text",
    separator: Separator = None,
    normalize: Normalize = "bom",
    include: Include = None,
    exclude: Exclude = None,
    strict: Strict = False,
    bad_share: BadShare = 0.1,
) -> None:
    """Train a small LLaMA from nothing: tokenizer, corpus, model, measurement, generation.

    Examples:

        puna quickstart

        puna quickstart --text my-notes/ --minutes 10 --run runs/notes

    Interrupted, it goes on where it stopped when it is called again. Finished, it shows its
    results.
    """
    from rich.console import Console

    from puna.cli.progress import RunProgress
    from puna.cli.run import print_result, run_recipe
    from puna.workflow.run_data import make_missing_data
    from puna.workflow.training_run import read_summary

    console = Console(markup=False, emoji=False)
    corpus: dict[str, Any] = {
        "sources": [str(path) for path in text or [Path("python-stdlib")]],
        "max_documents": max_documents,
        "text_field": text_field,
        "separator": separator,
        "normalize": normalize,
        "include": include or [],
        "exclude": exclude or [],
        "strict": strict,
        "bad_share": bad_share,
    }
    summary = read_summary(run)
    begun = (run / "recipe.yaml").exists()
    if begun:
        recipe = _begun_recipe(run, corpus)
        state = "is finished" if summary else "is unfinished and goes on"
        console.print(f"{run} {state}; --run OTHER starts a new one", highlight=False)
    if summary is None:
        _explain(
            console,
            "1/4",
            "Tokenizer and corpus",
            f"{', '.join(corpus['sources'])}: learn {VOCABULARY:,} tokens, drop copies, set a part"
            " aside for validation, store ids.",
        )
        if not begun:
            recipe = quickstart_recipe(run, corpus, steps=1)
            with RunProgress(console) as progress:
                make_missing_data(recipe, [progress])
            recipe = quickstart_recipe(run, corpus, steps=steps_within(recipe, minutes))
        _explain(
            console,
            "2/4",
            "Training",
            f"{recipe.train.steps:,} steps of {recipe.tokens_per_step:,} tokens: predict every next"
            " token, then take an optimizer step.",
        )
        summary = run_recipe(recipe, _staged_progress(console), resume=begun, again="once more")
    _explain(console, "4/4", "Done", "your own LLaMA:")
    print_result(summary, run, console)
    _print_next_steps(run, console)


def _staged_progress(console: "Console") -> "RunProgress":
    from puna.cli.progress import RunProgress

    class StagedProgress(RunProgress):
        """Progress with a line on the third stage before it begins."""

        def measuring(self) -> None:
            _explain(
                console,
                "3/4",
                "Measuring",
                "bits per byte on validation text, beside gzip and xz on the same bytes.",
            )
            super().measuring()

    return StagedProgress(console)


def _begun_recipe(run: Path, corpus: dict[str, Any]) -> "Recipe":
    """The recipe of a run that exists. Raises TrainingError where its text is another one, or was
    read with other options.
    """
    from puna.errors import TrainingError
    from puna.training.stored_recipe import read_stored_recipe

    recipe = read_stored_recipe(run)
    before = recipe.data.mixture[0].model_dump()
    if list(before["sources"]) != corpus["sources"]:
        raise TrainingError(
            f"{run} was trained on {', '.join(before['sources'])}, not on"
            f" {', '.join(corpus['sources'])}: choose another --run"
        )
    for key in ("max_documents", "text_field", "separator", "normalize", "include", "exclude"):
        now = tuple(corpus[key]) if isinstance(corpus[key], list) else corpus[key]
        if before[key] != now:
            raise TrainingError(
                f"{run} was trained with {key} {before[key]!r}, not {now!r}: choose another --run"
            )
    return recipe


def _print_next_steps(run: Path, console: "Console") -> None:
    console.print(
        f"\nWhat next:\n  puna generate {run / 'model'} 'import '      generate text\n"
        f"  puna eval {run / 'model'} --text README.md    measure it on any text\n"
        f"  puna tokenizer inspect {run / 'model'}        show its vocabulary\n"
        "  puna quickstart --text FOLDER --run runs/mine   train one on your own text",
        highlight=False,
        soft_wrap=True,
    )


VOCABULARY = 2048
PIECE = 2**16  # characters: one long file still gives documents for validation


def validation_share(run: Path, corpus: dict[str, Any]) -> float:
    """The share of documents for validation: a twentieth, and of a few documents enough that about
    ten are in it.
    """
    from puna.data.reading import checked_reading
    from puna.data.sources import find_sources

    reading = checked_reading(include=corpus["include"], exclude=corpus["exclude"])
    documents = sum(
        1 + file.size // PIECE
        for found in find_sources(corpus["sources"], reading, [run])
        for file in found.files
    )
    return min(0.5, max(0.05, 10 / documents))


def quickstart_recipe(run: Path, corpus: dict[str, Any], steps: int) -> "Recipe":
    """A recipe for a few minutes on a CPU. corpus: the keys of its one part of `data.mixture`, but
    for the path.

    The learning rates, the warm-up and the linear decay to zero were chosen by hand for runs of a
    few hundred steps of `puna-2m`. No sweep is on record: they are a working choice, not an
    optimum.
    """
    from puna.config import validate
    from puna.training.recipe import Recipe

    values: dict[str, Any] = {
        "run": str(run),
        "tokenizer": {"path": str(run / "tokenizer"), "vocab_size": VOCABULARY},
        "data": {
            "mixture": [{"path": str(run / "data"), **corpus}],
            "validation_fraction": validation_share(run, corpus),
            "piece_characters": PIECE,
        },
        "model": {"preset": "puna-2m"},
        "optimizer": {
            "name": "muon",
            "learning_rate": 8e-3,
            "muon_learning_rate": 0.02,
            "schedule": "linear",
            "warmup_steps": max(0, steps // 20),
            "final_factor": 0.0,
        },
        "train": {
            "steps": steps,
            "batch_size": 8,
            "log_every": 5,
            "validate_every": -(-steps // 5),
            "validation_tokens": 20_000,
            "checkpoint_every": 100,
        },
    }
    return validate(Recipe, values, origin="quickstart")


def steps_within(recipe: "Recipe", minutes: float) -> int:
    """The number of steps of this recipe that take `minutes` on this machine, from timing a few.

    At least 100 a minute, the pace of two slow cores: a busy machine then takes longer instead of
    learning less. Once chosen, the number is part of the recipe, so a resumed run ends where it
    would have.
    """
    import time

    import torch

    from puna.training.step_time import fastest_step_seconds
    from puna.workflow.run_data import open_data

    begin = time.perf_counter()
    batch = open_data(recipe).inputs.batch
    seconds = fastest_step_seconds(recipe, lambda step: torch.from_numpy(batch(step)))
    return max(
        2, round(100 * minutes), int((minutes * 60 - (time.perf_counter() - begin)) / seconds)
    )


def _explain(console: Any, number: str, title: str, text: str) -> None:
    from rich.text import Text

    line = Text.assemble((f"{number} {title}", "bold"), f"  {text}")
    console.print(line, highlight=False, soft_wrap=True)
