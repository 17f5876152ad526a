"""The words and numbers above the curves, against published spellings and by hand."""

import pytest

from puna.report.curves import Yardstick
from puna.report.formats import duration, moment, quantity
from puna.report.headline import bars, cards, compressors, held_out_bits_per_byte, verdict
from puna.run_log import finite

GZIP, XZ = Yardstick("gzip -9", 2.5), Yardstick("xz -9", 2.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00025, "0.00025"),
        (2e-5, "2e-5"),
        (0.7312, "0.731"),
        (99.96, "100"),
        (5100.2, "5,100"),
        (9999.4, "9,999"),
        (9999.6, "10k"),
        (999_950, "1M"),
        (33_702_400, "33.7M"),
        (1.1e9, "1.1B"),
        (15e12, "15T"),
        (-33_702_400, "-33.7M"),
        (2e15, "2e+15"),
    ],
)
def test_quantities(value, text):
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (9.99, "9.99 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (4320, "1 h 12 min"),
        (86_399, "1 d 0 h"),
        (183_600, "2 d 3 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2025-11-21T01:11:59+01:00", "2025-11-21 00:11 UTC"),
        ("2025-11-21T00:11:00Z", "2025-11-21 00:11 UTC"),
        ("2025-11-21 00:11:00", "2025-11-21 00:11"),
        ("2025-11-21", "2025-11-21"),
        ("last Friday", "last Friday"),
        ("", ""),
    ],
)
def test_moments(text, shown):
    assert moment(text) == shown


@pytest.mark.parametrize("value", [None, "3", True, float("nan"), float("-inf"), [1]])
def test_what_is_no_finite_number(value):
    assert finite(value) is None


def test_zero_is_a_finite_number():
    assert finite(0) == 0.0


@pytest.mark.parametrize(
    ("model", "yardsticks", "sentence"),
    [
        (
            1.0,
            [GZIP, XZ],
            "The model wins: it needs 50% fewer bits than xz -9 and 60% fewer than gzip -9.",
        ),
        (1.99, [XZ], "The model wins: it needs 0.5% fewer bits than xz -9."),
        (
            2.2,
            [GZIP, XZ],
            "xz -9 wins: the model needs 10% more bits, though 12% fewer than gzip -9.",
        ),
        (3.0, [GZIP, XZ], "xz -9 wins: the model needs 50% more bits."),
        (2.0, [GZIP, XZ], "The model and xz -9 are level."),
        (2.0, [], ""),
    ],
)
def test_the_verdict_says_which_wins(model, yardsticks, sentence):
    assert verdict(model, yardsticks) == sentence


def test_bars_are_in_percent_of_the_longest():
    assert [(bar.label, bar.width, bar.model) for bar in bars(1.0, [GZIP, XZ])] == [
        ("this model", "40.00", True),
        ("gzip -9", "100.00", False),
        ("xz -9", "80.00", False),
    ]


def test_a_compressor_that_was_not_measured_is_left_out():
    assert [
        yardstick.value
        for yardstick in compressors({"gzip_bits_per_byte": None, "xz_bits_per_byte": 2.0})
    ] == [2.0]


def test_the_summary_goes_before_the_last_record():
    records = [
        {"kind": "train", "step": 9, "tokens": 90, "mfu": 0.5},
        {"kind": "validation", "step": 9, "bits_per_byte": 1.5},
        {"kind": "train", "step": 10, "tokens": 100, "mfu": None},
    ]
    assert held_out_bits_per_byte({"val_bits_per_byte": 1.25}, records) == 1.25
    assert held_out_bits_per_byte({}, records) == 1.5
    assert held_out_bits_per_byte({}, []) is None
    assert [(card.label, card.value) for card in cards({}, records)] == [
        ("Tokens", "100"),
        ("MFU", "50.0%"),
    ]
    assert cards({"parameters": 50, "tokens": 1000}, records)[1].note == "20 per parameter"
