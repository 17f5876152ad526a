"""A site of Stack Exchange as documents: each question with its answers, the best first.

Read is `Posts.xml` of the site's dump, plain or compressed as `data` reads it. Answers stand
anywhere behind their question, so the posts go through an SQLite file on disk: memory is that of
one question. The HTML of posts is made text by Resiliparse (extra `web`).

Source: the schema of meta.stackexchange.com/questions/2677; the form of LLaMA's part (Touvron et
al. 2023, section 2.1), which sorts the answers by their score.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import ParseError, iterparse

from puna.corpus.extra_packages import import_extra
from puna.data.document import FileDocument
from puna.data.left_out import FileReport
from puna.data.packed import PACKING_ERRORS, unpacked

_QUESTION, _ANSWER = "1", "2"


def stack_exchange_documents(path: Path, report: FileReport) -> Iterator[FileDocument]:
    """Stream the questions of one file in the order of their numbers. A file that breaks off is
    reported, and what stands before is kept. Raises DataError where the extra is not installed.
    """
    extract = import_extra("resiliparse.extract.html2text", "web", "a dump of Stack Exchange")

    def plain(html: str) -> str:
        return str(extract.extract_plain_text(html, main_content=False)).strip()

    size = path.stat().st_size
    with tempfile.TemporaryDirectory(prefix="puna-posts-") as folder:
        posts = sqlite3.connect(Path(folder) / "posts.sqlite", isolation_level=None)
        try:
            posts.execute("PRAGMA journal_mode = OFF")
            posts.execute("PRAGMA synchronous = OFF")
            posts.execute("CREATE TABLE posts (question INT, rank INT, post INT, text TEXT)")
            try:
                _store(path, posts)
            except (ParseError, *PACKING_ERRORS) as error:
                report.add("damaged", f"cannot be read: {error}")
            posts.execute("CREATE INDEX threads ON posts (question, rank, post)")
            for texts in _threads(posts):
                yield FileDocument("\n\n".join(map(plain, texts)), size)
        finally:
            posts.close()


def _store(path: Path, posts: sqlite3.Connection) -> None:
    root = None
    with unpacked(path, path.name) as (reader, _):
        for _, element in iterparse(reader, events=("start",)):
            root = element if root is None else root
            row = element.attrib
            number, score = int(row.get("Id", 0)), int(row.get("Score", 0))
            if row.get("PostTypeId") == _QUESTION:
                text = f"<h1>{row.get('Title', '')}</h1>{row.get('Body', '')}"
                posts.execute("INSERT INTO posts VALUES (?, NULL, ?, ?)", (number, number, text))
            elif row.get("PostTypeId") == _ANSWER and "ParentId" in row:
                values = (int(row["ParentId"]), -score, number, row.get("Body", ""))
                posts.execute("INSERT INTO posts VALUES (?, ?, ?, ?)", values)
            root.clear()


def _threads(posts: sqlite3.Connection) -> Iterator[list[str]]:
    """The texts of each question that is there: its own, then its answers by score. NULL, a
    question's rank, sorts first.
    """
    rows = posts.execute("SELECT question, rank, text FROM posts ORDER BY question, rank, post")
    thread: list[str] = []
    current = None
    for question, rank, text in rows:
        if question != current:
            if thread:
                yield thread
            current, thread = question, [text] if rank is None else []
        elif thread:  # answers of a question that was deleted are left out
            thread.append(text)
    if thread:
        yield thread
