"""Small models of every part that no published family has, so that their folders are of type
`puna`, and their greedy texts by whole forward passes.
"""

from typing import Any

import torch

from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer

NEW_TOKENS = 20
SHAPE: dict[str, Any] = {
    "vocab_size": 90,
    "width": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "feed_forward_width": 48,
    "context_length": 64,
}
PARTS: dict[str, dict[str, Any]] = {
    "layernorm": {"norm": "layernorm"},
    "prmsnorm": {"norm": "prmsnorm", "norm_fraction": 0.25},
    "centernorm": {"norm": "centernorm"},
    "scalenorm": {"norm": "scalenorm"},
    "no norm": {"norm": "none"},
    "eps outside": {"norm_eps_place": "outside"},
    "norm bias": {"norm_bias": True},
    "post": {"placement": "post"},
    "peri": {"placement": "peri"},
    "parallel": {"placement": "parallel"},
    "learned positions": {"position": "learned"},
    "sinusoidal positions": {"position": "sinusoidal"},
    "no positions": {"position": "none"},
    "alibi": {"position": "alibi"},
    "alibi in a window": {"position": "alibi", "sliding_window": 7},
    "window": {"norm": "layernorm", "sliding_window": 7},
    "turned in part": {"rope_fraction": 0.5},
    "unturned layers": {"norm": "layernorm", "layers_without_rope": (0,)},
    "scaled positions": {
        "norm": "layernorm",
        "rope_scaling": {"kind": "yarn", "factor": 4.0, "original_context": 16},
    },
    "relu": {"norm": "layernorm", "feed_forward": "relu"},
    "geglu": {"norm": "layernorm", "feed_forward": "geglu"},
    "learned beta": {"feed_forward": "swish", "swish_beta": "channel"},
    "self gated": {"feed_forward": "self_gated"},
    "normalised heads": {"norm": "layernorm", "qk_norm": True},
    "normalised width": {"norm": "layernorm", "qk_norm": True, "qk_norm_over": "width"},
    "biases": {"norm": "layernorm", "attention_bias": "all", "feed_forward_bias": True},
    "tied": {"norm": "layernorm", "tie_embeddings": True},
}


def large_model(**parts: Any) -> Transformer:
    """Weights so large that each part leaves its mark on the logits."""
    model = build_transformer(ModelConfig.model_validate({**SHAPE, **parts})).eval()
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
            else:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def random_ids(rows: int, steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, SHAPE["vocab_size"], (rows, steps), generator=generator)


def greedy(model: Transformer, ids: torch.Tensor) -> list[int]:
    """The greedy text of one row by whole forward passes."""
    for _ in range(NEW_TOKENS):
        ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    return ids[0, -NEW_TOKENS:].tolist()
