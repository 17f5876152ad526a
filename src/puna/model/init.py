"""The weights that a model starts training from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from puna.model.parts import INITS
from puna.model.transformer import Transformer


@dataclass(frozen=True)
class StandardDeviations:
    """Standard deviations at the start. hidden: of a matrix in a block, from the number of its
    inputs; output: of an output layer of its own.
    """

    embeddings: float
    hidden: Callable[[int], float]
    output: float


def normal(_width: int, *, std: float) -> StandardDeviations:
    """One for all.

    Source: Radford et al. 2019, GPT-2, and every LLaMA reproduction since, with 0.02: the fan-in of
    a width of 2,500. Usual mistake: 0.02 at a width of 64, where fan-in is 0.125 and each matrix
    begins by shrinking what it is given to a sixth.
    """
    return StandardDeviations(std, lambda _: std, std)


def fan_in(width: int) -> StandardDeviations:
    """1/sqrt(inputs), which keeps the size of what a matrix is given; embeddings 1/sqrt(D).

    Source: LeCun et al. 1998, Efficient BackProp, section 4.6.
    """
    return StandardDeviations(width**-0.5, lambda inputs: inputs**-0.5, width**-0.5)


def mup(width: int) -> StandardDeviations:
    """Embeddings 1, matrices 1/sqrt(inputs), the output layer 1/D.

    Source: Yang et al. 2022, Tensor Programs V, table 3, its column of variances alone: learning
    rates by layer, the other half of muP, are not set here.
    """
    return StandardDeviations(1.0, lambda inputs: inputs**-0.5, 1 / width)


def fill(weight: Tensor, values: Tensor) -> None:
    """Copy whole values into a weight, in place and in its dtype; into a shard (a DTensor) those of
    its part.
    """
    if hasattr(weight, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = weight.device_mesh, cast(Any, weight).placements
        # every rank has the values: none are sent
        values = distribute_tensor(values.to(weight.device), mesh, placements, src_data_rank=None)
    weight.copy_(values)


@torch.no_grad()
def init_weights(model: Transformer, seed: int) -> None:
    """Fill every parameter in place, the same on any device: matrices normal with the standard
    deviations that `init` names, the two that write into the residual stream divided by sqrt(2 L)
    (`scale_residual_init`), so that its variance does not grow with depth, or 0
    (`zero_residual_init`), so that every block begins as the identity; learned positions as large
    as the embeddings that they join; biases 0; every other part as it starts by itself (norms at
    1).

    Source: Radford et al. 2019, GPT-2, section 2.3 (the scaled residual projections); Zhang et al.
    2019, Fixup, section 3 (zero).
    """
    config = model.config
    start: StandardDeviations = INITS[config.init].build(config, config.width)
    embeddings = config.embedding_std or start.embeddings
    # Drawn on the CPU in float32 and in the order of the modules, whatever the model's device
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
            std = start.hidden(module.weight[0].numel())
            if name.endswith(("o_proj", "down_proj")):
                if config.scale_residual_init:
                    std /= (2 * config.num_layers) ** 0.5
                if config.zero_residual_init:
                    std = 0.0
            elif module is model.lm_head:
                std = start.output
            elif isinstance(module, nn.Embedding):
                added = module is model.embed_positions
                std = embeddings * (config.embedding_scale if added else 1.0)
            values = torch.empty(module.weight.shape, dtype=torch.float32, device="cpu")
            fill(module.weight, values.normal_(0.0, std, generator=generator))
            if isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif list(module.parameters(recurse=False)):
            if not hasattr(module, "reset_parameters"):
                raise TypeError(
                    f"{type(module).__name__} has parameters without a start: give it a"
                    " reset_parameters that sets them all"
                )
            cast(Any, module).reset_parameters()
