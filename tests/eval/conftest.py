"""Tokenizers for text with numbers, one for each treatment of digits; models whose logits are
known.
"""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from puna.inference.language_model import LanguageModel
from puna.model.config import ModelConfig
from puna.model.transformer import build_transformer
from puna.tokenizer.pretokenize import DIGITS_MODES, Digits
from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizers() -> Mapping[Digits, Tokenizer]:
    texts = [f"word {number} + {2 * number} = {3 * number}\n    " for number in range(3000)]
    return {mode: Tokenizer.train(texts, 600, mode) for mode in DIGITS_MODES}


@pytest.fixture(scope="session")
def unigram_llama(tokenizers: Mapping[Digits, Tokenizer]) -> LanguageModel:
    """A model whose logits do not depend on the context: that of id v is -(v % 7)."""
    return _known_model(tokenizers["one"], lambda ids: -(ids % 7).float())


@pytest.fixture(scope="session")
def uniform_llama(tokenizers: Mapping[Digits, Tokenizer]) -> LanguageModel:
    """A model that finds all ids equally likely."""
    return _known_model(tokenizers["one"], torch.zeros_like)


def _known_model(tokenizer: Tokenizer, logits: Callable[[Tensor], Tensor]) -> LanguageModel:
    """Hidden states are all ones: equal embeddings, normalised, and blocks that add nothing."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        feed_forward_width=8,
        context_length=128,
        tie_embeddings=False,
    )
    model = build_transformer(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(float("norm" in name or "embed" in name))
        ids = torch.arange(config.vocab_size)
        model.output_weight.copy_((logits(ids) / config.width)[:, None].expand(-1, config.width))
    return LanguageModel(model, tokenizer)
