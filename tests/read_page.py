"""A page as its reader gets it: elements in order, closed as they were opened, with the text of
each drawing.
"""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """tags: every element with its attributes; drawings: the text in each `<svg>`, piece by piece;
    text: all that is read.
    """

    VOID = ("meta", "br", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.drawings: list[list[str]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.pieces))

    @property
    def labels(self) -> list[str]:
        """What a screen reader says for each drawing."""
        return [attributes["aria-label"] or "" for tag, attributes in self.tags if tag == "svg"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "svg":
            self.drawings.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script") and data.strip():
            (self.drawings[-1] if "svg" in self.open else self.pieces).append(data.strip())
