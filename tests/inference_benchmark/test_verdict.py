"""Verdicts by hand: shares of limits in closed form, the better rival, bars met and missed."""

import pytest

from puna.diagnosis import measurements
from puna.inference_benchmark.bars import SpeedBar, find_bar
from puna.inference_benchmark.subject import Subject, shapes
from puna.inference_benchmark.verdict import (
    FLOAT32,
    IK,
    IK_REPACKED,
    LLAMA,
    OURS,
    PLAIN,
    TORCH_INT8,
    TRANSFORMERS,
    TWIN,
    MachineLimits,
    Row,
    Verdict,
    judge,
    limits_of,
    median_limits,
    share_of_limit,
)
from puna.inference_benchmark.workload import FORMATS, WORKLOADS, Format, Workload
from puna.model.config import ModelConfig

LIMITS = MachineLimits(reading=1e9, float32=2e9, bfloat16=4e9, int8=8e9)
TINY = Subject(
    "tiny",
    ModelConfig(
        vocab_size=100, width=8, num_layers=3, num_heads=4, num_kv_heads=2, feed_forward_width=16
    ),
)
# q and the output layer of attention 8 x 8, k and v 4 x 8; three matrices of 16 x 8
BLOCKS = 3 * (2 * 64 + 2 * 32 + 3 * 128)
OUTPUT = 100 * 8
BIG = Subject("1.1B", shapes()["1.1B"])


def row(work: str, weights: Format, **runs: float | list[float]) -> Row:
    names = {
        "ours": OURS, "llama": LLAMA, "ik": IK, "repacked": IK_REPACKED, "int8": TORCH_INT8,
        "plain": PLAIN, "float32": FLOAT32, "twin": TWIN, "transformers": TRANSFORMERS,
    }  # fmt: skip
    figures = {
        names[name]: figure if isinstance(figure, list) else [figure]
        for name, figure in runs.items()
    }
    return Row(WORKLOADS[work], weights, figures, LIMITS)


def judged(found: Row, tier: str = "avx512_bf16", subject: Subject = BIG) -> Verdict:
    return judge(found, subject, tier)


@pytest.mark.parametrize(("weights", "size"), [("bf16", 2.0), ("int8", 1.0), ("int4", 0.53125)])
def test_decode_reads_weights_and_half_of_the_new_keys(weights: Format, size: float) -> None:
    """4 tokens after 10: 12 positions on average, with keys and values of 2 heads in 16 bits."""
    keys = 12 * 3 * (2 * 2 * 2) * 2
    work = Workload("decode", "decode", 4, context=10)
    share = share_of_limit(work, weights, TINY, 50.0, LIMITS)
    assert share == pytest.approx(50 * ((BLOCKS + OUTPUT) * size + keys) / 1e9)
    codes = 12 * 3 * (2 * 2) * (2 + 4)  # of 2 entries each, with a scale
    share = share_of_limit(work, weights, TINY, 50.0, LIMITS, int8_cache=True)
    assert share == pytest.approx(50 * ((BLOCKS + OUTPUT) * size + codes) / 1e9)


def test_an_int8_cache_has_a_ratio_and_no_bar() -> None:
    """The rivals keep keys and values in 16 bits."""
    measured = row("decode-4k", "int4", ours=30, llama=10)
    found = judge(measured, BIG, "avx512", int8_cache=True)
    assert (found.ratio, found.rival, found.bar, found.met) == (3.0, LLAMA, None, None)


def test_streams_share_one_reading_of_the_weights() -> None:
    work = Workload("streams", "decode", 4, context=10, streams=8)
    keys = 8 * 12 * 3 * (2 * 2 * 2) * 2
    share = share_of_limit(work, "int8", TINY, 80.0, LIMITS)
    assert share == pytest.approx(10 * (BLOCKS + OUTPUT + keys) / 1e9)


@pytest.mark.parametrize(("weights", "peak"), [("bf16", 4e9), ("int8", 8e9), ("int4", 8e9)])
def test_prefill_counts_products_causal_attention_and_one_row_of_logits(
    weights: Format, peak: float
) -> None:
    """q k^T and the weighted sum of v: 2 x 2 x 4 heads x 2 entries x (1 + 2 + 3) keys a layer."""
    operations = 3 * 2 * BLOCKS + 2 * OUTPUT + 3 * 2 * 2 * 4 * 2 * (1 + 2 + 3)
    share = share_of_limit(Workload("prefill", "prefill", 3), weights, TINY, 30.0, LIMITS)
    assert share == pytest.approx(10 * operations / peak)


def test_without_bfloat16_its_products_are_float32s() -> None:
    limits = MachineLimits(reading=None, float32=2e9, bfloat16=None, int8=None)
    assert (limits.peak("bf16"), limits.peak("int8"), limits.peak("int4")) == (2e9, None, None)
    assert share_of_limit(WORKLOADS["decode"], "bf16", TINY, 1.0, limits) is None


def test_limits_are_medians_of_their_rounds() -> None:
    rounds = [
        MachineLimits(reading=1.0, others=0.5),
        MachineLimits(reading=9.0, int8=3.0, others=0.1),
        MachineLimits(reading=2.0, int8=4.0),
    ]
    assert median_limits(rounds) == MachineLimits(reading=2.0, int8=3.5, others=0.5)
    assert median_limits([]) == MachineLimits()


