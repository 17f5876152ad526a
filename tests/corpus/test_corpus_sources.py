"""Sources of corpora, each read from small files that the test writes."""

import bz2
import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from small_corpora import texts_of

from puna.data.left_out import LeftOut
from puna.errors import DataError

PAGE = (
    "<html><head><title>t</title></head><body><nav><a href='/'>Home</a></nav><main><article>"
    "<h1>The river</h1><p>{}</p></article></main><footer>imprint</footer></body></html>"
)
LONG = "The river rose in the night, and nobody in the valley had seen it come so fast. " * 4


def record(kind: str, content_type: str, body: bytes) -> bytes:
    """A record of a web archive, packed by itself as the format has it."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://x.example/\r\n"
        "WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + body + b"\r\n\r\n")


def page(status: str, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n"
    return record("response", "application/http; msgtype=response", head.encode() + body)


@pytest.fixture
def warc(tmp_path: Path) -> Path:
    pytest.importorskip("warcio")
    pytest.importorskip("resiliparse")
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(
        record("warcinfo", "application/warc-fields", b"software: x\r\n")
        + page("200 OK", "text/html; charset=utf-8", PAGE.format(LONG).encode())
        + page("404 Not Found", "text/html", PAGE.format("missing").encode())
        + page("200 OK", "image/png", b"\x89PNG")
        + page("200 OK", "text/html", PAGE.format("caf\xe9 " + LONG).encode("latin-1"))
        + page("200 OK", "text/plain", b"plain words")
    )
    return path


def test_pages_of_a_web_archive(warc: Path) -> None:
    first, second, third = texts_of(warc)
    assert "nobody in the valley" in first
    assert "imprint" not in first
    assert "Home" not in first
    assert "café" in second
    assert third == "plain words"


def test_a_web_archive_that_breaks_off_keeps_its_beginning(warc: Path) -> None:
    whole = warc.read_bytes()
    warc.write_bytes(whole[: len(whole) - 30])
    left_out = LeftOut()
    assert len(texts_of(warc, left_out=left_out)) >= 2


def test_texts_of_a_wet_file(tmp_path: Path) -> None:
    pytest.importorskip("warcio")
    body = "First line.\nSecond líne."
    path = tmp_path / "crawl.warc.wet.gz"
    path.write_bytes(record("conversion", "text/plain", body.encode()))
    assert texts_of(path) == [body]


WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">
<siteinfo><sitename>W</sitename></siteinfo>
<page><title>Rivers</title><ns>0</ns><id>1</id><revision><id>2</id><text>{{Infobox|x=1}}
'''Rivers''' are [[water|streams of water]].&lt;ref&gt;Somebody&lt;/ref&gt;
{| class="x"
| a cell
|}
[[File:a.jpg|thumb|A picture]] See [[Lake]]s.
[[Category:Water]]</text></revision></page>
<page><title>Stream</title><ns>0</ns><redirect title="Rivers"/>
<revision><text>#REDIRECT [[Rivers]]</text></revision></page>
<page><title>Talk:Rivers</title><ns>1</ns><revision><text>Hello.</text></revision></page>
<page><title>Lake</title><ns>0</ns><revision><text>A lake is still.</text></revision></page>
</mediawiki>"""


def test_articles_of_a_wiki(tmp_path: Path) -> None:
    pytest.importorskip("mwparserfromhell")
    path = tmp_path / "pages-articles.xml.bz2"
    path.write_bytes(bz2.compress(WIKI.encode()))
    rivers, lake = texts_of(path, format="wiki")
    assert rivers.startswith("Rivers\n\nRivers are streams of water.")
    assert rivers.endswith("See Lakes.")
    for gone in ("Infobox", "Somebody", "cell", "picture", "Category"):
        assert gone not in rivers
    assert lake == "Lake\n\nA lake is still."
    left_out = LeftOut()
    path.write_bytes(bz2.compress(WIKI.encode()[:-300]))
    assert len(texts_of(path, format="wiki", left_out=left_out)) == 1
    assert left_out.counts["damaged"] == 1


POSTS = (
    {"Id": 1, "PostTypeId": 1, "Score": 3, "Title": "Why?", "Body": "<p>Why is it <b>so</b>?</p>"},
    {"Id": 2, "PostTypeId": 2, "ParentId": 1, "Score": 1, "Body": "<p>No idea &amp; sorry.</p>"},
    {"Id": 3, "PostTypeId": 1, "Score": 0, "Title": "Who?", "Body": "<p>Who did it?</p>"},
    {"Id": 4, "PostTypeId": 2, "ParentId": 1, "Score": 9, "Body": "<p>Because.</p>"},
    {"Id": 5, "PostTypeId": 2, "ParentId": 77, "Score": 9, "Body": "<p>To nobody.</p>"},
    {"Id": 6, "PostTypeId": 5, "Score": 0, "Body": "<p>A wiki page of a tag.</p>"},
)


