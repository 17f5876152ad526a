"""A dump of a wiki as documents: the current text of each article, without the marks of its markup.

The dump is MediaWiki's export in XML, as Wikipedia publishes it (`pages-articles.xml.bz2`).
Articles are the pages of namespace 0 that do not redirect; a document is the title, a blank line,
and the text as mwparserfromhell (extra `web`) strips it: without templates, tables, references and
files. Memory: that of one page.

Source: the schema of mediawiki.org, Help:Export.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, iterparse

from puna.corpus.extra_packages import import_extra
from puna.data.document import FileDocument
from puna.data.left_out import FileReport
from puna.data.packed import PACKING_ERRORS, unpacked

_NO_TEXT = ("table", "ref", "gallery", "math", "timeline")
_NO_LINK = ("file:", "image:", "category:")


def wiki_documents(path: Path, report: FileReport) -> Iterator[FileDocument]:
    """Stream the articles of one dump. What breaks off is reported, and the articles before it are
    kept. Raises DataError where the extra is not installed.
    """
    parser = import_extra("mwparserfromhell", "web", "a dump of a wiki")
    try:
        with unpacked(path, path.name) as (reader, stored):
            for title, markup in _articles(reader):
                body = _plain(parser.parse(markup))
                if body:
                    yield FileDocument(f"{title}\n\n{body}", stored.tell())
    except (ParseError, *PACKING_ERRORS) as error:
        report.add("damaged", f"cannot be read: {error}")


def _articles(reader: Any) -> Iterator[tuple[str, str]]:
    """Titles and markup."""
    root: Element | None = None
    for event, element in iterparse(reader, events=("start", "end")):
        root = element if root is None else root
        if event == "end" and _name(element) == "page":
            values = {_name(child): child.text or "" for child in element.iter()}
            redirects = any(_name(child) == "redirect" for child in element)
            if values.get("ns", "0") == "0" and not redirects and values.get("text"):
                yield values["title"], values["text"]
            root.clear()  # or the whole dump would be kept


def _name(element: Element) -> str:
    """The name without its namespace, which has the version of the schema in it."""
    return element.tag.rpartition("}")[2]


def _plain(code: Any) -> str:
    """The text of a parsed page."""
    for tag in code.filter_tags(recursive=True):
        if str(tag.tag).lower() in _NO_TEXT:
            _remove(code, tag)
    for link in code.filter_wikilinks(recursive=True):
        if str(link.title).strip().lower().startswith(_NO_LINK):
            _remove(code, link)
    text = str(code.strip_code(normalize=True, collapse=True))
    return text.strip()


def _remove(code: Any, node: Any) -> None:
    try:
        code.remove(node)
    except ValueError:  # inside one that was removed
        return
