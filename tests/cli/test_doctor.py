"""`puna doctor`: its JSON, its page of 80 columns without names, and its errors."""

import getpass
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.cli.doctor import WIDTH, without_names
from puna.diagnosis import decisions, findings, measurements
from puna.native.library import TIERS, Library

Puna = Callable[..., Any]

KEYS: dict[str, set[str]] = {
    "versions": {"python", "puna", "torch", "numpy", "transformers"},
    "system": {"name", "kernel", "architecture", "libc"},
    "processor": {
        "name",
        "logical_cores",
        "allowed_cores",
        "physical_cores",
        "instructions",
        "caches",
    },
    "control_group": {"cores", "memory"},
    "memory": {"total", "available"},
    "torch": {
        "threads",
        "interop_threads",
        "vector_code",
        "blas",
        "onednn",
        "accelerator",
        "openmp",
    },
    "native": {"chosen", "path", "compiled", "available", "problem"},
    "other_programs": {"cores", "load_average"},
}
OTHERS = {"disk_free", "gpus", "environment", "limits", "decisions", "warnings"}
LIMITS = ["matmul float32", "matmul bfloat16", "matmul int8", "reading"]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of milliseconds: the tests are about what is printed."""
    monkeypatch.setattr(measurements, "measure_matmul_peak", lambda *_, **__: 1.5e9)
    monkeypatch.setattr(measurements, "SECONDS", 1e-3)
    monkeypatch.setattr(measurements, "LEAST_READ", 2**20)
    monkeypatch.setattr(measurements, "MOST_READ", 2**22)
    monkeypatch.setattr(findings, "_WATCHED", 0.0)


def test_the_keys_of_the_json(puna: Puna) -> None:
    result = puna("doctor", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert set(found) == set(KEYS) | OTHERS
    assert {name: set(found[name]) for name in KEYS} == KEYS
    assert [each["name"] for each in found["limits"]] == LIMITS
    for each in found["limits"]:
        assert set(each) == {"name", "unit", "value", "note", "others"}
    assert [each["subject"] for each in found["decisions"]] == [
        "device",
        "precision",
        "isa",
        "threads",
        "serving threads",
    ]
    assert found["limits"][0]["value"] == 1.5e9
    assert found["memory"]["total"] > 2**28
    assert found["disk_free"] > 0


def test_quick_measures_nothing(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(findings, "measure_limits", never)
    assert json.loads(puna("doctor", "--quick", "--json").out)["limits"] is None
    assert "Measured" not in puna("doctor", "--quick").out


def test_only_variables_that_change_the_arithmetic_are_shown(
    puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "123")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("LD_PRELOAD_BUT_BROKEN", os.fsdecode(b"/tmp/\xff.so"))
    result = puna("doctor", "--quick", "--json")
    environment = json.loads(result.out)["environment"]
    assert environment["GOMP_SPINCOUNT"] == "123"
    assert environment["LD_PRELOAD_BUT_BROKEN"] == "/tmp/?.so"
    assert "hunter2" not in result.out


def test_the_page_fits_80_columns_and_says_all(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    """With paths and names that are longer than a line, and a core."""
    library = object.__new__(Library)
    library.tier, library.path = "avx2", Path("/" + "long-" * 40 + "folder/puna_native.so")
    monkeypatch.setattr(decisions, "problem", lambda: None)
    monkeypatch.setattr(decisions, "compiled_tiers", lambda: ("scalar", "avx2", "avx512"))
    monkeypatch.setattr(decisions, "available_tiers", lambda: ("scalar", "avx2"))
    monkeypatch.setattr(decisions, "load", lambda: library)
    monkeypatch.setattr("puna.diagnosis.processor.processor_name", lambda: "Zen " * 40)
    monkeypatch.setenv("OMP_PLACES", "{0,1}," * 30)
    result = puna("doctor")
    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
    assert max(map(len, result.out.splitlines())) <= WIDTH == 80
    lines = [line.strip() for line in result.out.splitlines()]
    for title in ("Versions", "Machine", "PyTorch", "Native core", "Measured limits of cpu"):
        assert title in lines
    rest = result.out.partition("What Puna will use and why")[2]
    assert [line.split()[0] for line in rest.splitlines()[1:6] if line.strip()] == [
        "device",
        "precision",
        "isa",
        "threads",
        "serving",
    ]
    assert "avx2: the fastest tier that this processor runs" in rest
    assert "1.5 GFLOP/s" in result.out


@pytest.mark.parametrize("isa", ["banana", "", "AVX2", "avx1024"])
def test_a_wrong_isa_is_one_clear_error_before_anything_is_measured(
    isa: str, puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "measure_limits", lambda *_: pytest.fail("measured"))
    result = puna("doctor", "--isa", isa)
    assert (result.code, result.out) == (1, "")
    assert re.search(said(f"error: ... {isa!r} ... {TIERS[0]}"), result.err)
    assert result.err.count("\n") == 1


def test_the_choice_of_pytorch(puna: Puna) -> None:
    found = json.loads(puna("doctor", "--quick", "--json", "--isa", "torch").out)
    isa = found["decisions"][2]
    assert (isa["choice"], isa["reason"]) == ("torch", "asked for by --isa")


def test_paths_name_no_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "homes" / "zoë"
    home.mkdir(parents=True)
    (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    monkeypatch.setattr(getpass, "getuser", lambda: "zoë")
    monkeypatch.setattr(sys, "prefix", f"{home}/my env")
    assert without_names(f"{home}/my env/lib/a.so") == "ENV/lib/a.so"
    assert (
        without_names(f"LD_PRELOAD={home}/a.so:{tmp_path}/link/b.so") == "LD_PRELOAD=~/a.so:~/b.so"
    )
    assert without_names(f"{home}") == "~"
    assert without_names("/scratch/zoë/c.so") == "/scratch/USER/c.so"
    assert without_names("/opt/zoëlogy/c.so and zoë") == "/opt/zoëlogy/c.so and zoë"
    assert without_names(f"{home}-2/a") == f"{home}-2/a"


def test_a_user_without_a_name_or_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number: HOME is /, and nothing knows the number."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert without_names("/usr/lib/a.so") == "/usr/lib/a.so"


def test_the_json_names_no_user(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder with a letter beyond ASCII, which JSON spells otherwise."""
    monkeypatch.setenv("HOME", "/home/zoë")
    monkeypatch.setenv("LD_PRELOAD_SHOWN", "/home/zoë/a.so")
    result = puna("doctor", "--quick", "--json")
    assert json.loads(result.out)["environment"]["LD_PRELOAD_SHOWN"] == "~/a.so"


def test_a_pytorch_that_cannot_be_imported_is_one_line(
    puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = puna("doctor")
    assert (result.code, result.out) == (1, "")
    assert "PyTorch cannot be imported" in result.err
    assert "install it again" in result.err
