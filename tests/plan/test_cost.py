"""FLOPs of a life and hours of GPUs, against published runs."""

import math

import pytest
from said import said

from puna.errors import PlanError
from puna.plan.cost import GPU_PEAKS, Training, check_positive, gpu_rate


def test_training_is_6_n_d_and_inference_2_n_a_token() -> None:
    run = Training(7e9, 1e12)
    assert run.flops == 4.2e22
    assert run.lifetime_flops(2e12) == 4.2e22 + 2.8e22


@pytest.mark.parametrize(
    ("parameters", "tokens", "hours", "mfu"),
    [
        (6.7e9, 1e12, 82_432, 0.434),
        (13.0e9, 1e12, 135_168, 0.514),
        (32.5e9, 1.4e12, 530_432, 0.458),
        (65.2e9, 1.4e12, 1_022_362, 0.477),
    ],
)
def test_llama_s_published_gpu_hours_are_a_plausible_share_of_the_a100_s_peak(
    parameters: float, tokens: float, hours: int, mfu: float
) -> None:
    """Touvron et al. 2023a, table 15: hours of A100-80GB."""
    assert Training(parameters, tokens).flops / (gpu_rate("a100", 1.0) * 3600) == pytest.approx(
        hours * mfu, rel=2e-3
    )


def test_peaks_are_those_of_dense_products() -> None:
    assert (GPU_PEAKS["h100"], GPU_PEAKS["h200"], GPU_PEAKS["a100"]) == (989e12, 989e12, 312e12)
    assert gpu_rate("H100", 0.4) == pytest.approx(0.4 * 989e12)


def test_an_unknown_gpu_lists_the_known() -> None:
    with pytest.raises(PlanError, match=said("'tpu' ... a100, b200, h100, h100-pcie, h200")):
        gpu_rate("tpu", 0.4)


@pytest.mark.parametrize("mfu", [0, -0.1, 1.01, 40, math.nan])
def test_a_share_of_the_peak_lies_between_0_and_1(mfu: float) -> None:
    with pytest.raises(PlanError, match=said(f"mfu ... {mfu:g} ... share of the peak")):
        gpu_rate("h100", mfu)


def test_the_first_value_that_is_not_positive_is_named() -> None:
    check_positive(gpu_hours=1e-300, flops=1e300)
    with pytest.raises(PlanError, match=said("gpu hours ... -3 ... above zero")):
        check_positive(flops=1.0, gpu_hours=-3.0)
