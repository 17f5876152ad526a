"""`puna plan`: what a model comes to before anything is paid for it. Models are built on the meta
device, at any size, without memory.

`puna plan size` is in plan_size.py.
"""

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from puna.cli import plan_shards, plan_size

if TYPE_CHECKING:
    from puna.model.config import ModelConfig

Model = Annotated[
    str, typer.Argument(help="A preset, such as llama-65b, or a model folder.", show_default=False)
]
Bits = Annotated[
    Literal["4", "16"],
    typer.Option(
        help=(
            "Bits a weight in inference: 4 in the linear layers of the blocks, 16 (bfloat16)"
            " elsewhere."
        )
    ),
]

app = typer.Typer(
    name="plan",
    help="What a model comes to, before anything is paid for it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

app.command("size")(plan_size.size)

MOMENTS = MappingProxyType(
    {
        "adamw": "AdamW's two",
        "muon": "Muon's one, AdamW's two",
        "sgd": "SGD's one",
    }
)


@app.command()
def tree(
    model: Model,
    bits: Bits = "4",
    kind: Annotated[
        Literal["nf4", "int4"],
        typer.Option(
            help="What four bits stand for: normal quantiles or even steps; they cost the same."
        ),
    ] = "nf4",
) -> None:
    """Print the modules of a model, how many parameters it has, and the bytes that its weights
    take.

    Examples:

        puna plan tree llama-65b

        puna plan tree llama-3.2-1b --bits 16

        puna plan tree runs/quickstart/model --kind int4
    """
    import torch

    from puna.model.accounting import count_parameters
    from puna.model.transformer import build_transformer
    from puna.nn.quantized import quantize_linears

    config = _shape(model)
    built = build_transformer(config, "meta").to(torch.bfloat16)
    if bits == "4":
        quantize_linears(built, kind=kind)
    size = sum(tensor.nbytes for tensor in built.state_dict().values())
    precision = "bfloat16" if bits == "16" else f"{kind}, the rest bfloat16"
    typer.echo(built)
    typer.echo(f"parameters    {count_parameters(config).total:,}")
    typer.echo(f"weight bytes  {size:,} ({size / 1e9:,.3f} GB; {precision})")


@app.command()
def memory(
    model: Model,
    batch: Annotated[
        int,
        typer.Option(
            help="Sequences at once: of a micro-batch in training, of a request in inference."
        ),
    ] = 1,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a sequence, prompt included.", show_default="the model's context length"
        ),
    ] = None,
    bits: Bits = "16",
    precision: Annotated[
        Literal["bfloat16", "float32"],
        typer.Option(help="Of the matrix products in training; its weights are float32."),
    ] = "bfloat16",
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing", help="Compute activations twice instead of keeping them."
        ),
    ] = False,
    device: Annotated[
        Literal["cuda", "cpu"],
        typer.Option(help="Where training runs; on a CPU on the native core, where there is one."),
    ] = "cuda",
    optimizer: Annotated[
        Literal["adamw", "muon", "sgd"],
        typer.Option(help="Whose moments are kept, with its defaults in recipes."),
    ] = "adamw",
    kv_cache_dtype: Annotated[
        Literal["auto", "int8"],
        typer.Option(help="Of keys and values in inference; auto: bfloat16."),
    ] = "auto",
    gpus: Annotated[int, typer.Option(help="GPUs that train together, with --shard.", min=1)] = 1,
    shard: Annotated[
        bool, typer.Option("--shard", help="The GPUs share the weights (train.shards=all).")
    ] = False,
    gpu_memory: Annotated[
        float, typer.Option(help="Gigabytes of one of them, of 10^9 bytes.", min=1)
    ] = 80,
    gpu: Annotated[str, typer.Option(help="Their kind, such as h100; see plan size.")] = "h100",
    mfu: Annotated[float, typer.Option(help="Share of its peak that one reaches.")] = 0.4,
) -> None:
    """Say what training and inference take in memory on one device, part by part.

    Counted are the tensors that are live at the worst moment. A process takes
    more: the program itself, and freed memory that its allocator keeps. With
    glibc on a CPU it can be 1.3 to 1.9 times the plan, unless freed memory is
    given back: MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=65536.

    Examples:

        puna plan memory puna-4m --batch 8 --device cpu --optimizer muon

        puna plan memory llama-7b --batch 4 --context 2048 --activation-checkpointing

        puna plan memory llama-65b --bits 4

        puna plan memory llama-7b --gpus 8 --shard --activation-checkpointing
    """
    from puna.cli.columns import memory_rows, print_columns
    from puna.errors import PlanError
    from puna.model.accounting import count_parameters, inference_memory
    from puna.training.compute_backend import Backend, fastest_backend
    from puna.training.recipe import OptimizerRecipe
    from puna.training.step_memory import planned_memory, sharded_memory

    if gpus > 1 and not shard:
        raise PlanError(f"--gpus {gpus} is about shared weights: add --shard, or leave it out")
    config = _shape(model)
    steps = config.context_length if context is None else context
    on_core = device == "cpu" and not activation_checkpointing
    backend = fastest_backend(config) if on_core else Backend("torch")
    training = planned_memory(
        config,
        batch,
        steps,
        backend,
        OptimizerRecipe(name=optimizer),
        half=precision == "bfloat16",
        checkpointing=activation_checkpointing,
        device=device,
    )
    int8_cache = kv_cache_dtype == "int8"
    inference = inference_memory(
        config, batch, steps, bits=4 if bits == "4" else 16, int8_cache=int8_cache
    )

    formats = {
        "weights": "float32",
        "gradients": "float32",
        "optimizer_moments": f"{MOMENTS[optimizer]}, float32",
        "activations": (
            f"{precision} products" + (", computed twice" if activation_checkpointing else "")
        ),
        "logits": "a chunk at a time",
    }
    kept = {
        "weights": "bfloat16" if bits == "16" else "4 bits in the blocks, else bfloat16",
        "kv_cache": "int8 and scales in float32" if int8_cache else "bfloat16",
    }
    typer.echo(
        f"{model}: {count_parameters(config).total:,} parameters; {batch:,} x {steps:,} tokens"
    )
    title = f"training on {device}" + (f", by {backend.words}" if device == "cpu" else "")
    rows = memory_rows(title, training, formats)
    if shard:
        each = sharded_memory(training, config, gpus, half=precision == "bfloat16")
        formats["gathered"] = f"two blocks in {precision}, the rest float32"
        rows += memory_rows(f"training, each of {gpus} GPUs that share the weights", each, formats)
        rows.append(plan_shards.fitting(each, gpu_memory * 1e9))
        rows += plan_shards.sending(config, batch * steps, steps, gpus, gpu, mfu)
    print_columns([*rows, *memory_rows("inference", inference, kept)])


