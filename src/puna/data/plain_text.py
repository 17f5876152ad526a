"""Plain text files as documents: the whole file, pieces of a long one, or what stands between
separators.

A separator is

    line          every line is a document
    blank-lines   blank lines stand between documents
    <|MARK|>      any text in angle brackets: wherever it occurs
    %             any other text: a line of its own, as in the files of `fortune`

Documents between separators lose the line ends around them, and empty ones are no documents.

Cost: memory of one piece, whatever the file's size. A file longer than a piece is read twice,
because text that turns out not to be UTF-8 half-way is to be skipped whole.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from puna.data.document import FileDocument
from puna.data.left_out import FileReport
from puna.data.packed import unpacked
from puna.data.reading import PIECE_CHARACTERS, Reading

_WIDE = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_GUESSED_BYTES = 2**14


def plain_documents(
    path: Path, name: str, reading: Reading, report: FileReport
) -> Iterator[FileDocument]:
    """Stream the documents of a plain file. name: its ending chooses the compression."""
    with unpacked(path, name) as (reader, _):
        head = reader.read(reading.piece_characters)
        whole = not reader.peek(1)
    if (wide := _wide_encoding(head)) is not None:
        report.add("not_utf8", f"(likely {wide})")
    elif b"\0" in head[:8192]:
        report.add("binary")
    elif not (_decodes(head) if whole else _is_utf8(path, name)):
        likely = _likely_encoding(path, name) if report.wants_name("not_utf8") else None
        report.add("not_utf8", f"(likely {likely})" if likely else "")
    else:
        with unpacked(path, name) as (reader, stored):
            newline = None if reading.normalize == "lf" else ""
            text = io.TextIOWrapper(reader, reading.encoding, newline=newline)
            for document in _pieces(text, reading):
                yield FileDocument(document, stored.tell())


def _likely_encoding(path: Path, name: str) -> str | None:
    """The encoding that a file of text which is not UTF-8 is most probably in, of its first 16 KiB;
    None where nothing fits. A guess: short texts of Western Europe fit several.
    """
    from charset_normalizer import from_bytes  # a tenth of a second, for bad files alone

    with unpacked(path, name) as (reader, _):
        best = from_bytes(reader.read(_GUESSED_BYTES), cp_isolation=_COMMON).best()
    if best is None:
        return None
    # several encodings may give the same characters: the most usual of them
    fitting = {best.encoding, *best.could_be_from_charset}
    likely = next((name for name in _COMMON if name in fitting), best.encoding)
    return likely.replace("_", "-")


_COMMON = [
    "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r",
    "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr", "utf_16", "utf_32",
]  # fmt: skip
"""The encodings that the web still has; rarer ones would only make the guess worse."""


def _wide_encoding(head: bytes) -> str | None:
    return next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)


def _decodes(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_utf8(path: Path, name: str) -> bool:
    with unpacked(path, name) as (reader, _):
        text = io.TextIOWrapper(reader, "utf-8", newline="")
        try:
            while text.read(PIECE_CHARACTERS):
                pass
        except UnicodeDecodeError:
            return False
    return True


def _pieces(text: io.TextIOWrapper, reading: Reading) -> Iterator[str]:
    """The documents of a text, none longer than `piece_characters`."""
    longest, between = reading.piece_characters, _pattern(reading.separator)
    piece, cuts = "", 0
    while block := text.read(longest - len(piece)):
        piece += block
        if between is not None:
            *ended, piece = between.split(piece)
            yield from _trimmed(ended)
        if len(piece) == longest:
            # a separator that the next block ends stays whole
            cut = min(_cut(piece), max(1, longest + 1 - len(reading.separator or "")))
            yield from [piece[:cut]] if between is None else _trimmed([piece[:cut]])
            piece, cuts = piece[cut:], cuts + 1
    if between is None:
        yield from [piece] if piece or not cuts else []
    else:  # the last line may be a separator without a line end
        yield from _trimmed(between.split(f"{piece}\n"))


def _pattern(separator: str | None) -> re.Pattern[str] | None:
    match separator:
        case None:
            return None
        case "line":
            return re.compile(r"\r?\n")
        case "blank-lines":
            return re.compile(r"\r?\n(?:[ \t]*\r?\n)+")
    if separator.startswith("<") and separator.endswith(">"):
        return re.compile(re.escape(separator))
    return re.compile(rf"(?<![^\n]){re.escape(separator)}[ \t]*\r?\n")


def _trimmed(documents: list[str]) -> Iterator[str]:
    return (text for part in documents if (text := part.strip("\r\n")) and not text.isspace())


def _cut(piece: str) -> int:
    """The index at which to end a piece: after the last blank line of its second half, else after
    the last line, else at its end.
    """
    half = len(piece) // 2
    for mark in ("\n\n", "\r\n\r\n", "\n"):
        at = piece.rfind(mark, half)
        if at >= 0:
            return at + len(mark)
    return len(piece)
