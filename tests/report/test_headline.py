"""The words and numbers above the curves, against published spellings and by hand."""

import pytest

from puna.plots.step_chart import ReferenceLine
from puna.report.headline import (
    bars,
    cards,
    compression_baselines,
    primed_baselines,
    primed_heading,
    scored_tokens,
    validation_bits_per_byte,
    verdict,
)

GZIP, XZ = ReferenceLine("gzip -9", 2.5), ReferenceLine("xz -9", 2.0)


@pytest.mark.parametrize(
    ("model", "baselines", "sentence"),
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
def test_the_verdict_says_which_wins(model, baselines, sentence):
    assert verdict(model, baselines) == sentence


def test_bars_are_in_percent_of_the_longest():
    primed = [ReferenceLine("primed PPMd", 0.5)]
    found = bars(1.0, {"alone": [GZIP, XZ], "none": [], "primed": primed})
    assert [(bar.heading, bar.label, bar.width, bar.model) for bar in found] == [
        ("", "this model", "40.00", True),
        ("alone", "gzip -9", "100.00", False),
        ("", "xz -9", "80.00", False),
        ("primed", "primed PPMd", "20.00", False),
    ]


def test_primed_baselines_are_read_by_name_with_what_they_have_read():
    summary = {
        "primed_bits_per_byte": {"xz -9e": 1.3, "PPMd": None, "5-gram": 1.4},
        "primed_read_bytes": 12_000_000,
        "primed_all_bytes": 905_000_000,
    }
    assert [
        (line.label.replace("\N{NO-BREAK SPACE}", " "), line.value)
        for line in primed_baselines(summary)
    ] == [
        ("primed xz -9e", 1.3),
        ("primed 5-gram", 1.4),
    ]
    assert primed_heading(summary) == "having read 12 of 905 MB of the training text first"
    assert primed_baselines({}) == []
    assert primed_baselines({"primed_bits_per_byte": 1.0}) == []
    assert primed_heading({}) == "having read training text first"


def test_a_compressor_that_was_not_measured_is_left_out():
    assert [
        baseline.value
        for baseline in compression_baselines({"gzip_bits_per_byte": None, "xz_bits_per_byte": 2.0})
    ] == [2.0]


def test_the_tokens_behind_the_figure_stand_beside_it():
    records = [{"kind": "validation", "step": 9, "targets": 4992, "all_targets": 80122}]
    assert scored_tokens({}, records) == "4,992 of 80,122"
    assert scored_tokens({"val_targets": 96, "val_all_targets": 1000}, records) == "96 of 1,000"
    assert scored_tokens({}, []) == ""


def test_the_summary_goes_before_the_last_record():
    records = [
        {"kind": "train", "step": 9, "tokens": 90, "mfu": 0.5},
        {"kind": "validation", "step": 9, "bits_per_byte": 1.5},
        {"kind": "train", "step": 10, "tokens": 100, "mfu": None},
    ]
    assert validation_bits_per_byte({"val_bits_per_byte": 1.25}, records) == 1.25
    assert validation_bits_per_byte({}, records) == 1.5
    assert validation_bits_per_byte({}, []) is None
    assert [(card.label, card.value) for card in cards({}, records)] == [
        ("Tokens", "100"),
        ("MFU", "50.0%"),
    ]
    assert cards({"parameters": 50, "tokens": 1000}, records)[1].note == "20 per parameter"
