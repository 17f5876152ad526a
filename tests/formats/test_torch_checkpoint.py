"""Checkpoints of torch.save that are hostile or damaged: one error each, nothing run, nothing
large allocated.
"""

import contextlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from said import said

from puna.errors import ModelFolderError
from puna.formats.torch_checkpoint import MAX_PICKLE_BYTES, read_checkpoint, state_dict


class Command:
    """What a hostile pickle asks for: a call when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def valid() -> bytes:
    file = io.BytesIO()
    torch.save({"a.weight": torch.arange(12.0).view(3, 4), "b": torch.ones(5).half()}, file)
    return file.getvalue()


VALID = valid()


def test_tensors_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(VALID)
    found = state_dict(read_checkpoint(tmp_path / "a.pt"), tmp_path)
    assert torch.equal(found["a.weight"], torch.arange(12.0).view(3, 4))
    assert torch.equal(found["b"], torch.ones(5).half())


@pytest.mark.parametrize("bare", [False, True])
def test_a_pickle_that_runs_code_is_refused_unrun(bare: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    if bare:
        path.write_bytes(pickle.dumps(Command(mark), protocol=2))
    else:
        torch.save({"a": torch.zeros(1), "b": Command(mark)}, path)
    with pytest.raises(ModelFolderError, match=said("pickle ... torch.save(state_dict)")) as caught:
        read_checkpoint(path)
    assert bare or "system" in str(caught.value)
    assert not mark.exists()


def rewritten(
    change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """The valid archive with other contents."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(VALID)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def test_a_packed_archive_is_refused_unpacked(tmp_path: Path) -> None:
    """A gigabyte of zeros packs into a megabyte."""
    packed = rewritten(
        lambda name, data: bytes(1 << 24) if name.endswith("data.pkl") else data,
        zipfile.ZIP_DEFLATED,
    )
    (tmp_path / "a.pt").write_bytes(packed)
    with pytest.raises(ModelFolderError, match=said("stored once and unpacked")):
        read_checkpoint(tmp_path / "a.pt")


def test_a_pickle_beyond_all_models_is_refused(tmp_path: Path) -> None:
    large = rewritten(
        lambda name, data: bytes(MAX_PICKLE_BYTES + 1) if name.endswith("data.pkl") else data
    )
    (tmp_path / "a.pt").write_bytes(large)
    with pytest.raises(ModelFolderError, match=said("4,194,305 bytes ... 4,194,304")):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # numel of a storage, 12, as 2^31 - 1; and a shape of 3 x 4 as 255 x 255
        (b"K\x0ct", b"J\xff\xff\xff\x7ft"),
        (b"K\x03K\x04\x86", b"K\xffK\xff\x86"),
    ],
)
def test_a_tensor_larger_than_its_bytes_is_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("data.pkl"):
            assert old in data
            return data.replace(old, new)
        return data

    (tmp_path / "a.pt").write_bytes(rewritten(change))
    with pytest.raises(ModelFolderError, match=r"a\.pt"):
        read_checkpoint(tmp_path / "a.pt")


def test_views_that_multiply_one_storage_are_refused(tmp_path: Path) -> None:
    """Strides of 0 make a matrix of any size from one number; many names of one storage too."""
    one = torch.zeros(1)
    torch.save({"a": one.expand(1 << 15, 1 << 15)}, tmp_path / "a.pt")
    with pytest.raises(ModelFolderError, match=said("claims 4,294,967,296 bytes")):
        read_checkpoint(tmp_path / "a.pt")
    many = torch.zeros(100_000)
    torch.save({str(n): many.view(1, -1) for n in range(20)}, tmp_path / "a.pt")
    with pytest.raises(ModelFolderError, match=said("tensors claim 8,000,000 bytes")):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "no named tensors, but list"),
        ({}, "no named tensors"),
        ({"a": 1}, "'a' of type int"),
        ({"a": torch.zeros(2, dtype=torch.int8)}, "torch.int8 ... not quantized"),
    ],
)
def test_a_value_that_holds_no_weights_is_refused(value: Any, message: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(ModelFolderError, match=said(message)):
        state_dict(read_checkpoint(tmp_path / "a.pt"), tmp_path)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut, flipped, or with bytes put in: the value or a ModelFolderError, nothing else."""
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del content[at:]
                content += b"\0"
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    path.write_bytes(content)
    with contextlib.suppress(ModelFolderError):
        state_dict(read_checkpoint(path), path)
