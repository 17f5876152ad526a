"""The texts of one source, and the report of what was left out of it."""

from pathlib import Path
from typing import Any

from puna.data.left_out import LeftOut
from puna.data.reading import Reading
from puna.data.sources import find_sources, read_documents


def read_back(path: Path, **options: Any) -> tuple[list[str], list[str]]:
    """The texts, and the lines of the report after the counts, with names inside the folder."""
    reading, left_out = Reading(**options), LeftOut()
    documents = read_documents(find_sources([str(path)], reading), reading, left_out)
    texts = [document.text for document in documents]
    folder = path if path.is_dir() else path.parent
    return texts, [line.replace(f"{folder}/", "").strip() for line in left_out.lines()[1:]]
