"""From LayerNorm to RMSNorm without changing what the model computes.

A residual stream whose rows have mean 0 looks the same to both norms, so it is enough to recentre
whatever writes into the stream.
"""

import torch

from puna.errors import ConfigError
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer


@torch.no_grad()
def layernorm_to_rmsnorm(model: Transformer) -> Transformer:
    """A new model with RMSNorm whose logits equal those of this one with LayerNorm, up to rounding.

    Every row of the embedding, every learned position and the D outputs of `o_proj` and `down_proj`
    lose their mean:

        e <- e - mean(e)        W <- (I - 1 1^T / D) W        b <- b - mean(b)

    Norms keep their weights and biases. A tied output layer is untied first, because it must not be
    recentred; sinusoidal positions become learned ones. Raises ConfigError where a norm reads
    something else than the stream: any placement but pre and parallel, or `qk_norm`.

    Source: Jiang et al. 2023, Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient
    Pre-LN Transformers, section 3. Usual mistake: recentring over the inputs of W instead of its
    outputs.
    """
    config = model.config
    if config.norm != "layernorm" or config.placement not in ("pre", "parallel") or config.qk_norm:
        raise ConfigError(
            f"norm {config.norm} with placement {config.placement} and qk_norm"
            f" {str(config.qk_norm).lower()} cannot become RMSNorm by recentring: it takes"
            " layernorm, placement pre or parallel, and no qk_norm"
        )
    position = "learned" if config.position == "sinusoidal" else config.position
    changes = {"norm": "rmsnorm", "position": position, "tie_embeddings": False, "preset": None}
    weights = dict(model.state_dict()) | {"lm_head.weight": model.output_weight}
    # The new model's positions are learned, so it has no scale: the table takes it
    weights["embed_tokens.weight"] = model.config.embedding_scale * model.embed_tokens.weight
    if model.embed_positions is not None:
        every = torch.arange(config.context_length, device=model.output_weight.device)
        weights["embed_positions.weight"] = model.embed_positions(every).to(
            model.output_weight.dtype
        )
    for name, weight in weights.items():
        # Tables hold one row a token, over D; W is [D, I] and b is [D], so D is their first
        if name.startswith("embed_"):
            weights[name] = weight - weight.mean(-1, keepdim=True)
        elif "o_proj." in name or "down_proj." in name:
            weights[name] = weight - weight.mean(0)
    converted = build_transformer(
        ModelConfig.model_validate({**config.model_dump(), **changes}), model.output_weight.device
    )
    converted.to(model.output_weight.dtype).load_state_dict(weights)
    return converted.train(model.training)
