"""Files inside tar and zip are read as files of a folder are."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_back import read_back


def parquet(text: str) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.table({"text": [text]}), written)
    return written.getvalue()


MEMBERS = {
    "z/first.txt": b"first",
    "a/.hidden": b"hidden",
    "__MACOSX/a.txt": b"fork",
    "a/packed.txt.gz": gzip.compress(b"packed"),
    "rows.jsonl": b'{"text": "row 1"}\n{"text": \n{"text": "row 3"}\n',
    "table.parquet": parquet("column"),
    "image.png": b"\x89PNG\0",
    "inner.zip": b"PK",
    "umlaut.txt": "Die Bücher über größere Häuser gehören dem Schüler. ".encode("latin-1") * 9,
}
TEXTS = ["first", "packed", "row 1", "row 3", "column"]


def write_tar(path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in MEMBERS.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def write_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.tar", "w"),
        ("a.tar.gz", "w:gz"),
        ("a.tgz", "w:gz"),
        ("a.tbz2", "w:bz2"),
        ("a.txz", "w:xz"),
    ],
)
def test_tar(name: str, mode: str, tmp_path: Path) -> None:
    texts, report = read_back(write_tar(tmp_path / name, mode))
    assert texts == TEXTS
    encoding, binary, damaged, links = report
    assert encoding == f"not UTF-8: {name} umlaut.txt (likely cp1252)"
    assert binary == f"binary: {name} image.png"
    assert f"{name} rows.jsonl line 2 is not valid JSON" in damaged
    assert f"{name} inner.zip is an archive too; unpack it first" in damaged
    assert links == f"links not followed: {name} link.txt"


def test_zip(tmp_path: Path) -> None:
    texts, report = read_back(write_zip(tmp_path / "a.zip"))
    assert texts == TEXTS
    assert len(report) == 3


def test_endings_choose_among_the_members(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    assert read_back(path, include=(".txt",), exclude=("umlaut.txt",)) == (["first", "packed"], [])


def test_an_archive_that_breaks_off_gives_the_files_before(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    whole = write_tar(tmp_path / "whole.tar", "w")
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:1200])
    whole.unlink()
    (tmp_path / "cut.zip").write_bytes(write_zip(tmp_path / "b.zip").read_bytes()[:-20])
    (tmp_path / "b.zip").unlink()
    texts, report = read_back(tmp_path)
    assert texts == ["good", "first"]
    assert report[0].startswith("damaged: cut.tar cannot be read: ")
    assert "cut.zip cannot be read: File is not a zip file" in report[0]
