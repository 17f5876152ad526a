"""Every kind of source gives the same texts in the same order; damage is an error that names it."""

import gzip
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from puna.data import file_formats
from puna.data.left_out import LeftOut
from puna.data.reading import PIECE_CHARACTERS, Reading
from puna.data.sources import PYTHON_STDLIB, find_sources, read_documents, read_texts
from puna.errors import DataError

TEXTS = ["one\r\nline", "zwei Zeilen\nhier", "трёх", "四 🦙"]


def json_lines(texts: list[str], field: str = "text") -> bytes:
    return b"".join(
        json.dumps({"id": n, field: text}).encode() + b"\n" for n, text in enumerate(texts)
    )


def write_dataset(folder: Path, texts: list[str], files: int = 2) -> Path:
    """The folder that `datasets.save_to_disk` writes, by its documented layout."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{files:05d}.arrow" for n in range(files)]
    share = -(-len(texts) // files)
    for n, name in enumerate(names):
        table = pa.table({"id": list(range(share)), "text": texts[n * share : (n + 1) * share]})
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table, max_chunksize=1)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0",
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def write_dataset_dict(folder: Path, texts: list[str]) -> Path:
    write_dataset(folder / "test", ["kept for measuring"], files=1)
    write_dataset(folder / "train", texts)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["test", "train"]}))
    return folder


def write_files(folder: Path, texts: list[str]) -> Path:
    for number, text in enumerate(texts):
        path = folder / f"{number // 2}" / f"{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder


def write_parquet(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), path, row_group_size=2)
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


KINDS: dict[str, Callable[[Path], object]] = {
    "folder": lambda at: write_files(at / "a", TEXTS),
    "glob": lambda at: write_files(at / "a", TEXTS) / "**" / "*.m[d]",
    "jsonl": lambda at: write_bytes(at / "a.jsonl", json_lines(TEXTS)),
    "jsonl without a last line end": lambda at: write_bytes(at / "a.jsonl", json_lines(TEXTS)[:-1]),
    "jsonl.gz": lambda at: write_bytes(at / "a.jsonl.gz", gzip.compress(json_lines(TEXTS))),
    "gz of two members": lambda at: write_bytes(
        at / "a.jsonl.gz",
        gzip.compress(json_lines(TEXTS[:1])) + gzip.compress(json_lines(TEXTS[1:])),
    ),
    "jsonl.zst": lambda at: write_bytes(at / "a.jsonl.zst", zstandard.compress(json_lines(TEXTS))),
    "parquet": lambda at: write_parquet(at / "a.parquet", TEXTS),
    "dataset": lambda at: write_dataset(at / "a", TEXTS),
    "dataset with splits": lambda at: write_dataset_dict(at / "a", TEXTS),
    "one split": lambda at: write_dataset_dict(at / "a", TEXTS) / "train",
    "arrow": lambda at: write_dataset(at / "a", TEXTS, files=1) / "data-00000-of-00001.arrow",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_texts(kind: str, tmp_path: Path) -> None:
    assert list(read_texts([str(KINDS[kind](tmp_path))])) == TEXTS


@pytest.mark.parametrize(
    ("name", "pack"), [("a.txt", bytes), ("a.txt.gz", gzip.compress), ("a.zst", zstandard.compress)]
)
def test_a_plain_file_is_one_text(
    name: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = write_bytes(tmp_path / name, pack("eins\r\n\r\nzwei 🦙".encode()))
    assert list(read_texts([str(path)])) == ["eins\r\n\r\nzwei 🦙"]


def test_positions_end_at_the_sources_sizes(tmp_path: Path) -> None:
    for kind, make in KINDS.items():
        folder = tmp_path / kind
        folder.mkdir()
        found = find_sources([str(make(folder))] * 2)
        positions = [document.position for document in read_documents(found)]
        assert positions == sorted(positions)
        assert 0.9 * positions[-1] <= found[0].size * 2 <= 1.2 * positions[-1] + 16, kind


def test_the_order_is_that_of_names_and_sources(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "10.txt", "9.txt", "c/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(read_texts([str(tmp_path)])) == ["10.txt", "9.txt", "a.txt", "b.txt", "c/a.txt"]
    assert list(read_texts([str(tmp_path / "b.txt"), str(tmp_path / "a.txt")])) == [
        "b.txt",
        "a.txt",
    ]


def test_what_is_not_text_is_skipped_and_counted(tmp_path: Path) -> None:
    contents = {
        "empty.txt": b"",
        "blank.txt": b" \n\t",
        "latin1.txt": "Müller".encode("latin-1"),
        "late.txt": b"x" * (PIECE_CHARACTERS + 10) + b"\xff",
        "image.png": b"\x89PNG\r\n\x1a\n\0\0\0",
        "utf16.txt": "text".encode("utf-16"),
        ".hidden": b"hidden",
        "good.txt": b"good",
        "marked.txt": b"\xef\xbb\xbfafter a byte order mark",
        "rows.jsonl": b'{"text": null}\n\n{"text": "\\ud800"}\n{"text": "row"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.txt").write_text("cache")
    left_out = LeftOut()
    documents = read_documents(find_sources([str(tmp_path)]), left_out=left_out)
    assert [document.text for document in documents] == ["good", "after a byte order mark", "row"]
    assert {kind: count for kind, count in left_out.counts.items() if count} == {
        "not_utf8": 4,
        "binary": 1,
        "empty": 3,
    }


@given(st.lists(st.text(max_size=30), max_size=12))
def test_pieces_of_a_long_file_join_to_its_text(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    text = "start " + "\n".join(parts).replace("\0", "")
    path = tmp_path_factory.getbasetemp() / "pieces.txt"
    path.write_bytes(text.encode())
    rows = list(file_formats.read_file(path, Reading(piece_characters=16), LeftOut()))
    assert "".join(row.text for row in rows) == text
    assert all(len(row.text) <= 16 for row in rows)


def test_a_long_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraph = "word " * 2000 + "\n"
    path = write_bytes(tmp_path / "book.txt", ((paragraph * 3 + "\n") * 60).encode())
    texts = list(read_texts([str(path)]))
    assert len(texts) > 1
    assert all(text.endswith("\n\n") for text in texts)


def test_max_bytes_ends_with_the_text_that_reaches_it(tmp_path: Path) -> None:
    folder = str(write_files(tmp_path / "a", ["aaaa", "üü", "cccc"]))
    assert [list(read_texts([folder], max_bytes=n)) for n in (1, 4, 5, 8)] == [
        ["aaaa"],
        ["aaaa"],
        ["aaaa", "üü"],
        ["aaaa", "üü"],
    ]


def test_the_standard_library_is_a_source() -> None:
    (source,) = find_sources([PYTHON_STDLIB])
    names = {str(file.path.relative_to(source.root)) for file in source.files}
    assert {"argparse.py", str(Path("json", "decoder.py"))} <= names
    assert not [name for name in names if "test" in Path(name).parts or "site-packages" in name]
    assert source.size > 5_000_000


def test_memory_is_flat_in_the_length_of_a_file(tmp_path: Path) -> None:
    path = write_bytes(
        tmp_path / "a.jsonl.gz", gzip.compress(json_lines(["x" * 10_000] * 2_000), 1)
    )
    next(read_texts([str(path)]))
    tracemalloc.start()
    assert sum(1 for _ in read_texts([str(path)])) == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000  # of 20 MB of text


def test_a_changed_file_changes_the_fingerprint_and_a_moved_corpus_does_not(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "a", TEXTS)
    before = find_sources([str(folder)])[0].fingerprint
    assert find_sources([f"{folder}/."])[0].fingerprint == before
    folder.rename(tmp_path / "b")
    assert find_sources([str(tmp_path / "b")])[0].fingerprint == before
    os.utime(tmp_path / "b" / "0" / "1.md", ns=(1, 1))
    assert find_sources([str(tmp_path / "b")])[0].fingerprint != before


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda at: at / "nothing", r"nothing is neither a file, a folder nor a glob"),
    "glob without a match": (lambda at: at / "*.txt", r"\*\.txt is neither"),
    "empty folder": (lambda at: at, "holds no files"),
    "only binary": (
        lambda at: write_bytes(at / "a.bin", b"\0\1"),
        "gives no text in its 1 files; leave it out",
    ),
    "not JSON": (
        lambda at: write_bytes(at / "a.jsonl", b'{"text": "a"\n{"text": \n'),
        r"a\.jsonl line 2 is not valid JSON",
    ),
    "not UTF-8 in JSON": (
        lambda at: write_bytes(at / "a.jsonl", b'{"text": "\xff"}\n'),
        "line 1",
    ),
    "JSON array": (lambda at: write_bytes(at / "a.jsonl", b"[1]\n"), "line 1 holds a list"),
    "no field": (
        lambda at: write_bytes(at / "a.jsonl", json_lines(["a"], "body")),
        r"line 1 has no field 'text', only",
    ),
    "number for text": (
        lambda at: write_bytes(at / "a.jsonl", b'{"text": 7}\n'),
        "line 1 has a value of type int in 'text'",
    ),
    "truncated gzip": (
        lambda at: write_bytes(at / "a.jsonl.gz", gzip.compress(json_lines(TEXTS))[:-12]),
        r"a\.jsonl\.gz cannot be read: Compressed file ended before",
    ),
    "truncated zstd": (
        lambda at: write_bytes(at / "a.jsonl.zst", zstandard.compress(json_lines(TEXTS * 9))[:-12]),
        r"a\.jsonl\.zst cannot be read: Truncated",
    ),
    "no gzip": (lambda at: write_bytes(at / "a.txt.gz", b"plain"), r"a\.txt\.gz cannot be read"),
    "no parquet": (
        lambda at: write_bytes(at / "a.parquet", b"PAR1 not PAR1"),
        r"a\.parquet cannot be read",
    ),
    "truncated parquet": (
        lambda at: write_bytes(
            at / "b.parquet", write_parquet(at / "a.parquet", TEXTS).read_bytes()[:-9]
        ),
        r"b\.parquet cannot be read",
    ),
    "no column": (
        lambda at: pq.write_table(pa.table({"body": ["a"]}), at / "a.parquet") or at,
        r"a\.parquet .*'text'.*\['body'\]",
    ),
    "column of numbers": (
        lambda at: pq.write_table(pa.table({"text": [1]}), at / "a.parquet") or at,
        r"a\.parquet row 1 .*int",
    ),
    "missing arrow file": (
        lambda at: (
            (write_dataset(at / "a", TEXTS) / "data-00001-of-00002.arrow").unlink() or at / "a"
        ),
        r"data-00001-of-00002\.arrow",
    ),
    "damaged state": (
        lambda at: write_bytes(write_dataset(at / "a", TEXTS) / "state.json", b"{}").parent,
        r"state\.json .*dataset folder",
    ),
    "splits without train": (
        lambda at: (
            write_bytes(
                write_dataset_dict(at / "a", TEXTS) / "dataset_dict.json", b'{"splits": ["x", "y"]}'
            ).parent
        ),
        "`train`.* folder .*x, y",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_are_rejected_with_their_position(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    source = str(make(tmp_path))
    with pytest.raises(DataError, match=message):
        list(read_texts([source]))


def test_no_source_at_all_is_rejected() -> None:
    with pytest.raises(DataError, match="no source"):
        read_texts([])


def test_a_missing_source_is_rejected_before_the_first_is_read(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.txt", b"text")
    with pytest.raises(DataError, match=re.escape("missing.txt")):
        read_texts([str(path), str(tmp_path / "missing.txt")])