@app.command()
def data(
    tokens: Annotated[
        float,
        typer.Option(
            help="The budget: tokens that training reads, such as 1.4e12.", show_default=False
        ),
    ],
    mixture: Annotated[
        str | None, typer.Option(help="A published mixture: llama.", show_default=False)
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "A corpus as NAME:WEIGHT:TOKENS; weights are relative to their sum. Give it once"
                " for each."
            ),
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say how often each corpus of a mixture is read: epochs = weight x budget / tokens of the
    corpus.

    Examples:

        puna plan data --tokens 1.4e12 --mixture llama

        puna plan data --tokens 2e9 --source web:80:5e9 --source books:20:100e6
    """
    from puna.cli.columns import print_columns
    from puna.data.mixture import epochs
    from puna.number_format import amount
    from puna.plan.cost import check_positive
    from puna.plan.mixtures import named_mixture, read_corpora

    if (mixture is None) == (not source):
        raise typer.BadParameter("give either --mixture or --source")
    check_positive(tokens=tokens)
    corpora = named_mixture(mixture) if mixture is not None else read_corpora(source or [])
    weights = {name: corpus.weight for name, corpus in corpora.items()}
    seen = epochs(weights, {name: corpus.tokens for name, corpus in corpora.items()}, tokens)
    rows = [("", "weight", "tokens read", "tokens there are", "epochs")]
    for name, corpus in corpora.items():
        share = corpus.weight / sum(weights.values())
        rows.append(
            (
                name,
                f"{share:.1%}",
                amount(share * tokens),
                amount(corpus.tokens),
                f"{seen[name]:.2f}",
            )
        )
    there_are = sum(corpus.tokens for corpus in corpora.values())
    print_columns(
        [*rows, ("all", "100.0%", amount(tokens), amount(there_are), f"{tokens / there_are:.2f}")]
    )


@app.command()
def fit(
    results: Annotated[
        Path,
        typer.Argument(
            help="JSON lines with parameters, tokens and loss; lines without them are passed over.",
            show_default=False,
        ),
    ],
    resamples: Annotated[
        int, typer.Option(help="Bootstrap samples behind the intervals.", min=2)
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
) -> None:
    """Fit a scaling law L(N, D) = E + A / N^alpha + B / D^beta to the losses of runs.

    A line of RESULTS is one run at its end: {"parameters": 4000000, "tokens": 80000000, "loss":
    2.41}. At least six runs are needed, with three different numbers of parameters and of tokens;
    more, and further apart, narrow the intervals. All runs want the same tokenizer, text and
    recipe, and a learning rate that has decayed: a loss from the middle of a run is too high.

    Example:

        puna plan fit results.jsonl --resamples 4000
    """
    from rich.console import Console
    from rich.progress import track

    from puna.cli.columns import print_columns
    from puna.number_format import amount
    from puna.plan.fit import fit_law, interval, largest_error, read_runs, resampled_laws

    runs, skipped = read_runs(results)
    law = fit_law(runs)
    console = Console(stderr=True, markup=False, emoji=False)
    drawn = resampled_laws(runs, law, resamples, seed)
    laws = list(
        track(
            drawn, "resampling", total=resamples, console=console, disable=not console.is_terminal
        )
    )
    passed_over = f"; lines without parameters, tokens and loss: {skipped:,}" if skipped else ""
    typer.echo(
        f"{len(runs):,} runs of {amount(runs.parameters.min())} to {amount(runs.parameters.max())}"
        f" parameters on {amount(runs.tokens.min())} to {amount(runs.tokens.max())}"
        f" tokens{passed_over}\n"
    )
    rows = [("", "fit", "95% interval")]
    for name in ("E", "A", "B", "alpha", "beta"):
        low, high = interval([getattr(other, name) for other in laws])
        rows.append((name, f"{getattr(law, name):.5g}", f"{low:.5g} to {high:.5g}"))
    for index, name in enumerate(("optimal N ~ C^a, a", "optimal D ~ C^b, b")):
        low, high = interval([other.exponents[index] for other in laws])
        rows.append((name, f"{law.exponents[index]:.4f}", f"{low:.4f} to {high:.4f}"))
    print_columns(rows)
    typer.echo(
        "\nL(N, D) = E + A / N^alpha + B / D^beta; the run that it fits worst is off by"
        f" {largest_error(runs, law):.2%}.\nIntervals: percentiles of {resamples:,} bootstrap"
        f" samples, seed {seed}."
    )


def _shape(model: str) -> "ModelConfig":
    """The shape of a preset, or else of a folder; a name that is neither gets the error that lists
    the presets.
    """
    from puna.model.config import ModelConfig
    from puna.model.presets import PRESETS
    from puna.model.weights import read_config

    if model not in PRESETS and Path(model).is_dir():
        return read_config(Path(model))
    return ModelConfig.model_validate({"preset": model})
