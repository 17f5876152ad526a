"""`puna plan size`: how large a model a budget is best spent on, and on how much text."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puna.errors import PlanError

if TYPE_CHECKING:
    from puna.plan.cost import Training
    from puna.plan.scaling import ScalingLaw

Row = tuple[str, ...]

USUAL_MFU = 0.4


def size(
    flops: Annotated[
        float | None,
        typer.Option(
            help="The budget of the training, in FLOPs, such as 1e21.", show_default=False
        ),
    ] = None,
    gpu_hours: Annotated[
        float | None,
        typer.Option(help="The budget in hours of one GPU; needs --gpu.", show_default=False),
    ] = None,
    loss: Annotated[
        float | None,
        typer.Option(help="No budget, but a loss to reach, in nats per token.", show_default=False),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Count in hours of this GPU, such as a100, h100 or h200; another name lists all.",
            show_default=False,
        ),
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            help="Share of the GPU's peak that a run reaches; published ones 0.35 to 0.55.",
            show_default="0.4",
        ),
    ] = None,
    inference_tokens: Annotated[
        float | None,
        typer.Option(
            help="Tokens that the model will read and write in its life after training.",
            show_default=False,
        ),
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option(
            help="hoffmann, hoffmann-unrounded, epoch or sardana; give it again for more.",
            show_default="all of them",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw curves of equal loss and of cost over a life to this SVG file.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say how many parameters, on how many tokens, a budget is best spent on.

    The compute optimum has the lowest loss for the training's FLOPs. The lifetime optimum has the
    same loss, and the lowest cost of training and --inference-tokens together: it is smaller, and
    trained for longer. Both by published scaling laws, L(N, D) = E + A / N^alpha + B / D^beta, side
    by side, because they disagree.

    Examples:

        puna plan size --flops 1e21

        puna plan size --flops 1.23e22 --constants epoch

        puna plan size --gpu-hours 82432 --gpu a100 --mfu 0.44 --inference-tokens 2e12

        puna plan size --loss 1.947 --inference-tokens 2e12 --constants sardana --plot curves.svg
    """
    from puna.cli.columns import print_columns
    from puna.plan.cost import check_positive, gpu_rate
    from puna.plan.scaling import LAWS, named_law

    if sum(given is not None for given in (flops, gpu_hours, loss)) != 1:
        raise typer.BadParameter("give one of --flops, --gpu-hours and --loss")
    if gpu is None and (gpu_hours is not None or mfu is not None):
        raise typer.BadParameter(
            "--gpu-hours and --mfu are about a GPU: name it with --gpu, such as --gpu h100"
        )
    given = {"gpu_hours": gpu_hours, "inference_tokens": inference_tokens}
    check_positive(**{name: value for name, value in given.items() if value is not None})
    share = USUAL_MFU if mfu is None else mfu
    flops_per_hour = gpu_rate(gpu, share) * 3600 if gpu else None
    if gpu_hours is not None and flops_per_hour:
        flops = gpu_hours * flops_per_hour
    laws = {name: named_law(name) for name in constants or LAWS}
    best = {
        name: (
            law.compute_optimum(flops)
            if flops is not None
            else _cheapest_at(name, law, loss or 0.0)
        )
        for name, law in laws.items()
    }
    if plot is not None:
        _draw(plot, laws, best, inference_tokens)
    print_columns([("", *laws), *_rows(laws, best, inference_tokens, flops_per_hour)])
    typer.echo("\n" + "\n".join(_notes(gpu, share)))
    if plot is not None:
        typer.echo(f"curves  {plot}")


def _cheapest_at(name: str, law: "ScalingLaw", loss: float) -> "Training":
    try:
        return law.cheapest_at(loss)
    except PlanError as error:
        raise PlanError(f"{name}: {error}") from error


def _notes(gpu: str | None, mfu: float) -> Iterator[str]:
    """The notes under the table: the costs that were counted, and the limits of these laws."""
    from puna.plan.cost import GPU_PEAKS

    yield (
        "L(N, D) = E + A / N^alpha + B / D^beta; training costs 6 N D FLOPs, inference 2 N a token."
    )
    if gpu:
        yield (
            f"Hours are at {mfu:.0%} of {GPU_PEAKS[gpu.lower()] / 1e12:,.0f} TFLOP/s; writing one"
            " token at a time reaches far less."
        )
    yield (
        "The laws know parameters and tokens only. None of them expects LLaMA-13B to beat GPT-3 (of"
        " 175B parameters; one source says 135B),\nas it did: that win is data and recipe."
    )


