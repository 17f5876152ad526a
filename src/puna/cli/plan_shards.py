"""The part of `puna plan memory` on GPUs that share the weights."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from puna.model.config import ModelConfig
    from puna.training.step_memory import ShardedMemory


def fitting(memory: "ShardedMemory", room: float) -> tuple[str, str]:
    """The row on whether a GPU's `room` bytes hold it."""
    from puna.number_format import gigabytes

    left = round(room) - memory.total
    words = f"{gigabytes(left)} to spare" if left >= 0 else f"{gigabytes(-left)} too many"
    return f"  fits in {gigabytes(round(room))} (--gpu-memory)", words


def sending(
    config: "ModelConfig", tokens: int, context: int, gpus: int, gpu: str, mfu: float
) -> list[tuple[str, ...]]:
    """Rows on what one GPU sends for a micro-batch of so many tokens in sequences of `context`, and
    how long that and computing take.

    mfu: share of the peak that it reaches while it need not wait.
    """
    from puna.model.accounting import (
        block_parameters,
        count_parameters,
        training_flops_per_token,
    )
    from puna.number_format import gigabytes
    from puna.plan.cost import gpu_rate
    from puna.plan.sharding import GIGA, ShardedStep, bandwidth

    step = ShardedStep(count_parameters(config).total, block_parameters(config), gpus)
    flops = training_flops_per_token(config, context) * tokens
    computing, rate = flops / gpu_rate(gpu, mfu), bandwidth(gpus)
    return [
        ("\neach GPU, for a micro-batch, in bfloat16",),
        ("  sent", gigabytes(round(step.traffic))),
        (f"  time to send it at {rate / GIGA:g} GB/s", f"{step.sending_seconds(rate):.3f} s"),
        (f"  time to compute it ({gpu}, {mfu:.0%} of its peak)", f"{computing:.3f} s"),
        ("  efficiency, at best", f"{step.efficiency(computing, rate):.0%}"),
    ]
