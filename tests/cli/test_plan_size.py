"""`puna plan size`: budgets and losses to sizes, for one set of constants and for all."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.plan.cost import GPU_PEAKS
from puna.plan.scaling import LAWS

Puna = Callable[..., Any]


def cells(out: str, label: str, *, last: bool = False) -> list[str]:
    """The cells of the first, or of the last, row with this label."""
    rows = [line for line in out.splitlines() if line.strip().startswith(label)]
    assert rows, f"no row {label!r} in\n{out}"
    return rows[-1 if last else 0].strip().removeprefix(label).split()


def test_epoch_s_10b_model(puna: Puna) -> None:
    result = puna("plan", "size", "--flops", "1.23e22", "--constants", "epoch")
    assert (result.code, result.err) == (0, "")
    # the paper's four-digit exponents give 10.06B and 203.8B
    assert cells(result.out, "parameters N") == ["10.07B"]
    assert cells(result.out, "tokens D") == ["203.6B"]
    assert cells(result.out, "tokens a parameter") == ["20.2"]
    assert cells(result.out, "training FLOPs") == ["1.23e+22"]
    assert "GPU" not in result.out.partition("loss expected of")[0]
    assert "lifetime" not in result.out


def test_every_set_of_constants_stands_beside_the_others_with_its_numbers(puna: Puna) -> None:
    out = puna("plan", "size", "--flops", "1e21").out
    assert out.splitlines()[0].split() == list(LAWS)
    assert cells(out, "alpha") == [f"{law.alpha:.6g}" for law in LAWS.values()]
    assert cells(out, "A") == ["406.4", "406.401", "482.006", "406.4"]
    assert len(cells(out, "loss")) == len(LAWS)


def test_the_lifetime_optimum_of_sardana_s_example(puna: Puna) -> None:
    out = puna(
        "plan", "size", "--loss", "1.947", "--inference-tokens", "2e12", "--constants", "sardana"
    ).out
    assert cells(out, "parameters N") == ["34.08B"]
    assert cells(out, "parameters N", last=True) == ["24.18B"]
    assert cells(out, "tokens D", last=True) == ["2.657T"]
    assert cells(out, "of the compute optimum's") == ["95.22%"]
    assert cells(out, "lifetime FLOPs") == ["5.065e+23"]
    assert "\nlifetime optimum: the same loss, and 2T tokens of inference\n" in out


def test_gpu_hours_are_a_budget_and_a_price(puna: Puna) -> None:
    out = puna(
        "plan",
        "size",
        "--gpu-hours",
        82432,
        "--gpu",
        "A100",
        "--mfu",
        0.434,
        "--inference-tokens",
        "1e12",
        "--constants",
        "epoch",
    ).out
    assert cells(out, "training FLOPs") == [f"{82432 * 3600 * 0.434 * 312e12:.4g}"]
    assert cells(out, "training GPU hours") == ["82,432"]
    assert float(cells(out, "training GPU hours", last=True)[0].replace(",", "")) > 82432
    assert "Hours are at 43% of 312 TFLOP/s" in out
    same = puna("plan", "size", "--flops", 1e21, "--gpu", "h200").out
    assert cells(same, "training GPU hours")[0] == f"{1e21 / (0.4 * 989e12 * 3600):,.0f}"


def test_the_two_honest_notes_are_printed(puna: Puna) -> None:
    out = puna("plan", "size", "--flops", "1e21").out
    assert cells(out, "LLaMA-13B on 1T") == ["2.02", "2.00", "2.05", "2.02"]
    assert cells(out, "GPT-3 175B on 300B") == ["2.00", "1.98", "2.01", "1.99"]
    assert "GPT-3 (of 175B parameters; one source says 135B)" in out
    assert "that win is data and recipe" in out


def test_curves_are_drawn_for_every_set_of_constants(puna: Puna, tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    out = puna("plan", "size", "--flops", "1e21", "--plot", path, "--inference-tokens", "1e12").out
    assert f"curves  {path}\n" in out
    drawn = path.read_text(encoding="utf-8")
    for name in LAWS:
        assert f"{name}: equal loss" in drawn
        assert f"{name}: cost of a life at loss" in drawn
    for served in ("0", "1T", "10T"):
        assert len(re.findall(rf">\s*{served} tokens served\s*<", drawn)) == len(LAWS)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give one of --flops, --gpu-hours and --loss"),
        (["--flops", "1e21", "--loss", "2"], 2, "give one of --flops, --gpu-hours and --loss"),
        (["--gpu-hours", "100"], 2, "name it with --gpu"),
        (["--flops", "1e21", "--mfu", "0.4"], 2, "name it with --gpu"),
        (["--flops", "-1e21"], 1, "error: flops is -1e+21, but must be a number above zero"),
        (["--flops", "nan"], 1, "error: flops is nan, but must be a number above zero"),
        (["--flops", "much"], 2, "Invalid value for '--flops'"),
        (
            ["--gpu-hours", "0", "--gpu", "h100"],
            1,
            "error: gpu hours is 0, but must be a number above zero",
        ),
        (
            ["--flops", "1e21", "--gpu", "abacus"],
            1,
            f"error: unknown GPU 'abacus'; the known ones are {', '.join(GPU_PEAKS)}",
        ),
        (
            ["--flops", "1e21", "--gpu", "h100", "--mfu", "40"],
            1,
            "error: mfu is 40, but it is a share of the peak",
        ),
        (
            ["--flops", "1e21", "--constants", "kaplan"],
            1,
            f"error: ... 'kaplan' ... {', '.join(LAWS)}",
        ),
        (
            ["--flops", "1e21", "--inference-tokens", "0"],
            1,
            "error: inference tokens ... 0 ... above zero",
        ),
        (
            ["--loss", "1.8"],
            1,
            "error: epoch: ... 1.8 ... unreachable ... E = 1.81686",
        ),
        (["--loss", "0"], 1, "error: hoffmann: loss ... 0 ... above zero"),
        (["--flops", "1e21", "--plot", "c.png"], 1, "error: c.png ... SVG"),
    ],
)
def test_what_cannot_be_planned(
    arguments: list[str],
    code: int,
    message: str,
    puna: Puna,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = puna("plan", "size", *arguments)
    assert result.code == code
    assert re.search(said(message), re.sub(r"\s*│\s*", " ", result.err))
    assert result.out == ""
    assert not list(tmp_path.iterdir())


def test_help_names_every_set_of_constants_and_teaches_with_examples(puna: Puna) -> None:
    out = puna("plan", "size", "--help").out
    assert all(name in out for name in LAWS)
    assert out.count("puna plan size --") >= 4
