"""Reader of the Markdown pages for all tests of the documentation.

It parses with markdown-it, as a renderer does, and gives flat lists in reading order: fenced
blocks, inline code, links, headings and tables. It is no judge: the tests beside it decide which of
these must exist, run or agree with the code. Parsing all pages once costs under a second.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md")})
ENDS_OF_A_COMMAND = frozenset({"|", "<", ">", "&&", ";"})
# what docs/parts/add-your-own.md adds, so that no recipe has it before
ADDED_KEYS = frozenset({"model.norm_alpha_init"})
SHELLS = ("sh", "bash", "shell", "console")
FILE_ENDINGS = (
    r"\.(?:py|md|yaml|yml|json|jsonl|ndjson|toml|html|safetensors|txt|gz|zst|parquet|tokens|offsets"
    r"|arrow|bin|pt|so|gguf|model|c)$"
)
_PARSER = MarkdownIt("commonmark").enable("table")


def named(path: Path) -> str:
    """The path from the root of the repository, as test ids and messages show it."""
    return path.relative_to(ROOT).as_posix()


def find_path(name: str) -> Path | None:
    """Where the repository has this path: at its root, or in the package for those written
    short.
    """
    return next(
        (found for base in (ROOT, ROOT / "src" / "puna") if (found := base / name).exists()), None
    )


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its opening fence, counted from 1; end: of its closing fence."""

    language: str
    text: str
    line: int
    end: int


@dataclass(frozen=True)
class Heading:
    """A heading as it is written, such as "Of `/tokenize`"; line as in Block."""

    level: int
    text: str
    line: int

    @property
    def anchor(self) -> str:
        """The fragment of a link to it, by GitHub's rule."""
        return re.sub(r"[^\w\- ]", "", self.text.lower()).replace(" ", "-")


@dataclass(frozen=True)
class Link:
    """A link or a picture. text: its label, or the picture's description."""

    target: str
    text: str
    picture: bool


@dataclass(frozen=True)
class Table:
    """The cells as they are written, with their backquotes; `\\|` is read as `|`."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Page:
    """A page, or a section of one. origin: its name in messages; text: its Markdown."""

    def __init__(self, text: str, origin: str, first_line: int = 1) -> None:
        self.text, self.origin, self._first = text, origin, first_line

    @cached_property
    def _tokens(self) -> Sequence[Token]:
        return _PARSER.parse(self.text)

    def _line(self, token: Token) -> int:
        assert token.map is not None
        return token.map[0] + self._first

    @cached_property
    def _inline(self) -> Sequence[Sequence[Token]]:
        return [token.children or [] for token in self._tokens if token.type == "inline"]

    @cached_property
    def all_blocks(self) -> Sequence[Block]:
        """Every fenced block."""
        return [
            Block(
                token.info.strip(),
                token.content,
                self._line(token),
                self._line(token) + token.content.count("\n") + 1,
            )
            for token in self._tokens
            if token.type == "fence"
        ]

    def blocks(self, *languages: str) -> list[str]:
        """The text of the fenced blocks in these languages."""
        return [block.text for block in self.all_blocks if block.language in languages]

    def block(self, language: str) -> str:
        """The text of the only fenced block in this language."""
        (text,) = self.blocks(language)
        return text

    def shown_with_output(self, language: str, output: str) -> list[tuple[str, str]]:
        """Blocks in one language with the output block that follows at once, after an empty
        line.
        """
        pairs = zip(self.all_blocks, self.all_blocks[1:], strict=False)
        return [
            (block.text, after.text)
            for block, after in pairs
            if (block.language, after.language) == (language, output)
            and after.line == block.end + 2
        ]

    @cached_property
    def shell_lines(self) -> Sequence[list[str]]:
        """The commands of the shell blocks as words, without prompts, comments and what follows a
        pipe, a redirection or another command.
        """
        commands = []
        for block in self.blocks(*SHELLS):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                command = list(takewhile(lambda word: word not in ENDS_OF_A_COMMAND, words))
                if command:
                    commands.append(command)
        return commands

    @cached_property
    def codes(self) -> Sequence[str]:
        """Inline code, without the backquotes."""
        return [
            token.content
            for children in self._inline
            for token in children
            if token.type == "code_inline"
        ]

    @cached_property
    def symbols(self) -> Sequence[tuple[str, str]]:
        """(path, symbol) of every `path` / `symbol`, across a line break too."""
        found = []
        for children in self._inline:
            before, between = None, ""
            for token in children:
                if token.type != "code_inline":
                    between += token.content or " "  # a line break has no content
                    continue
                if before is not None and re.fullmatch(r"\s+/\s+", between):
                    found.append((before, token.content))
                before, between = token.content, ""
        return found

    @cached_property
    def links(self) -> Sequence[Link]:
        """Links and pictures."""
        found = []
        for children in self._inline:
            for index, token in enumerate(children):
                if token.type == "image":
                    found.append(Link(str(token.attrs["src"]), token.content, picture=True))
                elif token.type == "link_open":
                    label = ""
                    for inner in children[index + 1 :]:
                        if inner.type == "link_close":
                            break
                        label += inner.content
                    found.append(Link(str(token.attrs["href"]), label, picture=False))
        return found

    @cached_property
    def headings(self) -> Sequence[Heading]:
        """Headings of all levels."""
        return [
            Heading(int(token.tag[1:]), self._tokens[index + 1].content, self._line(token))
            for index, token in enumerate(self._tokens)
            if token.type == "heading_open"
        ]

    @cached_property
    def tables(self) -> Sequence[Table]:
        """Tables, cell by cell."""
        found: list[Table] = []
        cells: list[str] = []
        for token, following in zip(self._tokens, [*self._tokens[1:], None], strict=True):
            if token.type in ("th_open", "td_open") and following is not None:
                cells.append(following.content)
            elif token.type == "tr_close":
                if found and found[-1].head == ():
                    found[-1] = Table(tuple(cells), ())
                else:
                    found[-1] = Table(found[-1].head, (*found[-1].rows, tuple(cells)))
                cells = []
            elif token.type == "table_open":
                found.append(Table((), ()))
        return found

    def rows(self, *head: str) -> list[tuple[str, ...]]:
        """The rows of the tables whose first columns have these heads."""
        found = [table for table in self.tables if table.head[: len(head)] == head]
        assert found, f"{self.origin} has no table with the columns {', '.join(head)}"
        return [row for table in found for row in table.rows]

    def by_code(self, *head: str) -> dict[str, str]:
        """From the only inline code of each row's first cell to its second cell, for the rows
        whose first cell is nothing else.
        """
        return {
            code[1]: row[1]
            for row in self.rows(*head)
            if (code := re.fullmatch(r"`([\w.]+)`", row[0]))
        }

    def section(self, heading: str) -> "Page":
        """What stands below a heading, up to the next of its level or above."""
        (start,) = (found for found in self.headings if found.text == heading)
        end = next(
            (
                following.line
                for following in self.headings
                if following.line > start.line and following.level <= start.level
            ),
            None,
        )
        lines = self.text.splitlines(keepends=True)
        text = "".join(lines[start.line + 1 - self._first : end and end - self._first])
        return Page(text, f"{self.origin} / {heading}", start.line + 1)


@cache
def read_page(path: Path | str) -> Page:
    """A page by its path, or by its name from the root of the repository, such as docs/api.md."""
    path = ROOT / path
    return Page(path.read_text(encoding="utf-8"), named(path))


def codes_in(cell: str) -> list[str]:
    """The inline code of a table's cell, without the backquotes."""
    return re.findall(r"`([^`]+)`", cell)
