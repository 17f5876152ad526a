"""`puna quickstart`: from raw text to a trained and measured model in a few minutes, with a line
on each stage.
"""

import time
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
from puna.cli.train import Isa

if TYPE_CHECKING:
    from rich.console import Console

    from puna.cli.progress import RunProgress
    from puna.training.recipe import Recipe


def quickstart(
    minutes: Annotated[float, typer.Option(help="Time for all of it.", min=0.05)] = 2.5,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Your own text: a folder or a file; may be given several times.",
            show_default="Python's library",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Text to hold out and measure on: a folder or a file.",
            show_default="a part of the text",
        ),
    ] = None,
    run: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/quickstart"),
    isa: Isa = None,
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

    It trains as many steps as fit into the minutes, and fewer than at first planned where the
    machine becomes slower. In two minutes or less it measures on less text, and the baselines read
    less of the training text; the report says how much. Interrupted, it goes on where it stopped
    when it is called again. Finished, it shows its results.
    """
    from rich.console import Console

    from puna.cli.run import print_result, run_recipe
    from puna.workflow.missing_data import make_missing_data
    from puna.workflow.training_run import read_summary

    console = Console(markup=False, emoji=False)
    progress = _staged_progress(console)
    corpus: dict[str, Any] = {
        "sources": [str(path) for path in text or [Path("python-stdlib")]],
        "validation_sources": [str(validation)] if validation else [],
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
        recipe = with_isa(_begun_recipe(run, corpus), isa)
        state = "is finished" if summary else "is unfinished and goes on"
        console.print(f"{run} {state}; --run OTHER starts a new one", highlight=False)
    if summary is None:
        end = time.monotonic() + 60 * minutes
        _explain(
            console,
            "1/4",
            "Tokenizer and corpus",
            f"{', '.join(corpus['sources'])}: learn {VOCABULARY:,} tokens, drop copies, set a part"
            " aside for validation, store ids.",
        )
        if not begun:
            _reject_other_text(run, corpus["sources"])
            recipe = quickstart_recipe(run, corpus, steps=1)
            with progress:
                make_missing_data(recipe, [progress])
            recipe = with_isa(fitted(recipe, console), isa)
            expected = steps_within(recipe, end - time.monotonic())
            recipe = with_budget(recipe, expected, max(1.0, end - time.monotonic()))
        _explain(console, "2/4", "Training", _steps_in_words(recipe))
        summary = run_recipe(recipe, progress, resume=begun, again="once more")
    _explain(console, "4/4", "Done", "your own LLaMA:")
    print_result(summary, run, console)
    _print_next_steps(run, console)


def _staged_progress(console: "Console") -> "RunProgress":
    """Progress with a line on the third stage before it begins."""
    from puna.cli.progress import RunProgress

    class StagedProgress(RunProgress):
        """`RunProgress` of a quickstart."""

        def vocabulary_unused(self, *_: Any) -> None:
            """Say nothing: the model's vocabulary is made to fit."""

        def measuring(self) -> None:
            _explain(
                console,
                "3/4",
                "Measuring",
                "bits per byte on validation text, beside compressors on the same bytes, some of"
                " which have read the training text first.",
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
    before = recipe.data.mixture[0]
    if list(before.sources) != corpus["sources"]:
        raise TrainingError(
            f"{run} was trained on {', '.join(before.sources)}, not on"
            f" {', '.join(corpus['sources'])}: choose another --run"
        )
    if corpus["validation_sources"] not in ([], list(before.validation_sources)):
        raise TrainingError(
            f"{run} was not begun with the validation text {corpus['validation_sources'][0]}:"
            " choose another --run, or leave out --validation to go on"
        )
    for key in ("max_documents", "text_field", "separator", "normalize", "include", "exclude"):
        now = tuple(corpus[key]) if isinstance(corpus[key], list) else corpus[key]
        then = getattr(before, key)
        if then != now:
            raise TrainingError(
                f"{run} was trained with {key} {then!r}, not {now!r}: choose another --run"
            )
    return recipe


def _reject_other_text(run: Path, sources: list[str]) -> None:
    """Raise TrainingError where the corpus that a run was to be trained on is another text's."""
    from puna.data.manifest import MANIFEST_NAME, Manifest
    from puna.errors import TrainingError

    if (run / "data" / MANIFEST_NAME).exists():
        before = [source.name for source in Manifest.load(run / "data").inputs.sources]
        if before != sources:
            raise TrainingError(
                f"{run} was begun on {', '.join(before)}, not on {', '.join(sources)}: choose"
                " another --run"
            )


def _print_next_steps(run: Path, console: "Console") -> None:
    console.print(
        f"\nWhat next:\n  puna generate {run / 'model'} 'import '      generate text\n"
        f"  puna eval {run / 'model'} --text README.md    measure it on any text\n"
        f"  puna tokenizer inspect {run / 'model'}        show its vocabulary\n"
        "  puna quickstart --text FOLDER --run runs/mine   train one on your own text",
        highlight=False,
        soft_wrap=True,
    )


VOCABULARY = 4096
PIECE = 2**16  # characters: the documents of one long file, some of which are held out
MOST = 2  # times the steps that are expected, where the machine becomes faster
WINDOWS = 8  # of the text, at least, so that all of it is trained on
LEAST_MEASURED, MOST_MEASURED = 10_000, 50_000  # tokens of validation text
MEASURED_A_SECOND = 360  # of them, of the time for training: a validation takes 2-3% of it
PACE_SHARE = 0.05  # of that time, which the measurement of a step takes at most


def quickstart_recipe(run: Path, corpus: dict[str, Any], steps: int) -> "Recipe":
    """A recipe for minutes on a CPU. corpus: keys of its part of `data.mixture`, but for the path.

    The best that was found for two minutes, with windows of half the model's context: docs/
    quickstart.md has the search and what it costs on longer text.
    """
    from puna.config import overlay, validate
    from puna.training.recipe import Recipe

    values: dict[str, Any] = {
        "run": str(run),
        "tokenizer": {"path": str(run / "tokenizer"), "vocab_size": VOCABULARY},
        "data": {
            "mixture": [{"path": str(run / "data"), **corpus}],
            "validation_fraction": 0.05,
            "piece_characters": PIECE,
        },
        "model": {"preset": "puna-2m", "num_layers": 3},
        "optimizer": {
            "name": "muon",
            "learning_rate": 0.0112,
            "muon_learning_rate": 0.028,
            "muon_momentum": 0.9,
            "muon_iterations": 3,
            "schedule": "linear",
            "final_factor": 0.0,
        },
        "train": {
            "batch_size": 16,
            "context_length": 128,
            "log_every": 5,
            "validation_tokens": MOST_MEASURED,
        },
    }
    return validate(Recipe, overlay(values, _of_length(steps)), origin="quickstart")


def _of_length(steps: int) -> dict[str, Any]:
    """The values of a recipe that follow from the number of steps that are expected."""
    # a validation takes as long as eight steps or so: five of them in a run of some length, in a
    # short one a single one on the way, from which the time for the end is known
    every = max(-(-steps // 5), min(100, -(-steps // 2)))
    return {
        "optimizer": {"warmup_steps": max(0, steps // 20)},
        "train": {"steps": steps, "validate_every": every, "checkpoint_every": 100},
    }


def with_isa(recipe: "Recipe", isa: str | None) -> "Recipe":
    """The same recipe on these instructions of the native core, where some were asked for."""
    from puna.config import overlay, validate
    from puna.training.recipe import Recipe

    if isa is None:
        return recipe
    return validate(Recipe, overlay(recipe.model_dump(), {"train": {"isa": isa}}), origin="--isa")


def _steps_in_words(recipe: "Recipe") -> str:
    """The steps that the training has; a run that an earlier release began has no minutes."""
    train, tokens = recipe.train, f"{recipe.tokens_per_step:,} tokens"
    return (
        f"{train.steps:,} steps of {tokens}"
        if train.minutes is None
        else f"as many steps of {tokens} as fit in {train.minutes:.1f} minutes"
    ) + ": predict every next token, then take an optimizer step."


def with_budget(recipe: "Recipe", steps: int, seconds: float) -> "Recipe":
    """The same recipe for so many seconds, in which `steps` are expected and `MOST` times as many
    are the most. In little time little of the validation text is measured on, so that most of it is
    left for the steps.
    """
    from puna.config import overlay, validate
    from puna.training.recipe import Recipe

    measured = min(MOST_MEASURED, max(LEAST_MEASURED, int(MEASURED_A_SECOND * seconds)))
    budget = {
        "steps": MOST * steps,
        "minutes": round(seconds / 60, 4),
        "validation_tokens": measured,
    }
    values = overlay(overlay(recipe.model_dump(), _of_length(steps)), {"train": budget})
    return validate(Recipe, values, origin="quickstart")


def fitted(recipe: "Recipe", console: "Console") -> "Recipe":
    """The recipe with the vocabulary that was learned, and with windows of which the training text
    has `WINDOWS`; says so where either is smaller than was asked for.
    """
    from puna.config import overlay, validate
    from puna.data.manifest import Manifest
    from puna.tokenizer.tokenizer import Tokenizer
    from puna.training.recipe import Recipe

    entries = Tokenizer.load(recipe.tokenizer.path).vocab_size
    tokens = Manifest.load(recipe.data.mixture[0].path).splits["train"].tokens
    context = max(1, min(recipe.context_length, (tokens - 1) // WINDOWS))
    changes = [
        f"{words} of {now:,} tokens in place of {before:,}"
        for words, before, now in (
            ("a vocabulary", recipe.model.vocab_size, entries),
            ("windows", recipe.context_length, context),
        )
        if now != before
    ]
    if changes:
        console.print(
            f"fitted to {tokens:,} tokens of text: {', '.join(changes)}",
            highlight=False,
            style="yellow",
        )
    values = {
        "tokenizer": {"vocab_size": entries},
        "model": {"vocab_size": entries},
        "train": {"context_length": context},
    }
    return validate(Recipe, overlay(recipe.model_dump(), values), origin="quickstart")


def steps_within(recipe: "Recipe", seconds: float) -> int:
    """The number of steps of this recipe that fit in so many seconds on this machine, this
    measurement included; at least 10.

    From the fastest of a few, fewer where they take long. What is trained is as many as fit at the
    pace that the run finds.
    """
    import torch

    from puna.training.step_time import fastest_step_seconds
    from puna.workflow.run_data import open_data

    begin = time.monotonic()
    batch = open_data(recipe).inputs.batch
    fastest = fastest_step_seconds(
        recipe, lambda step: torch.from_numpy(batch(step)), most_seconds=PACE_SHARE * seconds
    )
    return max(10, int((seconds - (time.monotonic() - begin)) / fastest))


def _explain(console: Any, number: str, title: str, text: str) -> None:
    from rich.text import Text

    line = Text.assemble((f"{number} {title}", "bold"), f"  {text}")
    console.print(line, highlight=False, soft_wrap=True)
