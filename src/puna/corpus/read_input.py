"""The documents of a corpus' files, each with its origin, by the source's format:

by name         what `puna.data.file_formats` reads, and .warc, .wet and their .gz
web             web archives: WARC and WET (`web_archive.py`)
wiki            dumps of wikis in XML (`wiki_dump.py`)
latex           papers (`latex_papers.py`)
stack_exchange  the Posts.xml of a site (`stack_exchange.py`)
code            trees of source code: text files, without folders of other people's code
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from puna.corpus.corpus_recipe import CorpusSource
from puna.corpus.input_files import InputFile
from puna.corpus.latex_papers import latex_documents
from puna.corpus.object_stores import local_copy
from puna.corpus.stack_exchange import stack_exchange_documents
from puna.corpus.stages import CorpusDocument
from puna.corpus.web_archive import web_documents
from puna.corpus.wiki_dump import wiki_documents
from puna.data.document import FileDocument
from puna.data.file_formats import read_file
from puna.data.left_out import FileReport, LeftOut, printable

_FORMATS: Mapping[str, Callable[[Path, FileReport], Iterator[FileDocument]]] = MappingProxyType(
    {
        "web": web_documents,
        "wiki": wiki_documents,
        "latex": latex_documents,
        "stack_exchange": stack_exchange_documents,
    }
)
_WEB_ARCHIVE = re.compile(r"\.(warc|wet)(\.gz)?\Z", re.IGNORECASE)


def read_input(
    files: Sequence[InputFile], source: CorpusSource, left_out: LeftOut
) -> Iterator[CorpusDocument]:
    """Stream the documents of the files in order; `left_out` counts and names what is not read."""
    for file in files:
        name = printable(file.location)
        with local_copy(file.location) as path:
            documents = _documents(path, file.location, source, left_out)
            for number, document in enumerate(documents, 1):
                if not document.text or document.text.isspace():
                    left_out.add("empty", name)
                else:
                    yield CorpusDocument(document.text, f"{name} #{number}")


def _documents(
    path: Path, location: str, source: CorpusSource, left_out: LeftOut
) -> Iterator[FileDocument]:
    reader = _FORMATS.get(source.format)
    if reader is None and source.format == "by_name" and _WEB_ARCHIVE.search(location):
        reader = web_documents
    if reader is None:
        return read_file(path, source, left_out)
    return reader(path, FileReport(left_out, printable(location)))
