"""The four stretchings of rotary frequencies: published counts, a port of Llama 3's code,
transformers, and what all have in common.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from puna.nn import (
    FrequencyScaling,
    LinearScaling,
    ListedScaling,
    Llama3Scaling,
    NTKScaling,
    RotaryEmbedding,
    YaRNScaling,
    rope_frequencies,
    rotate,
)

BASE = 10000.0


def every_scaling(factor: float) -> list[FrequencyScaling]:
    """One of each, for frequencies of base 10000."""
    return [
        LinearScaling(factor),
        NTKScaling(factor),
        Llama3Scaling(factor, original_context=2048),
        YaRNScaling(factor, 2048, BASE),
    ]


EACH = pytest.mark.parametrize(
    "scaling", every_scaling(4.0), ids=lambda scaling: type(scaling).__name__
)


def llama_rotary(head_width: int, context: int, **parameters: object) -> LlamaRotaryEmbedding:
    config = LlamaConfig(
        hidden_size=2 * head_width,
        num_attention_heads=2,
        max_position_embeddings=context,
        rope_parameters=parameters,
    )
    return LlamaRotaryEmbedding(config)


def assert_same_tables(ours: RotaryEmbedding, theirs: LlamaRotaryEmbedding) -> None:
    torch.testing.assert_close(ours.frequencies, theirs.inv_freq, rtol=1e-6, atol=0)
    cos, sin = theirs(torch.zeros(1), torch.arange(ours.context_length)[None])
    half = cos.shape[-1] // 2
    torch.testing.assert_close(ours.cos, cos[0, :, :half], rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.sin, sin[0, :, :half], rtol=0, atol=2e-5)


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


@pytest.mark.parametrize(
    "scaling", [Llama3Scaling(), Llama3Scaling(factor=32.0), Llama3Scaling(4.0, 0.5, 16.0, 2048)]
)
@pytest.mark.parametrize("head_width", [64, 128])
def test_equals_the_published_code(scaling: Llama3Scaling, head_width: int) -> None:
    before = rope_frequencies(head_width, 500000.0)
    expected = [
        published(
            f,
            scaling.factor,
            scaling.low_frequency_factor,
            scaling.high_frequency_factor,
            scaling.original_context,
        )
        for f in before.tolist()
    ]
    torch.testing.assert_close(scaling(before), torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_equals_transformers(factor: float) -> None:
    theirs = llama_rotary(
        128,
        131072,
        rope_type="llama3",
        rope_theta=500000.0,
        factor=factor,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    assert_same_tables(RotaryEmbedding(128, 64, 500000.0, Llama3Scaling(factor=factor)), theirs)


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.7])
def test_linear_equals_transformers(factor: float) -> None:
    theirs = llama_rotary(64, 4096, rope_type="linear", rope_theta=BASE, factor=factor)
    assert_same_tables(RotaryEmbedding(64, 64, BASE, LinearScaling(factor)), theirs)


def test_linear_is_position_interpolation() -> None:
    """Position 4 m of the stretched table is position m of the plain one."""
    plain, stretched = RotaryEmbedding(32, 16), RotaryEmbedding(32, 64, scaling=LinearScaling(4.0))
    assert torch.equal(stretched.cos[::4], plain.cos)
    assert torch.equal(stretched.sin[::4], plain.sin)


@pytest.mark.parametrize("head_width", [4, 64, 128])
@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_ntk_is_a_larger_base(head_width: int, factor: float) -> None:
    larger = BASE * factor ** (head_width / (head_width - 2))
    scaled = NTKScaling(factor)(rope_frequencies(head_width, BASE))
    torch.testing.assert_close(scaled, rope_frequencies(head_width, larger), rtol=2e-6, atol=0)


def test_ntk_keeps_the_fastest_and_divides_the_slowest_frequency() -> None:
    before = rope_frequencies(128, BASE)
    after = NTKScaling(8.0)(before)
    assert after[0] == before[0]
    torch.testing.assert_close(after[-1], before[-1] / 8)
    assert NTKScaling(8.0)(rope_frequencies(2, BASE)).tolist() == [1.0], (
        "a head of one pair has the fastest only"
    )


def test_ntk_equals_transformers_dynamic_form_at_one_length() -> None:
    """Its effective factor at length l of context n is f l/n - (f - 1): with f = 3 at twice the
    context, 4.
    """
    parameters = {"rope_type": "dynamic", "rope_theta": BASE, "factor": 3.0}
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        max_position_embeddings=2048,
        rope_parameters=parameters,
    )
    theirs, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=4096)
    torch.testing.assert_close(
        NTKScaling(4.0)(rope_frequencies(64, BASE)), theirs, rtol=2e-6, atol=0
    )


@pytest.mark.parametrize(
    ("head_width", "base", "scaling"),
    [
        (128, 10000.0, YaRNScaling(16.0, 4096, 10000.0)),  # the paper's Llama 2
        (128, 1000000.0, YaRNScaling(4.0, 32768, 1000000.0)),  # Qwen 2.5 and 3
        (64, 10000.0, YaRNScaling(40.0, 4096, 10000.0)),
        (64, 150000.0, YaRNScaling(32.0, 4096, 150000.0)),
        (32, 10000.0, YaRNScaling(2.0, 128, 10000.0)),  # the lower bound is clipped
        (8, 100.0, YaRNScaling(2.0, 2048, 100.0, 64.0, 4.0)),
    ],
)
def test_yarn_equals_transformers(head_width: int, base: float, scaling: YaRNScaling) -> None:
    theirs = llama_rotary(
        head_width,
        int(scaling.factor * scaling.original_context),
        rope_type="yarn",
        rope_theta=base,
        factor=scaling.factor,
        original_max_position_embeddings=scaling.original_context,
        beta_fast=scaling.beta_fast,
        beta_slow=scaling.beta_slow,
    )
    assert scaling.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-12)
    assert_same_tables(RotaryEmbedding(head_width, 64, base, scaling), theirs)


def test_yarn_of_llama_2_keeps_21_blends_25_and_divides_18_frequencies() -> None:
    """i(32) = 64 ln(4096 / 64 pi) / ln 10000 = 20.9 and i(1) = 45.0: from floor 20 to ceil 46."""
    before = rope_frequencies(128, BASE)
    after = YaRNScaling(16.0, 4096, BASE)(before)
    kept, divided = after == before, after == before / 16
    assert (int(kept.sum()), int((~kept & ~divided).sum()), int(divided.sum())) == (21, 25, 18)


def test_yarn_multiplies_scores_by_the_square_of_its_factor() -> None:
    q, k = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)
    scaling = YaRNScaling(16.0, 4096, BASE)
    assert scaling.attention_factor == pytest.approx(1.2773, abs=1e-4)
    rotary = RotaryEmbedding(32, 8, BASE, scaling)(torch.tensor([5]))
    score = (rotate(q, *rotary) * rotate(k, *rotary)).sum()
    torch.testing.assert_close(
        score, (q * k).sum() * scaling.attention_factor**2, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "scaling", every_scaling(4.0)[:3], ids=lambda scaling: type(scaling).__name__
)
def test_the_others_leave_the_size_of_scores_alone(scaling: FrequencyScaling) -> None:
    assert scaling.attention_factor == 1
    rotary = RotaryEmbedding(32, 64, BASE, scaling)
    torch.testing.assert_close(rotary.cos.square() + rotary.sin.square(), torch.ones(64, 16))


@given(factor=st.floats(1, 100), half=st.integers(1, 64))
def test_every_frequency_is_kept_divided_or_between_and_their_order_stays(
    factor: float, half: int
) -> None:
    before = rope_frequencies(2 * half, BASE)
    for scaling in every_scaling(factor):
        after = scaling(before)
        assert (after <= before * (1 + 1e-6)).all()
        assert (after >= before / factor * (1 - 1e-6)).all()
        assert (after.diff() <= 0).all()


@pytest.mark.parametrize("scaling", every_scaling(1.0), ids=lambda scaling: type(scaling).__name__)
def test_a_factor_of_one_changes_nothing(scaling: FrequencyScaling) -> None:
    before = rope_frequencies(128, BASE)
    torch.testing.assert_close(scaling(before), before, rtol=2e-7, atol=0)
    assert scaling.attention_factor == 1


@EACH
def test_leaving_the_meta_device_fills_the_stretched_tables(scaling: FrequencyScaling) -> None:
    with torch.device("meta"):
        rotary = RotaryEmbedding(16, 32, scaling=scaling)
    rotary.to_empty(device="cpu")
    expected = RotaryEmbedding(16, 32, scaling=scaling)
    assert torch.equal(rotary.cos, expected.cos)
    assert torch.equal(rotary.sin, expected.sin)


@EACH
def test_is_a_value(scaling: FrequencyScaling) -> None:
    assert isinstance(scaling, FrequencyScaling)
    assert scaling in every_scaling(4.0)
    assert scaling not in every_scaling(5.0)


@pytest.mark.parametrize("factor", [0.5, 0.0, -2.0, float("nan")])
@pytest.mark.parametrize("kind", range(4))
def test_factors_below_one_are_rejected(kind: int, factor: float) -> None:
    with pytest.raises(ValueError, match=f"scaling factor of {factor} shortens the context"):
        (LinearScaling, NTKScaling, Llama3Scaling, lambda factor: YaRNScaling(factor, 4096, BASE))[
            kind
        ](factor)


def test_blends_that_end_before_they_begin_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"blends from low 4.0 to high 4.0"):
        Llama3Scaling(low_frequency_factor=4.0)
    with pytest.raises(ValueError, match=r"beta_slow 32.0 to beta_fast 1.0"):
        YaRNScaling(2.0, 4096, BASE, 1.0, 32.0)


def test_yarn_rejects_frequencies_of_another_base() -> None:
    with pytest.raises(ValueError, match="built for base 10000"):
        RotaryEmbedding(128, 8, 500000.0, YaRNScaling(4.0, 4096, 10000.0))


def test_a_list_divides_each_frequency_by_its_own() -> None:
    scaling = ListedScaling([1.0, 2.0, 4.0, 8.0], mscale=1.25)
    before = rope_frequencies(8, BASE)
    assert (before / scaling(before)).tolist() == [1.0, 2.0, 4.0, 8.0]
    tables = RotaryEmbedding(8, 4, BASE, scaling)
    assert tables.cos[0].tolist() == [1.25] * 4
    with pytest.raises(ValueError, match="4 factors for 8 frequencies"):
        scaling(rope_frequencies(16, BASE))
    with pytest.raises(ValueError, match="give numbers above 0"):
        ListedScaling([1.0, 0.0])


def test_listed_equals_transformers_longrope() -> None:
    short = [1.0 + 0.1 * index for index in range(32)]
    theirs = llama_rotary(
        64,
        4096,
        rope_type="longrope",
        rope_theta=BASE,
        short_factor=short,
        long_factor=short,
        attention_factor=1.19,
        original_max_position_embeddings=4096,
    )
    assert_same_tables(RotaryEmbedding(64, 64, BASE, ListedScaling(short, 1.19)), theirs)
