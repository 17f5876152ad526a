"""Plain files: separators, byte order marks and line ends, and what is no UTF-8."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_back import read_back

from puna.data.file_formats import read_file
from puna.data.left_out import LeftOut
from puna.data.reading import Reading


@pytest.mark.parametrize(
    ("separator", "text", "documents"),
    [
        ("%", "one\n%\ntwo, 100%\n% of it\n%\n", ["one", "two, 100%\n% of it"]),
        ("%", "%\none\r\n%\r\ntwo\n%", ["one", "two"]),
        ("<|endoftext|>", "a<|endoftext|>b\n<|endoftext|>\nc", ["a", "b", "c"]),
        ("line", "a\r\nb\n\n \nc", ["a", "b", "c"]),
        ("blank-lines", "\na\na\n\n\n \t\nb\r\n\r\nc\n", ["a\na", "b", "c"]),
        ("---", "a\n--- \nb --- c\n----\n", ["a", "b --- c\n----"]),
    ],
)
def test_separators(separator: str, text: str, documents: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text, newline="")
    assert read_back(tmp_path / "a.txt", separator=separator) == (documents, [])


@given(
    st.lists(st.text("ab \n", min_size=1).map(str.strip).filter(bool), min_size=1),
    st.integers(16, 60),
)
def test_a_mark_is_found_wherever_a_piece_ends(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], piece: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "marks.txt"
    path.write_text("<|endoftext|>".join(texts))
    reading = Reading(separator="<|endoftext|>", piece_characters=piece)
    pieces = [document.text for document in read_file(path, reading, LeftOut())]
    assert "".join("".join(pieces).split()) == "".join("".join(texts).split())
    assert max(map(len, pieces)) <= piece


@pytest.mark.parametrize(
    ("normalize", "text"),
    [("bom", "a\r\nb\rc"), ("lf", "a\nb\nc"), ("none", "\ufeffa\r\nb\rc")],
)
@pytest.mark.parametrize("piece", [100, 4])
def test_byte_order_mark_and_line_ends(
    normalize: str, text: str, piece: int, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\rc")
    texts, report = read_back(tmp_path / "a.txt", normalize=normalize, piece_characters=piece)
    assert ("".join(texts), report) == (text, [])


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Die Bücher über größere Häuser für «Köln» gehören dem Schüler. "),
        ("cp1251", "Это довольно длинный русский текст, который никто не перекодировал. "),
        ("shift-jis", "これは日本語で書かれた少し長い文章です。"),
        ("UTF-16", "Windows wrote this. "),
    ],
)
def test_a_file_in_another_encoding_is_named_with_it(
    encoding: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes((text * 5).encode(encoding))
    likely = {"shift-jis": "(shift-jis|cp932)"}.get(encoding, encoding)
    texts, report = read_back(tmp_path)
    assert texts == ["good"]
    assert len(report) == 1
    assert report[0] in {
        f"not UTF-8: b.txt (likely {name})" for name in likely.strip("()").split("|")
    }
