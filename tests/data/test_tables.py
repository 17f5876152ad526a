"""Tables: every format gives the same rows, and a bad row does not end the rows after it."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from read_back import read_back

ROWS = ["one, with a comma", 'two "quoted"\nlines', "drei für zwei", "x" * 200_000]
OBJECTS = [{"id": number, "text": text} for number, text in enumerate(ROWS)]
CELLS = ['"' + text.replace('"', '""') + '"' for text in ROWS]
TABLE = pa.table({"id": [0, 1, 2, 3], "text": ROWS})


def stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, TABLE.schema) as writer:
        writer.write_table(TABLE)


FORMATS: dict[str, Callable[[Path], object]] = {
    "a.csv": lambda at: at.write_text("id,text\n" + "".join(f"1,{cell}\n" for cell in CELLS)),
    "bom.csv": lambda at: at.write_text("\ufefftext\r\n" + "\r\n".join(CELLS), newline=""),
    "a.tsv": lambda at: at.write_text("id\ttext\n" + "".join(f"1\t{cell}\n" for cell in CELLS)),
    "semicolons.csv": lambda at: at.write_text(
        "id;text\n" + "".join(f"1;{cell}\n" for cell in CELLS)
    ),
    "bars.csv": lambda at: at.write_text("id|text\n" + "".join(f"1|{cell}\n" for cell in CELLS)),
    "array.json": lambda at: at.write_text(json.dumps(OBJECTS)),
    "pretty.json": lambda at: at.write_text("\ufeff \n" + json.dumps(OBJECTS, indent=2) + "\n"),
    "lines.json": lambda at: at.write_text("\n".join(map(json.dumps, OBJECTS))),
    "a.feather": lambda at: pyarrow.feather.write_feather(TABLE, at),
    "file.arrow": lambda at: pyarrow.feather.write_feather(TABLE, at, compression="zstd"),
    "stream.arrow": stream,
    "binary.parquet": lambda at: pq.write_table(
        pa.table({"text": pa.array([row.encode() for row in ROWS], pa.large_binary())}), at
    ),
    "dictionary.parquet": lambda at: pq.write_table(
        pa.table({"text": pa.array(ROWS).dictionary_encode()}), at
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    assert read_back(tmp_path) == (ROWS, [])


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "feather"])
def test_a_path_into_nested_columns(ending: str, tmp_path: Path) -> None:
    rows = [
        {
            "title": "T",
            "messages": [{"role": "user", "content": "hi"}, {"role": "x", "content": "yo"}],
        }
    ]
    path = tmp_path / f"a.{ending}"
    match ending:
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "feather":
            pyarrow.feather.write_feather(pa.Table.from_pylist(rows), path)
        case _:
            path.write_text(json.dumps(rows if ending == "json" else rows[0]))
    assert read_back(path, text_field="title,messages.content") == (["T\n\nhi\n\nyo"], [])


def test_other_json_stays_plain_text(tmp_path: Path) -> None:
    contents = ['{\n "text": 1\n}', "[1, 2]", '["a"]', '{"name": "package"}', "12", ""]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.json").write_text(content)
    assert read_back(tmp_path) == ([content for content in contents if content], [])


BAD_ROWS = (
    b'{"text": "first"}\n{"text": "\xff"}\n{"text": \n[1]\n\n{"body": "b"}\n{"text": 7}\n'
    b'{"text": "\\ud800"}\n' + b"[" * 100_000 + b'\n{"text": "last"}\n'
)


def test_the_rows_after_a_bad_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(BAD_ROWS)
    texts, (not_utf8, damaged) = read_back(tmp_path / "a.jsonl")
    assert texts == ["first", "last"]
    assert not_utf8 == "not UTF-8: a.jsonl line 2; a.jsonl line 8"
    for part in (
        "line 3 is not valid JSON",
        "line 4 holds a list",
        "line 6 has no field 'text', only ['body']; name the field with --text-field",
        "line 7 has a value of type int in 'text'",
        "line 9 is not valid JSON",
    ):
        assert f"a.jsonl {part}" in damaged


def test_a_row_without_end_is_passed_over_in_flat_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.data.tables._LONGEST_ROW", 100)
    rows = [json.dumps({"text": text}) for text in ("a", "x" * 450, "b" * 50)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    texts, report = read_back(tmp_path / "a.jsonl")
    assert texts == ["a", "b" * 50]
    assert report == ["damaged: a.jsonl line 2 is longer than 100 bytes"]


@pytest.mark.parametrize(
    ("name", "content", "texts", "report"),
    [
        ("a.csv", b"text\nok\n\xff\nlast\n", ["ok", "last"], "not UTF-8: a.csv row 3"),
        ("b.csv", b"id,body\n1,x\n", [], "damaged: b.csv has no field 'text', only ['id', 'body']"),
        (
            "c.json",
            b'[{"text": "a"}, {"text": "b"',
            ["a"],
            "damaged: c.json row 2 is not valid JSON",
        ),
        (
            "d.json",
            b'[{"text": "a"}, 3, {"text": "c"}]',
            ["a", "c"],
            "damaged: d.json row 2 holds a",
        ),
        ("e.json", b'[{"text": "a"}\n', ["a"], "damaged: e.json is an array without an end"),
        ("f.feather", b"FEA1....", [], "damaged: f.feather is the first version of Feather"),
        ("g.parquet.gz", b"x", [], "damaged: g.parquet.gz is a table inside .gz; unpack it first"),
    ],
)
def test_damage(name: str, content: bytes, texts: list[str], report: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "z.txt").write_text("good")
    found, lines = read_back(tmp_path)
    assert found == [*texts, "good"]
    assert len(lines) == 1
    assert lines[0].startswith(report)
