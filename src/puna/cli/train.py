"""`puna train` and `puna verify-resume`: from a recipe to a run."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from puna.training.recipe import Recipe
    from puna.training.trainer import Trainer

RecipeFile = Annotated[
    Path, typer.Argument(help="A recipe, such as recipes/tiny.yaml.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE...]", help="Values to replace, such as train.steps=200."),
]
Isa = Annotated[
    str | None,
    typer.Option(
        help="Instructions of the native core: scalar, avx2, avx512, avx512_bf16, amx or neon;"
        " torch leaves the core out.",
        show_default="the fastest here",
    ),
]


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run from its newest checkpoint.")
    ] = False,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="Continue the run if it has begun, else start it: for schedulers that start a"
            " command again.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print sizes, memory, time and epochs, and spend nothing."),
    ] = False,
    isa: Isa = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files too (the tensorboard extra).")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(help="Processes on this host that train together, one a CUDA device.", min=1),
    ] = 1,
    restarts: Annotated[
        int,
        typer.Option(help="Times that --processes go on after one of them has failed.", min=0),
    ] = 0,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds after which a process that does not answer the others counts as lost.",
            min=1,
        ),
    ] = 600,
) -> None:
    """Train a model from a recipe. What the recipe's data and tokenizer lack is made first.

    Examples:

        puna train recipes/tiny.yaml

        puna train recipes/tiny.yaml train.steps=200 optimizer.learning_rate=1e-3 run=runs/faster

        puna train recipes/tiny.yaml --resume

        puna train recipes/tiny.yaml --resume train.steps=400

        puna train recipes/tiny.yaml train.steps=2000 train.minutes=5

        puna train recipes/tiny.yaml --processes 2

        torchrun --nproc-per-node 8 -m puna train recipes/tiny.yaml

    Ctrl-C and SIGTERM save and exit; --resume goes on, to the same weights as without the pause,
    and may change train.steps, minutes, log_every, keep_last, device, precision, isa, shards and
    replicas.
    """
    from rich.console import Console

    from puna.cli.processes import joined, launch, restarted
    from puna.training.recipe import read_recipe

    console = Console(markup=False, emoji=False)
    chosen = [] if isa is None else [f"train.isa={isa}"]
    resolved = read_recipe(recipe, [*(overrides or []), *chosen])
    if dry_run:
        return _print_plan(resolved, console)
    if processes > 1:
        flags = ["--resume"] * resume + ["--auto-resume"] * auto_resume
        flags += ["--tensorboard"] * tensorboard
        command = ["train", str(recipe), *(overrides or []), *chosen, *flags]
        return launch([*command, "--timeout", str(timeout)], processes, restarts, timeout)
    from puna.cli.progress import RunProgress
    from puna.cli.run import print_result, run_recipe
    from puna.training.stored_recipe import RECIPE

    run = Path(resolved.run or "")
    with joined(os.environ, resolved.train.device, timeout) as ranks:
        console.quiet = not ranks.is_first
        # one host's failure starts all hosts again
        again = ranks.any(restarted(os.environ)) or auto_resume
        summary = run_recipe(
            resolved,
            RunProgress(console),
            resume=resume or (again and (run / RECIPE).exists()),
            tensorboard=tensorboard,
            ranks=ranks,
        )
    if ranks.is_first:
        print_result(summary, run, console)
    return None


def _print_plan(recipe: "Recipe", console: "Console") -> None:
    from rich.table import Table

    from puna.cli.progress import EMULATED, matmul_peak_words
    from puna.device import (
        choose_device,
        choose_precision,
        is_emulated,
        measure_matmul_peak,
        watch_others,
    )
    from puna.model.accounting import (
        count_parameters,
        training_flops_per_token,
    )
    from puna.training.compute_backend import choose_backend
    from puna.training.step_memory import step_memory

    device = choose_device(recipe.train.device)
    precision = choose_precision(recipe.train.precision, device)
    others = watch_others()
    peak = measure_matmul_peak(device, precision)
    peak_words = matmul_peak_words(peak, others())
    tokens = recipe.train.steps * recipe.tokens_per_step
    flops = training_flops_per_token(recipe.model, recipe.context_length)
    memory = step_memory(recipe, device, precision).total
    parameters = count_parameters(recipe.model)
    table = Table(
        title=f"{recipe.run}: nothing is spent yet", title_justify="left", show_header=False
    )
    rows = {
        "parameters": f"{parameters.total:,}",
        "  embedding, attention, feed-forward": (
            f"{parameters.embedding:,}, {parameters.attention:,}, {parameters.feed_forward:,}"
        ),
        "tokens": (
            f"{tokens:,} ({recipe.train.steps:,} steps of {recipe.tokens_per_step:,}),"
            f" {tokens / parameters.total:.1f} a parameter"
        ),
        "training FLOPs": f"{flops:.3g} a token, {flops * tokens:.3g} in all",
        "memory": f"about {memory / 1e9:.2f} GB",
        "device": f"{device}, {precision}, {peak_words}",
        "computed by": choose_backend(recipe, device).words,
        "time": f"about {flops * tokens / (0.5 * peak) / 60:,.1f} minutes at half of that peak",
    }
    if recipe.train.minutes is not None:
        rows["time budget"] = f"{recipe.train.minutes:g} minutes: of these steps as many as fit"
    rows |= _epochs(recipe, tokens)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    if is_emulated(device, precision):
        console.print(EMULATED, style="yellow", highlight=False)


def _epochs(recipe: "Recipe", tokens: int) -> dict[str, str]:
    """Rows on how often a run of so many tokens reads each corpus."""
    from puna.data.mixture import epochs

    unique = {corpus.path: _train_tokens(Path(corpus.path)) for corpus in recipe.data.mixture}
    if not all(unique.values()):
        return {"epochs": "known once the data is prepared"}
    weights = {corpus.path: corpus.weight for corpus in recipe.data.mixture}
    seen = epochs(weights, unique, tokens)
    return {f"epochs of {name}": f"{count:.2f}" for name, count in seen.items()}


def _train_tokens(folder: Path) -> int:
    from puna.data.manifest import Manifest

    return (
        Manifest.load(folder).splits["train"].tokens if (folder / "manifest.json").exists() else 0
    )


def verify_resume(
    recipe: RecipeFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(help="Steps to compare.", min=2)] = 20,
) -> None:
    """Show that a run which is stopped and resumed equals one that is not, bit for bit.

    The first STEPS steps of the recipe are trained twice, once in one piece and once with a stop in
    the middle and a resume from the checkpoint; weights, optimizer state and logged numbers are
    compared. Exits with 1 when anything differs. A time budget is left out: the clock decides then.

    Example:

        puna verify-resume recipes/tiny.yaml
    """
    from rich.console import Console

    from puna.cli.progress import RunProgress
    from puna.run_log import read_run_log
    from puna.training.checkpoint import optimizer_tensors
    from puna.training.recipe import read_recipe
    from puna.training.trainer import Trainer
    from puna.workflow.missing_data import make_missing_data
    from puna.workflow.run_data import open_data

    console = Console(markup=False, emoji=False)
    resolved = read_recipe(recipe, [*(overrides or []), "train.minutes=null"])
    steps = min(steps, resolved.train.steps)
    with RunProgress(console) as progress:
        make_missing_data(resolved, [progress])
    inputs = open_data(resolved).inputs

    def trained(folder: Path, stops: tuple[int, ...]) -> "Trainer":
        for number, until in enumerate(stops):
            trainer = Trainer(resolved, folder, inputs)
            trainer.start(resume=number > 0)
            trainer.train(until=until)
        return trainer

    with tempfile.TemporaryDirectory(prefix="puna-verify-resume-") as scratch:
        whole, parted = Path(scratch) / "whole", Path(scratch) / "parted"
        with console.status(f"training {steps} steps twice"):
            one, two = trained(whole, (steps,)), trained(parted, (steps // 2, steps))
        different = [
            f"weight {name}"
            for name, value in one.model.state_dict().items()
            if not value.equal(two.model.state_dict()[name])
        ]
        states = (
            optimizer_tensors(one.model, one.optimizers),
            optimizer_tensors(two.model, two.optimizers),
        )
        different += [
            f"optimizer {name}"
            for name in states[0] | states[1]
            if not _equal(states[0].get(name), states[1].get(name))
        ]
        logs = [
            [_untimed(record) for record in read_run_log(folder / "metrics.jsonl")]
            for folder in (whole, parted)
        ]
        if logs[0] != logs[1]:
            different.append("metrics.jsonl")
    if different:
        console.print(f"different after {steps} steps: {', '.join(different)}", style="red")
        raise typer.Exit(1)
    console.print(
        f"identical after {steps} steps: {len(one.model.state_dict())} weights, {len(states[0])}"
        f" optimizer tensors and {len(logs[0])} log records, stopped at step {steps // 2} and"
        " resumed",
        highlight=False,
    )


def _equal(one: Any, two: Any) -> bool:
    return one is not None and two is not None and bool(one.equal(two))


def _untimed(record: dict[str, Any]) -> dict[str, Any]:
    """A log record without what depends on the clock."""
    return {
        key: value
        for key, value in record.items()
        if key not in ("seconds", "tokens_per_second", "mfu", "matmul_peak_gflops")
    }
