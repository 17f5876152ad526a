"""`puna study simulate`: its table against exact power, what it leaves out, what it rejects."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_study import make_study
from said import said
from scipy import stats

ARMS = ["relu", "gelu", "reglu", "geglu"]
CONTRASTS = {
    "gate at relu": {"terms": {"reglu": 1, "relu": -1}},
    "gate": {"terms": {"reglu|geglu": 1, "relu|gelu": -1}, "primary": True},
    "gate of loss": {"terms": {"reglu|geglu": 1, "relu|gelu": -1}, "of": "loss"},
}


def percent(line: str) -> list[float]:
    """The shares of a row, without their intervals."""
    return [float(share) / 100 for share in re.findall(r"([\d.]+)% \(", line)]


def test_the_table_is_that_of_the_noncentral_t(puna: Callable[..., Any], tmp_path: Path) -> None:
    """A contrast of two against two arms has the deviation s sqrt(1 - r)."""
    folder = make_study(tmp_path, ARMS, contrasts=CONTRASTS)
    options = "--spread 0.02 --correlation 0.75 --effect 0.01 --effect 0.02 --seeds 4 --seeds 8"
    result = puna("study", "simulate", folder, *options.split(), "--repetitions", 1000)
    assert (result.code, result.err) == (0, "")
    title, _, head, _, primary, *rows = result.out.splitlines()
    assert "1,000 made-up studies" in title
    assert "bits per byte" in title
    assert head.split() == ["promised", "4", "seeds", "8", "seeds"]
    assert primary == "gate (primary)"
    assert "at most 5%" in rows[0]
    for row, size in zip(rows, (0.0, 0.01, 0.02), strict=False):
        assert row.split()[0].rstrip(",") == f"{size:g}"
        for share, seeds in zip(percent(row), (4, 8), strict=True):
            critical = stats.t.ppf(0.975, seeds - 1)
            shift = size * math.sqrt(seeds) / 0.01
            expected = stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(
                -critical, seeds - 1, shift
            )
            low, high = stats.binom.interval(0.999, 1000, expected)
            assert low <= 1000 * share <= high
    assert rows[3].startswith("  smallest found in 80%")
    # sd 0.01: 2.1 and 1.2 of it (Cohen), as detectable_effect has them
    assert [float(cell) for cell in rows[3].split()[-2:]] == pytest.approx(
        [0.0213, 0.0115], rel=0.1
    )


def test_it_says_what_it_assumes_and_what_it_leaves_out(
    puna: Callable[..., Any], tmp_path: Path
) -> None:
    """By the study's own runs, which `make_study` leaves."""
    folder = make_study(tmp_path, ARMS, contrasts=CONTRASTS, also=["loss"])
    result = puna("study", "simulate", folder, "--repetitions", 200)
    assert (result.code, result.err) == (0, "")
    assert "Not simulated: gate of loss (it is of loss)." in result.out
    assert re.search(said(f"normal ... paired by seed ... 4 seeds in {folder}"), result.out)
    assert re.search(said("any contrast but the primary ... at most 5%"), result.out)
    assert re.search(said("any arm against relu ... at most 5%"), result.out)
    assert puna("study", "simulate", folder, "--repetitions", 200).out == result.out
    other = puna("study", "simulate", folder, "--repetitions", 200, "--seed", 1)
    assert other.out != result.out


def test_the_spread_of_another_study_and_arms_instead_of_contrasts(
    puna: Callable[..., Any], tmp_path: Path
) -> None:
    pilot = make_study(tmp_path / "pilot", ["x", "y", "z"])
    folder = make_study(tmp_path / "study", ["a", "b"], rule={"alpha": 0.1})
    (folder / "results.jsonl").unlink()
    options = ["--repetitions", 200, "--effect", 0.5]
    result = puna("study", "simulate", folder, "--pilot", pilot, *options)
    assert (result.code, result.err) == (0, "")
    assert re.search(said("b against a ... at most 10% ... 0.5 ... 100.0%"), result.out)
    assert "pooled over 3 arms" in result.out
    result = puna("study", "simulate", folder, *options)
    assert result.code == 1
    assert re.search(said("error: ... no finished runs ... --pilot ... --spread"), result.err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--spread 0.01", "--spread goes with --correlation"),
        ("--correlation 0.5", "--correlation goes with --spread"),
        ("--spread 0.01 --correlation 0.5 --pilot x", "without --pilot"),
        ("--effect nan", "nan ... finite"),
        ("--seeds 1", "seeds: 1 ... at least 2"),
        ("--pilot nowhere", "nowhere is no study ... study.yaml"),
        ("--spread 0.01 --correlation 2", "correlation of 2.0 ... from 0 to 1"),
    ],
)
def test_bad_options_are_rejected(
    options: str, message: str, puna: Callable[..., Any], tmp_path: Path
) -> None:
    result = puna("study", "simulate", make_study(tmp_path, ARMS), *options.split())
    assert result.code != 0
    assert re.search(said(message), result.err)