def _rows(
    laws: "dict[str, ScalingLaw]",
    best: "dict[str, Training]",
    inference_tokens: float | None,
    flops_per_hour: float | None,
) -> Iterator[Row]:
    """The table, with one column for each law: constants, optima, and published models."""
    from puna.plan.cost import Training

    for constant in ("E", "A", "B", "alpha", "beta"):
        yield (constant, *(f"{getattr(law, constant):.6g}" for law in laws.values()))
    yield ("\ncompute optimum",)
    yield from _model_rows(laws, best, flops_per_hour)
    if inference_tokens is not None:
        yield from _lifetime_optimum_rows(laws, best, inference_tokens, flops_per_hour)
    yield ("\nloss expected of",)
    for name, published in {
        "LLaMA-13B on 1T": Training(13e9, 1e12),
        "GPT-3 175B on 300B": Training(175e9, 300e9),
    }.items():
        yield (f"  {name}", *(f"{law.loss(published):.2f}" for law in laws.values()))


def _model_rows(
    laws: "dict[str, ScalingLaw]", chosen: "dict[str, Training]", flops_per_hour: float | None
) -> Iterator[Row]:
    from puna.number_format import amount

    runs = chosen.values()
    yield ("  parameters N", *(amount(run.parameters) for run in runs))
    yield ("  tokens D", *(amount(run.tokens) for run in runs))
    yield ("  tokens a parameter", *(f"{run.tokens / run.parameters:,.1f}" for run in runs))
    yield (
        "  loss",
        *(f"{law.loss(run):.4f}" for law, run in zip(laws.values(), runs, strict=True)),
    )
    yield ("  training FLOPs", *(f"{run.flops:.4g}" for run in runs))
    if flops_per_hour:
        yield ("  training GPU hours", *(amount(run.flops / flops_per_hour) for run in runs))


def _lifetime_optimum_rows(
    laws: "dict[str, ScalingLaw]",
    best: "dict[str, Training]",
    inference_tokens: float,
    flops_per_hour: float | None,
) -> Iterator[Row]:
    from puna.number_format import amount

    # trained for longer than the compute optimum, to the same loss
    longer = {
        name: law.lifetime_optimum(law.loss(best[name]), inference_tokens)
        for name, law in laws.items()
    }
    compute_costs = [best[name].lifetime_flops(inference_tokens) for name in laws]
    lifetime_costs = [longer[name].lifetime_flops(inference_tokens) for name in laws]
    yield from _lifetime_rows(compute_costs, flops_per_hour)
    yield (
        f"\nlifetime optimum: the same loss, and {amount(inference_tokens)} tokens of inference",
    )
    yield from _model_rows(laws, longer, flops_per_hour)
    yield from _lifetime_rows(lifetime_costs, flops_per_hour)
    yield (
        "  of the compute optimum's",
        *(f"{cost / other:.2%}" for cost, other in zip(lifetime_costs, compute_costs, strict=True)),
    )


def _lifetime_rows(costs: list[float], flops_per_hour: float | None) -> Iterator[Row]:
    from puna.number_format import amount

    yield ("  lifetime FLOPs", *(f"{cost:.4g}" for cost in costs))
    if flops_per_hour:
        yield ("  lifetime GPU hours", *(amount(cost / flops_per_hour) for cost in costs))


def _draw(
    path: Path,
    laws: "dict[str, ScalingLaw]",
    best: "dict[str, Training]",
    inference_tokens: float | None,
) -> None:
    """A row for each law: tokens over parameters for a tenth of the training, for it and for ten
    times it; costs of a life at its loss.
    """
    from puna.number_format import amount
    from puna.plan.curves import equal_loss, lifetime_cost
    from puna.plots.scaling_curves import Panel, write_scaling_curves

    rows = []
    for name, law in laws.items():
        losses = [
            law.loss(law.compute_optimum(best[name].flops * factor)) for factor in (0.1, 1, 10)
        ]
        served = inference_tokens if inference_tokens is not None else best[name].tokens
        equal = [(f"loss {curve.level:.3f}", *curve[1:]) for curve in equal_loss(law, losses)]
        lives = [
            (f"{amount(curve.level)} tokens served", *curve[1:])
            for curve in lifetime_cost(law, losses[1], (0, served, 10 * served))
        ]
        rows.append(
            (
                Panel(
                    f"{name}: equal loss, and where it takes the least training",
                    "training tokens",
                    equal,
                ),
                Panel(f"{name}: cost of a life at loss {losses[1]:.3f}", "FLOPs", lives),
            )
        )
    write_scaling_curves(path, rows)
