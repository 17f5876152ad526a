"""A LLaMA of two layers with a vocabulary of its own, to be written into files of other programs
and read from them.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.model.weights import write_model
from puna.tokenizer.tokenizer import Digits, Tokenizer

TEXT = "the llama reads old pages über naïve 東京 мир 🦙 is was near 1024 of a river stone"


@cache
def vocabulary(digits: Digits = "three") -> Tokenizer:
    """A byte-level vocabulary; digits `three` is Llama 3's pattern."""
    return Tokenizer.train([f"{TEXT} {n}" for n in range(40)], 320, digits=digits)


def build_llama(**changes: Any) -> Transformer:
    """A model with large weights, so that every part leaves its mark on the logits; keywords change
    its shape.
    """
    shape = {
        "vocab_size": vocabulary().vocab_size,
        "width": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "feed_forward_width": 64,
        "context_length": 96,
    }
    model = build_transformer(ModelConfig.model_validate(shape | changes)).eval()
    init_weights(model, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
            else:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def save_llama_folder(folder: Path, model: Transformer, digits: Digits = "three") -> Path:
    """Write a model with its vocabulary as a model folder."""
    tokenizer = vocabulary(digits)
    folder.mkdir(parents=True)
    write_model(
        folder,
        model,
        bos_id=tokenizer.bos_id,
        eos_ids=tuple(sorted(tokenizer.end_ids)),
        provenance={"tokenizer_hash": tokenizer.hash, "tokens": 123_456},
    )
    tokenizer.save(folder)
    return folder
