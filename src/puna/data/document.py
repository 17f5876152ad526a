"""One document as its file holds it."""

from typing import NamedTuple


class FileDocument(NamedTuple):
    """A text of a file."""

    text: str
    position: int
    """Bytes of the file that were read so far, as stored (compressed), for progress; at most the
    file's size.
    """
