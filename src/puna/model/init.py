"""The weights that a model starts training from."""

import torch
from torch import nn

from puna.model.transformer import Transformer
from puna.nn.norm import RMSNorm

STD = 0.02  # Radford et al. 2019, GPT-2, and every LLaMA reproduction since


@torch.no_grad()
def init_weights(model: Transformer, seed: int) -> None:
    """Fill every parameter in place, the same on any device: normal(0, 0.02); norms 1; the two projections that write into the
    residual stream scaled by 1/sqrt(2 L), so that its variance does not grow with depth.

    Source: Radford et al. 2019, GPT-2, section 2.3 (the scaled residual projections).
    """
    generator = torch.Generator().manual_seed(seed)
    residual = STD / (2 * model.config.num_layers) ** 0.5
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            std = residual if name.endswith(("o_proj", "down_proj")) else STD
            values = torch.empty(module.weight.shape, dtype=torch.float32, device="cpu")
            module.weight.copy_(values.normal_(0.0, std, generator=generator))
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0)
