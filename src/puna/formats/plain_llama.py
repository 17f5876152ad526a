"""The LLaMA that Meta's code and llama2.c know: what a model may not have beyond it."""

from collections.abc import Mapping
from typing import Any

from puna.model.config import ModelConfig

# Sizes, and what has no effect on the function; every other key must have its default, LLaMA's
_FREE = frozenset(
    {"preset", "vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_width"}
    | {"context_length", "tie_embeddings", "padding_id", "norm_eps", "rope_base", "rope_scaling"}
    | {"feed_forward_width", "feed_forward_multiple", "scale_embeddings"}
    | {"init", "init_std", "scale_residual_init", "zero_residual_init", "embedding_std"}
)


def beyond_plain_llama(config: ModelConfig, fixed: Mapping[str, Any]) -> list[str]:
    """List what the model has beyond LLaMA, as `key = value (rule)`; empty for a plain one.

    fixed: further keys with the only value that the format has for each.
    """
    beyond = [
        f"{key} = {getattr(config, key)} (only {field.default})"
        for key, field in ModelConfig.model_fields.items()
        if key not in _FREE and getattr(config, key) != field.default
    ]
    beyond += [
        f"{key} = {getattr(config, key)} (always {value})"
        for key, value in fixed.items()
        if getattr(config, key) != value
    ]
    if config.embedding_scale != 1:
        beyond.append(f"scale_embeddings = {config.scale_embeddings} (only False)")
    if config.head_width * config.num_heads != config.width:
        beyond.append(f"head_width = {config.head_width} (always width / num_heads)")
    return beyond
