"""The part of `puna plan memory` on GPUs that share the weights."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from puna.model.accounting import TrainingMemory
    from puna.model.config import ModelConfig


def sharded_rows(
    config: "ModelConfig",
    memory: "TrainingMemory",
    tokens: int,
    context: int,
    gpus: int,
    gpu: str,
    mfu: float,
) -> list[tuple[str, ...]]:
    """Rows on one GPU's memory, what it sends, and how long both take.

    memory: of the same micro-batch, of so many tokens in sequences of `context`, on one GPU alone.
    mfu: share of the peak that it reaches while it need not wait.
    """
    from puna.model.accounting import count_parameters, training_flops_per_token
    from puna.model.transformer import build_transformer
    from puna.number_format import gigabytes
    from puna.plan.cost import gpu_rate
    from puna.plan.sharding import GIGA, ShardedStep, bandwidth

    total = count_parameters(config).total
    blocks = sum(p.numel() for p in build_transformer(config, "meta").layers.parameters())
    step = ShardedStep(
        parameters=total,
        block=blocks // config.num_layers,
        rest=total - blocks,
        gpus=gpus,
        moment_bytes=memory.optimizer_moments,
        activation_bytes=memory.activations + memory.logits,
    )
    flops = training_flops_per_token(config, context) * tokens
    computing, rate = flops / gpu_rate(gpu, mfu), bandwidth(gpus)
    return [
        (f"\neach of {gpus} GPUs that share the weights",),
        ("  state (weights, gradients, moments, float32)", gigabytes(step.state)),
        ("  gathered (two blocks in bfloat16, the rest float32)", gigabytes(step.gathered)),
        ("  activations and logits", gigabytes(step.activation_bytes)),
        ("  total", gigabytes(step.total)),
        ("  sent for a micro-batch", gigabytes(round(step.traffic))),
        (f"  time to send it at {rate / GIGA:g} GB/s", f"{step.sending_seconds(rate):.3f} s"),
        (f"  time to compute it ({gpu}, {mfu:.0%} of its peak)", f"{computing:.3f} s"),
        ("  efficiency, at best", f"{step.efficiency(computing, rate):.0%}"),
    ]
