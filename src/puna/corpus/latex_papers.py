r"""Papers in LaTeX as documents: one a file with `\documentclass`, its inputs put in place, without
comments, preamble and bibliography, and with macros that take no argument expanded.

Read are folders of .tex files, and archives as arXiv gives them out: a .tar or .gz with the files
of a paper, and a .tar of many such .gz. The text stays LaTeX: formulas are worth learning as they
are written. Memory: the files of one paper.

Source: the cleaning of RedPajama's arXiv part (Weber et al. 2024), which LLaMA's paper describes
(Touvron et al. 2023, section 2.1).
"""

import gzip
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from puna.data.document import FileDocument
from puna.data.left_out import FileReport

_COMMENT = re.compile(r"(?<!\\)%.*?$\n?", re.MULTILINE)
_INPUT = re.compile(r"\\(?:input|include)\s*\{\s*([^{}]+?)\s*\}")
_BODY = re.compile(r"\\begin\{document\}(.*?)(?:\\end\{document\}|\Z)", re.DOTALL)
_TAIL = re.compile(
    r"\\begin\{thebibliography\}.*?(?:\\end\{thebibliography\}|\Z)"
    r"|\\bibliography(?:style)?\s*\{[^{}]*\}",
    re.DOTALL,
)
_MACRO = re.compile(
    r"\\(?:re|provide)?newcommand\*?\s*\{?\s*\\([A-Za-z]+)\s*\}?\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
    r"|\\def\s*\\([A-Za-z]+)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_DEPTH = 8  # of inputs inside inputs
_ARCHIVE_ERRORS = (tarfile.TarError, OSError, EOFError)


def latex_documents(path: Path, report: FileReport) -> Iterator[FileDocument]:
    """Stream the papers of one file or archive; what cannot be unpacked is reported."""
    size = path.stat().st_size
    if path.suffix == ".tex":
        main = path.name
        if r"\documentclass" in _decoded(path.read_bytes()):
            yield from _papers({main: path.read_bytes()}, path.parent, size)
        return
    try:
        with path.open("rb") as file:
            for files, position in _bundles(file.read() if path.suffix == ".gz" else None, path):
                yield from _papers(files, None, position)
    except _ARCHIVE_ERRORS as error:
        report.add("damaged", f"cannot be read: {error}")


def _bundles(packed: bytes | None, path: Path) -> Iterator[tuple[dict[str, bytes], int]]:
    """The .tex files of each paper."""
    if packed is not None:
        yield _unpacked(packed), len(packed)
        return
    own: dict[str, bytes] = {}
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None and member.name.endswith(".gz"):
                yield _unpacked(content.read()), member.offset_data + member.size
            elif content is not None and member.name.endswith(".tex"):
                own[member.name] = content.read()
    yield own, path.stat().st_size


def _unpacked(packed: bytes) -> dict[str, bytes]:
    """The .tex files of one paper: a packed tar, or one packed file."""
    content = gzip.decompress(packed)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            found = {
                member.name: archive.extractfile(member)
                for member in archive
                if member.isreg() and member.name.endswith(".tex")
            }
            return {name: file.read() for name, file in found.items() if file is not None}
    except tarfile.ReadError:
        return {"paper.tex": content}


def _papers(
    files: Mapping[str, bytes], folder: Path | None, position: int
) -> Iterator[FileDocument]:
    """The papers among the files. folder: where inputs lie that are not among them."""
    texts = {str(PurePosixPath(name)): _decoded(content) for name, content in files.items()}
    for name, text in sorted(texts.items()):
        if r"\documentclass" in text:
            cleaned = clean_paper(text, _Inputs(texts, PurePosixPath(name).parent, folder))
            if cleaned:
                yield FileDocument(cleaned, position)


class _Inputs:
    """The files that a paper may name, by the name or without its ending."""

    def __init__(
        self, texts: Mapping[str, str], inside: PurePosixPath, folder: Path | None
    ) -> None:
        self._texts, self._inside, self._folder = texts, inside, folder

    def find(self, name: str) -> str:
        """The text of an input; none where it is missing or lies outside."""
        for each in (name, f"{name}.tex"):
            if (text := self._texts.get(str(self._inside / each))) is not None:
                return text
            if self._folder is not None:
                path = (self._folder / each).resolve()
                if path.is_relative_to(self._folder.resolve()) and path.is_file():
                    return _decoded(path.read_bytes())
        return ""


def clean_paper(text: str, inputs: _Inputs) -> str:
    """The body of a paper with its inputs, without what no reader sees."""
    text = _with_inputs(text, inputs, _DEPTH)
    macros = {a or c: b if a else d for a, b, c, d in _MACRO.findall(text) if "#" not in b + d}
    body = _BODY.search(text)
    text = _TAIL.sub("", body[1] if body else text)
    if macros:
        names = "|".join(sorted(map(re.escape, macros), key=len, reverse=True))
        text = re.sub(
            rf"\\({names})(?![A-Za-z])", lambda match: macros[match[1]], _MACRO.sub("", text)
        )
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _with_inputs(text: str, inputs: _Inputs, depth: int) -> str:
    text = _COMMENT.sub("", text)
    if depth == 0:
        return text
    return _INPUT.sub(lambda match: _with_inputs(inputs.find(match[1]), inputs, depth - 1), text)


def _decoded(content: bytes) -> str:
    """Old papers are in Latin 1, in which every byte is a character."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
