"""Measures of the source text itself: lengths, widths, comments, names that occur twice.

    python benchmarks/source.py [FOLDER]        a package's folder; src/puna where left out

Prints one JSON object. Lines are counted as they stand; a function is measured from `def` to its
last line, decorators left out; a comment line holds nothing else. Files that are empty are left
out.
"""

import ast
import io
import json
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

WIDTH = 100
INTERROGATIVES = ("what", "how", "whether", "who", "whose", "which", "where", "why", "when")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


def measure(files: Sequence[Path]) -> dict[str, object]:
    """The measures of these Python files."""
    texts = {path: text for path in files if (text := path.read_text(encoding="utf-8")).strip()}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, Function)]
    lengths = [(node.end_lineno or 0) - node.lineno + 1 for node in functions]
    docstrings = [ast.get_docstring(node) for node in nodes if isinstance(node, Documented)]
    openings = [docstring.split()[0].lower().strip(":,") for docstring in docstrings if docstring]
    lines = [line for text in texts.values() for line in text.splitlines()]
    return {
        "files": len(texts),
        "lines": len(lines),
        "file_lines": _spread([len(text.splitlines()) for text in texts.values()]),
        "functions": len(functions),
        "function_lines": _spread(lengths),
        "functions_over_40_lines_percent": _percent(sum(n > 40 for n in lengths), len(functions)),
        "comment_lines_percent": _percent(sum(map(_comment_lines, texts.values())), len(lines)),
        f"lines_over_{WIDTH}_columns_percent": _percent(
            sum(len(line) > WIDTH for line in lines), len(lines)
        ),
        "docstrings_that_open_with_an_interrogative_percent": _percent(
            sum(opening in INTERROGATIVES for opening in openings), len(openings)
        ),
        "file_names_that_occur_twice": _twice(path.name for path in texts),
        "class_names_that_occur_twice": _twice(
            node.name for node in nodes if isinstance(node, ast.ClassDef)
        ),
    }


def _spread(values: Sequence[int]) -> dict[str, float]:
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": statistics.median(values), "p90": deciles[-1], "max": max(values)}


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1)


def _comment_lines(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip() for t in tokens)


def _twice(names: Iterable[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: n for name, n in sorted(counts.items()) if n > 1 and name != "__init__.py"}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "src" / "puna"
    print(json.dumps(measure(sorted(folder.rglob("*.py"))), indent=1))