def test_questions_with_their_answers(tmp_path: Path) -> None:
    pytest.importorskip("resiliparse")
    rows = [
        "<row " + " ".join(f"{key}={quoteattr(str(value))}" for key, value in post.items()) + "/>"
        for post in POSTS
    ]
    path = tmp_path / "Posts.xml"
    path.write_text("<posts>\n" + "\n".join(rows) + "\n</posts>", encoding="utf-8")
    (tmp_path / "Users.xml").write_text("<users/>")
    first, second = texts_of(tmp_path, format="stack_exchange")
    assert first.split() == [
        "Why?",
        "Why",
        "is",
        "it",
        "so?",
        "Because.",
        "No",
        "idea",
        "&",
        "sorry.",
    ]
    assert second.split() == ["Who?", "Who", "did", "it?"]


PAPER = r"""\documentclass{article} % the class
\newcommand{\R}{\mathbb{R}}
\newcommand{\norm}[1]{\|#1\|}
\def\half{\frac{1}{2}}
\title{T}
\begin{document}
\section{One} A point $x \in \R$, 50\% of \half. % a remark
\input{part}
\begin{thebibliography}{9}\bibitem{a} A.\end{thebibliography}
\end{document}
"""
PART = "More with $\\norm{x}$ and \\Rare.\n\\bibliography{refs}"
CLEANED = (
    "\\section{One} A point $x \\in \\mathbb{R}$, 50\\% of \\frac{1}{2}. "
    "More with $\\norm{x}$ and \\Rare."
)


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def in_folder(folder: Path) -> None:
    (folder / "main.tex").write_text(PAPER)
    (folder / "part.tex").write_text(PART)
    (folder / "main.bbl").write_text("x")


def in_archive(folder: Path) -> None:
    packed = gzip.compress(tar({"main.tex": PAPER.encode(), "part.tex": PART.encode()}))
    (folder / "2301.00001.gz").write_bytes(packed)


def in_bulk(folder: Path) -> None:
    packed = gzip.compress(tar({"main.tex": PAPER.encode(), "part.tex": PART.encode()}))
    (folder / "arXiv_src_2301_001.tar").write_bytes(tar({"2301/2301.00001.gz": packed}))


@pytest.mark.parametrize("lay_out", [in_folder, in_archive, in_bulk])
def test_papers(tmp_path: Path, lay_out: Callable[[Path], None]) -> None:
    lay_out(tmp_path)
    (text,) = texts_of(tmp_path, format="latex")
    assert " ".join(text.split()) == CLEANED


def test_a_paper_of_one_packed_file_and_inputs_outside(tmp_path: Path) -> None:
    inside = tmp_path / "papers"
    inside.mkdir()
    (tmp_path / "part.tex").write_text("secret")
    (inside / "main.tex").write_text(PAPER.replace("{part}", "{../part}"))
    (inside / "one.gz").write_bytes(gzip.compress(PAPER.replace("é", "e").encode("latin-1")))
    texts = texts_of(inside, format="latex")
    assert len(texts) == 2
    assert not any("secret" in text for text in texts)


def test_a_tree_of_code(tmp_path: Path) -> None:
    for name in ("src/a.py", "node_modules/x/b.js", "vendor/c.go", "Cargo.lock", ".git/config"):
        path = tmp_path / "vendor" / name  # a folder above the source does not count
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    assert texts_of(tmp_path / "vendor", format="code") == ["# src/a.py\n"]


def test_a_source_without_files_of_its_format(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match="holds no files of the format latex"):
        texts_of(tmp_path, format="latex")


@pytest.fixture
def store() -> Iterator[object]:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_an_object_store(store: object) -> None:
    for name, content in {
        "/bucket/b.txt": b"second",
        "/bucket/a.jsonl.gz": gzip.compress(b'{"text": "first"}\n'),
        "/bucket/deep/c.md": b"third",
        "/bucket/.hidden/d.txt": b"hidden",
    }.items():
        with store.open(name, "wb") as file:  # type: ignore[attr-defined]
            file.write(content)
    assert texts_of("memory://bucket") == ["first", "second", "third"]
    assert texts_of("memory://bucket/*.txt") == ["second"]
    assert texts_of("memory://bucket/b.txt") == ["second"]
    assert texts_of("memory://bucket", include=["md"]) == ["third"]
    with pytest.raises(DataError, match="holds no files to read"):
        texts_of("memory://bucket/none")


def test_an_address_that_nothing_opens() -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        texts_of("nothing-like-it://bucket/a")
