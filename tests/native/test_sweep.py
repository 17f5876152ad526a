"""Some rounds of `make test-native`, with arrays that end at pages which must not be touched: the
objects that are installed against the scalar one, headers and whole steps compiled for the fastest
tier, and the pool of threads.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from puna.native.library import available_tiers, load

RUN = Path(__file__).parents[2] / "native" / "tests" / "run.py"


def sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.skipif(not available_tiers(), reason="the native core is not built")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("program", ["sweep", "sweep_linear"])
def test_every_tier_agrees_with_the_scalar_one(program: str) -> None:
    tiers = available_tiers()
    objects = str(load().path.parent)
    result = sweep(*tiers, "--program", program, "--objects", objects, "--cases", "20")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == list(tiers)


@pytest.mark.skipif(not available_tiers(), reason="the native core is not built")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("sweep_paged_attention", "cases of paged attention are right"),  # beside float64
        ("sweep_step", "models are right in whole steps"),  # beside each sequence alone
    ],
)
def test_what_is_compiled_for_a_tier_is_right(program: str, said: str) -> None:
    tier = available_tiers()[-1]
    result = sweep(tier, "--program", program, "--cases", "40")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith(f"{tier}: 40 {said}")


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_members_of_a_pool_do_each_item_once() -> None:
    result = sweep("scalar", "--program", "sweep_pool", "--cases", "40")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("pool: 40 pools are right")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sse2",), "no tier sse2: say scalar"),
        (("--machine", "vax"), "no emulator for vax: say aarch64"),
        (("--compiler", "no-such-g++"), "no-such-g++ is not installed"),
    ],
)
def test_what_is_missing_is_said(arguments: tuple[str, ...], message: str) -> None:
    result = sweep(*arguments)
    assert result.returncode
    assert message in result.stderr
    assert "Traceback" not in result.stderr
