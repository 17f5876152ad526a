"""Choices with their reasons, with and without a native core, and the warnings."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from said import said

from puna.diagnosis import decisions
from puna.diagnosis.control_group import ControlGroup
from puna.diagnosis.decisions import Decision, NativeCore, decide, find_native_core, warn
from puna.diagnosis.processor import Processor
from puna.diagnosis.software import TorchBuild
from puna.errors import NativeError
from puna.native.library import Library

CPU = torch.device("cpu")
FREE = ControlGroup(cores=None, memory=None)


def processor(allowed: int = 8) -> Processor:
    return Processor("Made up", 8, allowed, 4, ("avx2",), ())


def build(threads: int = 4, openmp: tuple[str, ...] = (), accelerator: str | None = None) -> Any:
    return TorchBuild(threads, 4, "AVX2", "mkl", None, accelerator, openmp)


def decide_here(isa: str, core: NativeCore, cores: int = 8) -> tuple[Decision, ...]:
    return decide(isa, CPU, core, threads=4, cores=cores, environment={})


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A native core with two tiers."""

    def load(tier: str | None = None) -> Library:
        library = object.__new__(Library)
        library.tier, library.path = tier or "avx2", Path("/opt/puna_native.so")
        return library

    monkeypatch.setattr(decisions, "problem", lambda: None)
    monkeypatch.setattr(decisions, "compiled_tiers", lambda: ("scalar", "avx2", "avx512"))
    monkeypatch.setattr(decisions, "available_tiers", lambda: ("scalar", "avx2"))
    monkeypatch.setattr(decisions, "load", load)


@pytest.fixture
def no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(tier: str | None = None) -> Library:
        raise NativeError("no core: install a compiler")

    monkeypatch.setattr(decisions, "problem", lambda: "no core: install a compiler")
    monkeypatch.setattr(decisions, "compiled_tiers", lambda: ())
    monkeypatch.setattr(decisions, "available_tiers", lambda: ())
    monkeypatch.setattr(decisions, "load", load)


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize(
    ("isa", "device", "chosen", "reason"),
    [
        ("auto", "cpu", "avx2", "the fastest tier that this processor runs"),
        ("scalar", "cpu", "scalar", "asked for by --isa"),
        ("torch", "cpu", "torch", "asked for by --isa"),
        ("scalar", "cuda", "scalar", "asked for by --isa, with train.device=cpu"),
        ("auto", "cuda", "torch", "the native core computes on CPUs, and the device is cuda"),
    ],
)
def test_the_tier(isa: str, device: str, chosen: str, reason: str) -> None:
    found = find_native_core(isa, torch.device(device))
    assert found.compiled == ("scalar", "avx2", "avx512")
    assert found.available == ("scalar", "avx2")
    assert found.path == (None if chosen == "torch" else "/opt/puna_native.so")
    decided = {each.subject: each for each in decide_here(isa, found)}
    if device == "cpu":
        assert (decided["isa"].choice, decided["isa"].reason) == (chosen, reason)
    else:
        assert decisions._isa_reason(isa, torch.device(device), found) == reason


@pytest.mark.usefixtures("no_core")
def test_without_a_core_pytorch_works_and_the_remedy_is_said() -> None:
    found = find_native_core("auto", CPU)
    assert (found.chosen, found.compiled, found.available) == (None, (), ())
    decided = {each.subject: each for each in decide_here("auto", found)}
    assert (decided["isa"].choice, decided["isa"].reason) == (
        "torch",
        "no core: install a compiler",
    )
    with pytest.raises(NativeError, match="install a compiler"):
        find_native_core("avx2", CPU)


@pytest.mark.usefixtures("no_core")
@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_device_precision_and_threads(has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.device.has_bfloat16_arithmetic", lambda _: has_bfloat16)
    core = find_native_core("auto", CPU)
    settings = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "", "GOMP_SPINCOUNT": "5"}
    device, precision, _, threads, serving = decide(
        "auto", CPU, core, threads=3, cores=8, environment=settings
    )
    assert (device.choice, device.reason) == ("cpu", "PyTorch finds no GPU")
    assert precision.choice == ("bfloat16" if has_bfloat16 else "float32")
    assert ("emulation" in precision.reason) is not has_bfloat16
    assert (threads.choice, threads.reason) == ("3", "OMP_NUM_THREADS=3 in the environment")
    assert serving.choice == "3"
    own, serving = decide_here("auto", core, cores=2)[3:]
    assert (own.choice, own.reason) == ("4", "PyTorch's own choice")
    assert serving.choice == "1"


@pytest.mark.parametrize(
    ("allowed", "group", "threads", "remedy"),
    [
        (8, FREE, 8, None),
        (8, ControlGroup(2.0, None), 8, "8 threads on 2 cores ... OMP_NUM_THREADS=2"),
        (8, ControlGroup(1.5, None), 2, None),
        (8, ControlGroup(0.5, None), 4, "4 threads on 0.5 cores ... OMP_NUM_THREADS=1"),
        (2, FREE, 4, "4 threads on 2 cores ... OMP_NUM_THREADS=2"),
        (2, ControlGroup(16.0, None), 2, None),
    ],
)
def test_more_threads_than_cores(
    allowed: int, group: ControlGroup, threads: int, remedy: str | None, tmp_path: Path
) -> None:
    """PyTorch asks for the cores of the machine, not of its container."""
    found = warn(processor(allowed), group, build(threads), None, tmp_path)
    assert len(found) == (remedy is not None)
    if remedy:
        assert re.search(said(remedy), found[0])


def test_two_openmp_libraries_and_two_names_of_one(tmp_path: Path) -> None:
    one, other, link = tmp_path / "libgomp.so.1", tmp_path / "libiomp5.so", tmp_path / "libgomp.so"
    one.touch()
    other.touch()
    link.symlink_to(one)
    assert not warn(processor(), FREE, build(openmp=(str(one), str(link))), None, tmp_path)
    (said_,) = warn(processor(), FREE, build(openmp=(str(one), str(other))), None, tmp_path)
    assert "2 OpenMP libraries" in said_


@pytest.mark.parametrize(
    ("accelerator", "remedy"),
    [(None, "install one for CUDA"), ("CUDA 13.0", "built for CUDA 13.0): see nvidia-smi")],
)
def test_a_gpu_that_pytorch_does_not_find(
    accelerator: str | None, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").touch()
    (said_,) = warn(processor(), FREE, build(accelerator=accelerator), None, tmp_path)
    assert remedy in said_
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not warn(processor(), FREE, build(accelerator=accelerator), None, tmp_path)


@pytest.mark.parametrize(("others", "is_busy"), [(None, False), (0.4, False), (1.5, True)])
def test_a_busy_machine(others: float | None, is_busy: bool, tmp_path: Path) -> None:
    found = warn(processor(), FREE, build(), others, tmp_path)
    assert bool(found) is is_busy
    assert not found or "1.5 of 8 cores" in found[0]
