"""The container: equal to the `gguf` package's own reader, and one error for every fault."""

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_examples import container, entry, row, text, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from said import said

from puna.errors import ModelFolderError
from puna.formats.gguf_file import GGUFFile

HUGE = 1 << 60


def test_values_and_tensors_are_those_of_the_formats_own_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -5)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -300)
    writer.add_uint32("u32", 1 << 31)
    writer.add_int32("i32", -70_000)
    writer.add_uint64("u64", 1 << 63)
    writer.add_int64("i64", -(1 << 40))
    writer.add_float32("f32", 1e-5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("b", True)
    writer.add_string("s", "naïve 🦙")
    writer.add_array("words", ["a", "", "東京"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("fractions", [0.5, 0.25])
    values = {
        "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b.weight": np.arange(5, dtype=np.float16),
        "c.weight": np.arange(6, dtype=np.int32).reshape(1, 2, 3),
    }
    for name, array in values.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ours, theirs = GGUFFile(path), GGUFReader(path)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            found, wanted = ours.metadata[key], field.contents()
            if isinstance(found, np.ndarray):
                assert found.tolist() == wanted
            else:
                assert np.float32(found) == wanted if key == "f32" else found == wanted
                assert type(found) is type(wanted)
    assert ours.metadata["f32"] == 1e-5  # not 9.999999747378752e-06
    assert set(ours.tensors) == set(values)
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == values[tensor.name].shape
        assert mine.type == tensor.tensor_type
        assert (mine.start, mine.num_bytes) == (tensor.data_offset, tensor.n_bytes)
        assert ours.raw(mine).tobytes() == values[tensor.name].tobytes()


FLOATS = struct.pack("<4f", 1, 2, 3, 4)
FAULTS = {
    "no such letters": (b"GGUX" + bytes(40), "GGUF ... again"),
    "empty": (b"", "cannot be read"),
    "version 1": (container(version=1), "version 1 ... 2 and 3 ... llama.cpp"),
    "version 4": (container(version=4), "version 4"),
    "big endian": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big endian ... llama.cpp"),
    "2^60 tensors": (container(counts=(HUGE, 0)), f"{HUGE} tensors ... again"),
    "2^60 entries": (container(counts=(0, HUGE)), f"{HUGE} entries"),
    "2^60 bytes in a name": (container(entries=(struct.pack("<Q", HUGE),)), f"text of {HUGE}"),
    "2^60 bytes in a text": (
        container(entries=(entry("k", 8, struct.pack("<Q", HUGE)),)),
        f"text of {HUGE}",
    ),
    "a text that passes the end": (
        container(entries=(entry("k", 8, struct.pack("<Q", 100)),)),
        "100 more bytes",
    ),
    "2^60 numbers": (
        container(entries=(entry("k", 9, struct.pack("<IQ", 0, HUGE)),)),
        f"{HUGE} more bytes",
    ),
    "2^60 strings": (
        container(entries=(entry("k", 9, struct.pack("<IQ", 8, HUGE)),)),
        f"{HUGE} strings",
    ),
    "an array in an array": (
        container(entries=(entry("k", 9, struct.pack("<IQIQ", 9, 1, 0, 0)),)),
        "unknown type 9",
    ),
    "an unknown type": (container(entries=(entry("k", 77, b""),)), "unknown type 77"),
    "no truth value": (container(entries=(entry("k", 7, b"\x02"),)), "truth value"),
    "no UTF-8": (
        container(entries=(entry("k", 8, struct.pack("<Q", 2) + b"\xff\xfe"),)),
        "UTF-8",
    ),
    "a key twice": (container(entries=(entry("k", 0, b"a"), entry("k", 0, b"b"))), "'k' stands"),
    "one of three parts": (
        container(entries=(entry("split.count", 2, struct.pack("<H", 3)),)),
        "one of 3 parts ... llama-gguf-split --merge",
    ),
    "an alignment of 3": (
        container(entries=(entry("general.alignment", 4, struct.pack("<I", 3)),)),
        "general.alignment is 3",
    ),
    "an alignment in words": (
        container(entries=(entry("general.alignment", 8, text("32")),)),
        "general.alignment ... int",
    ),
    "a tensor twice": (
        container(rows=(row("t", (4,)), row("t", (4,), start=32)), data=FLOATS * 4),
        "'t' stands twice",
    ),
    "no dimensions": (container(rows=(row("t", ()),)), "0 dimensions"),
    "five dimensions": (container(rows=(row("t", (1,) * 5),)), "5 dimensions"),
    "a dimension of 0": (container(rows=(row("t", (4, 0)),)), "shape [0, 4]"),
    "2^60 rows": (container(rows=(row("t", (4, HUGE)),), data=FLOATS), "ends at byte"),
    "2^240 values": (container(rows=(row("t", (HUGE,) * 4),), data=FLOATS), "ends at byte"),
    "an unknown block": (container(rows=(row("t", (4,), kind=999),)), "unknown type 999"),
    "half a block": (container(rows=(row("t", (33,), kind=2),)), "multiple of 32"),
    "beyond the end": (container(rows=(row("t", (4,), start=HUGE),), data=FLOATS), "ends at byte"),
    "not aligned": (container(rows=(row("t", (4,), start=8),), data=FLOATS * 2), "multiple of 32"),
    "an overlap": (
        container(rows=(row("t", (12,)), row("u", (4,), start=32)), data=FLOATS * 4),
        "'u' overlaps",
    ),
}


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ModelFolderError, match=said(message)):
        GGUFFile(written(tmp_path / "x.gguf", content))


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(ModelFolderError, match="cannot be read"):
            GGUFFile(path)


WHOLE = container(
    entries=(
        entry("s", 8, text("value")),
        entry("a", 9, struct.pack("<IQ", 8, 2) + text("one") + text("two")),
        entry("n", 9, struct.pack("<IQ3i", 5, 3, 1, 2, 3)),
    ),
    rows=(row("t", (2, 2)), row("u", (32,), kind=8, start=32)),
    data=FLOATS + bytes(16) + bytes(34),
)


def test_a_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    assert GGUFFile(written(path, WHOLE)).metadata["a"] == ["one", "two"]
    for length in range(len(WHOLE)):
        with pytest.raises(ModelFolderError):
            GGUFFile(written(path, WHOLE[:length]))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_bytes_is_more_than_an_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 9))
        match data.draw(st.sampled_from(["flip", "number", "insert", "cut"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "number":
                number = data.draw(st.sampled_from([0, 1, 1 << 31, 1 << 32, HUGE, (1 << 64) - 1]))
                content[at : at + 8] = struct.pack("<Q", number)
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case _:
                del content[at : at + data.draw(st.integers(1, 9))]
        if len(content) < 10:
            break
    try:
        file = GGUFFile(written(tmp_path / "x.gguf", bytes(content)))
    except ModelFolderError:
        return
    for tensor in file.tensors.values():
        assert file.raw(tensor).size == tensor.num_bytes
