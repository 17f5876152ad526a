"""Llama 3's stretched frequencies against the published counts, a port of the published code, and transformers."""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from puna.nn import Llama3Scaling, RotaryEmbedding, rope_frequencies


def published(frequency: float, factor: float, low: float, high: float, original: int) -> float:
    """One frequency through the branches of the code that came with Llama 3.1."""
    wavelength = 2 * math.pi / frequency
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return frequency / factor
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def test_llama_3_1_keeps_29_blends_6_and_divides_29_frequencies() -> None:
    before = rope_frequencies(128, 500000.0)
    after = Llama3Scaling()(before)
    kept, divided = after == before, after == before / 8
    assert (int(kept.sum()), int((~kept & ~divided).sum()), int(divided.sum())) == (29, 6, 29)
    assert kept[:29].all()
    assert divided[-29:].all()


@pytest.mark.parametrize("scaling", [Llama3Scaling(), Llama3Scaling(factor=32.0), Llama3Scaling(4.0, 0.5, 16.0, 2048)])
@pytest.mark.parametrize("head_width", [64, 128])
def test_equals_the_published_code(scaling: Llama3Scaling, head_width: int) -> None:
    before = rope_frequencies(head_width, 500000.0)
    expected = [
        published(f, scaling.factor, scaling.low_frequency_factor, scaling.high_frequency_factor, scaling.original_context)
        for f in before.tolist()
    ]
    torch.testing.assert_close(scaling(before), torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_equals_transformers(factor: float) -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, max_position_embeddings=131072, rope_parameters=parameters)
    theirs = LlamaRotaryEmbedding(config)
    ours = RotaryEmbedding(128, 64, 500000.0, Llama3Scaling(factor=factor))
    torch.testing.assert_close(ours.frequencies, theirs.inv_freq, rtol=1e-6, atol=0)
    cos, sin = theirs(torch.zeros(1), torch.arange(64)[None])
    torch.testing.assert_close(ours.cos, cos[0, :, :64], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.sin, sin[0, :, :64], rtol=0, atol=1e-5)


def test_a_factor_of_one_changes_nothing() -> None:
    before = rope_frequencies(128, 500000.0)
    torch.testing.assert_close(Llama3Scaling(factor=1.0)(before), before, rtol=1e-7, atol=0)
