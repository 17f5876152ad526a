"""`results.jsonl`, what a study has found so far: one JSON object a finished run, only ever
appended to.

A record holds the run's arm and seed; hashes of its recipe, of the code and of the data; and what
it measured, null where it diverged.
"""

import ast
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from puna.errors import DataError

FILE = "results.jsonl"
# the code that decides what a run finds
# The code that decides what a run finds: what is computed, on what, and what is measured
HASHED = (
    *(f"{package}/*.py" for package in ("nn", "model", "tokenizer", "data", "train", "eval")),
    "device.py",
    "study/metrics.py",
    "study/probes.py",
)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The finished runs of a study in the order in which they ended; a last line without an end was
    torn by a kill and is no result.

    Raises DataError for any other line that is not a record.
    """
    path = folder / FILE
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records.append({**record, "arm": record["arm"], "seed": record["seed"]})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number} is not the record of a run: delete that line, and its run"
                " is done again"
            ) from error
    return records


def append_result(folder: Path, record: dict[str, Any]) -> None:
    """Add one record, on disk before this returns; a torn last line is cut off first. Floats keep 6
    significant digits.
    """
    with (folder / FILE).open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(_rounded(record), allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _rounded(value: Any) -> Any:
    """Every float at 6 significant digits, finer than any spread between seeds."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def code_hash(source: Path = Path(__file__).parents[1]) -> str:
    """The hash of the code in `source` that decides a run's result, and of PyTorch's version: 16
    hex digits. Comments, docstrings and layout do not count, so prose can be mended between runs.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(path for part in HASHED for path in source.glob(part)):
        tree = syntax_tree(ast.parse(path.read_bytes()))
        digest.update(f"{path.relative_to(source).as_posix()}\0{tree!r}\n".encode())
    return digest.hexdigest()[:16]


def syntax_tree(node: Any) -> Any:
    """A node of `ast` as nested tuples, without docstrings, positions and fields that are empty:
    those differ between versions of Python.
    """
    if isinstance(node, list):
        return tuple(syntax_tree(item) for item in node if not _is_docstring(item))
    if not isinstance(node, ast.AST):
        return node
    fields = ((name, syntax_tree(value)) for name, value in ast.iter_fields(node))
    return (type(node).__name__, *(field for field in fields if field[1] not in (None, ())))


def _is_docstring(node: Any) -> bool:
    """A statement that is a string and nothing else has no effect, wherever it stands."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False