def test_every_measured_limit_has_the_name_of_one() -> None:
    named = {
        name
        for work in WORKLOADS.values()
        for weights in FORMATS
        for name in limits_of(work, weights)
    }
    assert named == set(measurements.LIMITS)


def test_medians_are_compared_and_the_better_peer_counts() -> None:
    found = row("decode-4k", "int4", ours=[10, 48, 50], llama=[20, 25, 99], ik=[29, 30, 31],
                repacked=28, transformers=1000, twin=1000)  # fmt: skip
    assert found.medians[OURS] == 48
    verdict = judged(found)
    assert (verdict.rival, verdict.ratio, verdict.met) == (IK, 48 / 30, True)
    assert verdict.bar == SpeedBar(1.6)


def test_a_start_is_compared_by_its_time_and_has_a_time_at_most() -> None:
    quick, late = row("start", "int4", ours=0.5, llama=0.6), row("start", "int4", ours=1.1, ik=2.0)
    assert judged(quick).ratio == pytest.approx(1.2)
    assert judged(quick).met is True
    assert (judged(late).ratio, judged(late).met) == (pytest.approx(2 / 1.1), False)


def test_dynamic_int8_of_pytorch_is_a_third_peer() -> None:
    verdict = judged(row("prefill", "int8", ours=130, llama=50, int8=110))
    assert (verdict.rival, verdict.met) == (TORCH_INT8, False)


def test_a_bar_with_a_share_needs_both() -> None:
    fast = share_of_limit(WORKLOADS["decode"], "int4", BIG, 1.0, LIMITS)
    assert fast is not None
    rate = 0.91 / fast
    assert judged(row("decode", "int4", ours=rate, llama=rate / 1.06)).met is True
    assert judged(row("decode", "int4", ours=rate, llama=rate / 1.04)).met is False
    rate = 0.89 / fast
    assert judged(row("decode", "int4", ours=rate, llama=rate / 2)).met is False


def test_what_is_not_measured_is_not_known_unless_another_part_is_missed() -> None:
    assert judged(row("decode-4k", "int4", ours=50)) == Verdict(
        share_of_limit(WORKLOADS["decode-4k"], "int4", BIG, 50, LIMITS),
        None,
        None,
        SpeedBar(1.6),
        None,
    )
    assert judged(row("start", "int4", ours=0.5)).met is None
    assert judged(row("start", "int4", ours=1.5)).met is False
    unmeasured = judged(row("decode-4k", "int4", llama=20.0))
    assert (unmeasured.rival, unmeasured.ratio, unmeasured.met) == (None, None, None)


def test_lookups_are_compared_with_plain_decode_of_puna() -> None:
    assert judged(row("lookup-repeating", "int4", ours=160, plain=100)).met is True
    assert judged(row("lookup-repeating", "int4", ours=140, plain=100)).met is False
    assert judged(row("lookup-misleading", "int4", ours=98, plain=100)).met is True
    assert judged(row("lookup-misleading", "int4", ours=96, plain=100)).met is False


def test_bfloat16_prefill_on_avx2_is_beside_float32() -> None:
    verdict = judged(row("prefill", "bf16", ours=101, float32=100, llama=200), "avx2")
    assert (verdict.rival, verdict.ratio, verdict.met) == (FLOAT32, 1.01, True)


@pytest.mark.parametrize(
    ("size", "work", "weights", "avx2", "vnni"),
    [
        ("15M", "decode", "int8", 1.5, 1.2),
        ("15M", "decode", "bf16", 1.2, 1.2),
        ("110M", "decode", "int4", 1.25, 1.15),
        ("110M", "decode", "bf16", 1.0, 1.0),
        ("1.1B", "decode", "int8", 1.05, 1.05),
        ("110M", "prefill", "int4", 1.35, 1.2),
        ("1.1B", "prefill", "int8", 1.05, 1.3),
        ("1.1B", "decode-8k", "int8", 1.1, 1.1),
        ("1.1B", "streams", "int4", 2.0, 2.0),
    ],
)
def test_the_tier_chooses_the_bar(
    size: str, work: str, weights: Format, avx2: float, vnni: float
) -> None:
    for tier, ratio in {"avx2": avx2, "avx512": vnni, "avx512_bf16": vnni, "amx": vnni}.items():
        bar = find_bar(tier, size, work, weights)  # type: ignore[arg-type]
        assert bar is not None
        assert bar.ratio == ratio
    assert find_bar("neon", size, work, weights) is None  # type: ignore[arg-type]


def test_no_bar_where_none_was_set() -> None:
    assert find_bar("avx2", "15M", "prefill", "int8") is None
    assert judged(row("streams", "bf16", ours=10, llama=5)).met is None
    assert judged(row("streams", "bf16", ours=10, llama=5)).ratio == 2


@pytest.mark.parametrize(("name", "size"), [("15M", "15M"), ("110M", "110M"), ("135M", "110M")])
def test_the_size_of_a_shape(name: str, size: str) -> None:
    assert Subject(name, shapes()[name]).size == size
    assert BIG.size == "1.1B"
    assert BIG.parameters.total == pytest.approx(1.1e9, rel=0.01)
