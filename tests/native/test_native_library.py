"""The choice among the core's shared objects, and objects that are of no use: one error each, with
value, rule and remedy, and PyTorch does the work.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from said import said

from puna.errors import NativeError
from puna.native import library
from puna.native.library import (
    TIERS,
    VERSION,
    available_tiers,
    compiled_tiers,
    load,
    passed_over,
    problem,
)

HERE = available_tiers()
built = pytest.mark.skipif(not HERE, reason="the native core is not built")
compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the package's."""
    monkeypatch.setattr(library, "_path", lambda tier: tmp_path / f"puna_{tier}.so")
    return tmp_path


def make_object(path: Path, source: str) -> None:
    file = path.with_suffix(".c")
    file.write_text(source, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", file, "-o", path], check=True, timeout=60)


def core(version: int = VERSION, runs: str = "1") -> str:
    return f"int puna_version(void) {{return {version};}} int puna_runs(char* t) {{return {runs};}}"


@built
def test_the_fastest_is_taken_where_none_is_named() -> None:
    tiers = available_tiers()
    assert load().tier == tiers[-1]
    assert list(tiers) == sorted(tiers, key=TIERS.index)
    assert set(tiers) <= set(compiled_tiers())
    assert problem() is None
    for tier in tiers:
        found = load(tier)
        assert (found.tier, found.path.name) == (tier, f"puna_{tier}.so")


@built
def test_the_processor_decides_what_it_runs() -> None:
    """The flags that the kernel lists are an independent account."""
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        pytest.skip("the flags are those of x86 on Linux")
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    avx512 = {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
    needs = {
        "scalar": set(),
        "avx2": {"avx2", "fma"},
        "avx512": avx512,
        "avx512_bf16": {*avx512, "avx512_bf16"},
        "amx": {*avx512, "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
    }
    assert available_tiers() == tuple(t for t in compiled_tiers() if needs[t] <= flags)


@pytest.mark.parametrize("tier", ["avx3", "", "AVX2", "../avx2"])
def test_a_tier_that_is_not_known(tier: str) -> None:
    with pytest.raises(NativeError, match=said(f"{tier!r} ... say scalar, avx2")):
        load(tier)


def test_no_object_at_all(folder: Path) -> None:
    assert (compiled_tiers(), available_tiers()) == ((), ())
    for tier in (None, "scalar"):
        with pytest.raises(NativeError, match=said("not built ... C++ compiler ... install")):
            load(tier)
    assert problem() is not None


@compiler
def test_an_object_of_another_version(folder: Path) -> None:
    make_object(folder / "puna_scalar.so", core(version=VERSION + 1))
    message = f"puna_scalar.so ... version {VERSION + 1} ... not {VERSION} ... install"
    with pytest.raises(NativeError, match=said(message)):
        load()
    assert available_tiers() == ()


@compiler
def test_an_object_of_another_library(folder: Path) -> None:
    make_object(folder / "puna_avx2.so", "int other(void) {return 1;}")
    with pytest.raises(NativeError, match=said("puna_avx2.so ... puna_version ... install")):
        load()


@compiler
def test_an_object_without_its_functions(folder: Path) -> None:
    make_object(folder / "puna_avx2.so", f"int puna_version(void) {{return {VERSION};}}")
    with pytest.raises(NativeError, match=said("puna_avx2.so ... puna_runs ... install")):
        load()
    make_object(folder / "puna_scalar.so", core())
    with pytest.raises(NativeError, match=said("puna_scalar.so ... puna_scalar_norm ... install")):
        load("scalar").function("norm")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"MZ" + bytes(100), b"\x7fELF" + bytes(4096)])
def test_a_file_that_is_no_object(folder: Path, content: bytes) -> None:
    """Cut off by a full disk, or of another processor."""
    (folder / "puna_scalar.so").write_bytes(content)
    with pytest.raises(NativeError, match=said("puna_scalar.so cannot be loaded ... install")):
        load()
    assert available_tiers() == ()
    assert "cannot be loaded" in (problem() or "")


@compiler
def test_a_tier_that_this_processor_does_not_run(folder: Path) -> None:
    runs = "t[0] == 's'"  # scalar
    for tier in ("scalar", "avx512"):
        make_object(folder / f"puna_{tier}.so", core(runs=runs))
    assert (compiled_tiers(), available_tiers()) == (("scalar", "avx512"), ("scalar",))
    assert load().tier == "scalar"
    with pytest.raises(NativeError, match=said("avx512 ... processor does not run ... scalar")):
        load("avx512")
    with pytest.raises(NativeError, match=said("neon ... not built ... say scalar")):
        load("neon")


@compiler
def test_no_tier_that_this_processor_runs(folder: Path) -> None:
    """As where the folder was copied from another machine."""
    make_object(folder / "puna_avx512.so", core(runs="0"))
    assert available_tiers() == ()
    for tier in (None, "avx512"):
        with pytest.raises(NativeError, match=said("processor ... install")):
            load(tier)
    assert problem() is not None


@pytest.fixture
def copied(folder: Path) -> Path:
    """The folder with a copy of each object that runs here, none of them loaded from there."""
    for tier in HERE:
        shutil.copy(Path(library.__file__).with_name(f"puna_{tier}.so"), folder)
    return folder


several = pytest.mark.skipif(len(HERE) < 2, reason="without the fastest no tier would be left")


@several
@pytest.mark.parametrize("left", [0, 1, 63, 64, 5_000, -5_000, -1])
def test_the_next_tier_is_taken_where_the_fastest_is_cut_off(copied: Path, left: int) -> None:
    """One damaged object made the whole core unusable, and one that ends within its pages ended
    the process.
    """
    damaged = copied / f"puna_{HERE[-1]}.so"
    damaged.write_bytes(damaged.read_bytes()[:left])
    assert available_tiers() == HERE[:-1]
    assert load().tier == HERE[-2]
    assert problem() is None
    (sentence,) = passed_over()
    assert re.search(said(f"puna_{HERE[-1]}.so cannot be loaded ... install"), sentence)
    with pytest.raises(NativeError, match=said(f"puna_{HERE[-1]}.so ... cannot be loaded")):
        load(HERE[-1])


@several
@compiler
def test_the_next_tier_is_taken_where_the_fastest_is_of_another_version(copied: Path) -> None:
    make_object(copied / f"puna_{HERE[-1]}.so", core(version=VERSION + 1))
    assert (load().tier, available_tiers()) == (HERE[-2], HERE[:-1])
    assert re.search(said(f"version {VERSION + 1} ... not {VERSION}"), passed_over()[0])
    with pytest.raises(NativeError, match=said(f"puna_{HERE[-1]}.so ... version {VERSION + 1}")):
        load(HERE[-1])
