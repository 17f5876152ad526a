"""Versions, the build of PyTorch, and the OpenMP libraries among the mapped files."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from puna.diagnosis import software
from puna.diagnosis.software import find_torch_build, versions

BUILD = """PyTorch built with:
  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64
  - Intel(R) MKL-DNN v3.12.0 (Git Hash 80afa71)
  - Build settings: BLAS_INFO={blas}, BUILD_TYPE=Release
"""
MAPS = """\
7f00-7f01 r-xp 00000000 08:01 42      /opt/my env/torch/lib/libgomp.so.1
7f01-7f02 r--p 00000000 08:01 42      /opt/my env/torch/lib/libgomp.so.1
7f02-7f03 r-xp 00000000 08:01 43      /usr/lib/libiomp5.so
7f03-7f04 r-xp 00000000 08:01 44      /opt/scikit_learn.libs/libgomp-a34b3233.so.1.0.0
7f04-7f05 r-xp 00000000 08:01 45      /usr/lib/libcomposite.so.1
7f05-7f06 rw-p 00000000 00:00 0
"""


def test_a_library_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "transformers":
            raise PackageNotFoundError(name)
        return f"1 of {name}"

    monkeypatch.setattr(software, "version", version)
    found = versions()
    assert list(found) == ["python", "puna", "torch", "numpy", "transformers"]
    assert (found["numpy"], found["transformers"]) == ("1 of numpy", None)


@pytest.mark.parametrize(("blas", "shown"), [("mkl", "mkl 2024.2"), ("open", "open")])
def test_the_build_names_its_libraries(
    blas: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.__config__, "show", lambda: BUILD.format(blas=blas))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/maps").write_text(MAPS)
    found = find_torch_build(tmp_path)
    assert (found.blas, found.onednn) == (shown, "3.12.0")
    assert found.openmp == (
        "/opt/my env/torch/lib/libgomp.so.1",
        "/usr/lib/libiomp5.so",
        "/opt/scikit_learn.libs/libgomp-a34b3233.so.1.0.0",
    )


def test_a_build_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.__config__, "show", lambda: "")
    found = find_torch_build(tmp_path)
    assert (found.blas, found.onednn, found.openmp) == ("unknown", None, ())
    assert found.threads == torch.get_num_threads()
