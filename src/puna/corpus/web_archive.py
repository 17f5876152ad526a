"""Web archives as documents: the pages of a WARC file, as text without menus and frames, and the
texts of a WET file as they are.

Read by warcio, text extracted by Resiliparse, both of the extra `web`. Only answers with status 200
that are HTML or plain text are pages. Memory: that of one page.

Sources: ISO 28500 (WARC); Li et al. 2024, DataComp-LM, section 4.1, who found Resiliparse as good
for training as trafilatura, and eight times as fast.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from puna.corpus.extra_packages import import_extra
from puna.data.document import FileDocument
from puna.data.left_out import FileReport

_HTML = ("text/html", "application/xhtml+xml")
_MAX_PAGE_BYTES = 2**24


def web_documents(path: Path, report: FileReport) -> Iterator[FileDocument]:
    """Stream the texts of one archive, whether it is compressed or not. What breaks off is
    reported, and the pages before it are kept. Raises DataError where the extra is not installed.
    """
    archive = import_extra("warcio.archiveiterator", "web", "a web archive")
    exceptions = import_extra("warcio.exceptions", "web", "a web archive")
    with path.open("rb") as file:
        try:
            for record in archive.ArchiveIterator(file):
                text = _text(record)
                if text is not None:
                    yield FileDocument(text, file.tell())
        except (exceptions.ArchiveLoadFailed, EOFError, OSError) as error:
            report.add("damaged", f"cannot be read: {error}")


def _text(record: Any) -> str | None:
    """The text of a record, or None where it is no page."""
    if record.rec_type == "conversion":
        return str(record.content_stream().read(_MAX_PAGE_BYTES).decode("utf-8", "replace"))
    if record.rec_type != "response" or record.http_headers is None:
        return None
    kind = (record.http_headers.get_header("Content-Type") or "").partition(";")[0].strip().lower()
    if record.http_headers.get_statuscode() != "200" or kind not in (*_HTML, "text/plain"):
        return None
    page = record.content_stream().read(_MAX_PAGE_BYTES)
    encoding = import_extra("resiliparse.parse.encoding", "web", "a web archive")
    decoded = str(encoding.bytes_to_str(page, encoding.detect_encoding(page, from_html_meta=True)))
    if kind == "text/plain":
        return decoded
    extract = import_extra("resiliparse.extract.html2text", "web", "a web archive")
    return str(extract.extract_plain_text(decoded, main_content=True, alt_texts=False))
