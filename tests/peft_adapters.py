"""LLaMAs and LoRA adapters made by other hands: transformers builds the model, PEFT the adapter,
both write their folders.

PEFT is imported inside the functions: it takes seconds.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def save_llama(folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a random model whose weights are large enough for every part to matter."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            (
                parameter.add_(0.2 * torch.randn_like(parameter))
                if "norm" in name
                else parameter.normal_(0, 0.15)
            )
    model.to(dtype).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, *, seed: int = 1, **options: Any) -> Any:
    """Write an adapter of the model in `base` with random A and B, as PEFT does; gives PEFT's
    model.

    options: of `peft.LoraConfig`.
    """
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        # what PEFT reads of transformers, and what it says of embeddings among the targets, is not
        # ours to mend
        warnings.filterwarnings(
            "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
        )
        warnings.filterwarnings(
            "ignore",
            message="Model has `tie_word_embeddings=True` and a tied layer",
            category=UserWarning,
        )
        warnings.filterwarnings(
            "ignore", message="Setting `save_embedding_layers` to `True`", category=UserWarning
        )
        torch.manual_seed(seed)
        model = get_peft_model(
            LlamaForCausalLM.from_pretrained(base, dtype="auto"), LoraConfig(**options)
        ).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.2)
        model.save_pretrained(folder)
    return model
