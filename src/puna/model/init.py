"""The weights that a model starts training from."""

from typing import Any, cast

import torch
from torch import nn

from puna.model.transformer import Transformer

STD = 0.02  # Radford et al. 2019, GPT-2, and every LLaMA reproduction since


@torch.no_grad()
def init_weights(model: Transformer, seed: int) -> None:
    """Fill every parameter in place, the same on any device: matrices normal(0, 0.02), with the two
    that write into the residual stream scaled by 1/sqrt(2 L), so that its variance does not grow
    with depth; biases 0; every other part as it starts by itself (norms at 1).

    Source: Radford et al. 2019, GPT-2, section 2.3 (the scaled residual projections).
    """
    # Drawn on the CPU in float32 and in the order of the modules, whatever the model's device
    generator = torch.Generator().manual_seed(seed)
    residual = STD / (2 * model.config.num_layers) ** 0.5
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
            std = residual if name.endswith(("o_proj", "down_proj")) else STD
            values = torch.empty(module.weight.shape, dtype=torch.float32, device="cpu")
            module.weight.copy_(values.normal_(0.0, std, generator=generator))
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
