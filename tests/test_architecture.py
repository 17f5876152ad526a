"""The house rules, walked with `ast`: who may import whom, and what a file must or must not hold.

The table is the one that docs/architecture.md prints, and a test holds the two together. Imports
under `TYPE_CHECKING` and inside functions count: a dependency is one whenever it happens.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from pages import codes_in, read_page

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "puna"
FILES = sorted(SOURCE.rglob("*.py"))

# Room: the rooms that it may import, besides itself. A room is a folder of src/puna, or a file that
# stands at its root.
ALLOWED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        room: frozenset(others.split())
        for room, others in {
            "errors": "",
            "config": "errors",
            "durable": "errors",
            "device": "errors",
            "strict_json": "",
            "nn": "errors",
            "model": "nn config errors durable",
            "tokenizer": "errors config durable",
            "data": "tokenizer config errors durable",
            "inference": "model nn tokenizer config errors device strict_json",
            "engine_process": "inference tokenizer config errors",
            "api": "engine_process inference tokenizer config strict_json errors",
            "server": "api engine_process inference config errors",
            "train": "model nn data config errors durable device",
            "eval": "inference model data tokenizer errors",
            "report": "errors durable",
            "workflow": ("train eval inference data tokenizer model report config durable errors"),
            "study": "train eval model nn tokenizer data report config durable device errors",
            "plan": "model config errors",
            "findings": "study plan report errors",
            "cli": (
                "errors config durable device strict_json nn model tokenizer data inference"
                " engine_process api server train eval report study plan findings workflow"
            ),
            # src/puna/__init__.py, and only when a name is asked for
            "puna": "workflow data inference tokenizer nn model errors",
        }.items()
    }
)
MAX_LINES = 500
SHAPELESS = frozenset({"utils", "util", "common", "helpers", "helper", "misc", "tools", "stuff"})


def room_of(path: Path) -> str:
    """The room that a source file stands in; the package's own __init__.py is the room `puna`."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "puna" if parts == ("__init__",) else parts[0]


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, absolute, with the line; `from puna import x` gives
    puna.x.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*base, *([module] if module else [])])
            if module == "puna":
                yield from ((node.lineno, f"puna.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def package_of(path: Path) -> str:
    return ".".join(("puna", *path.relative_to(SOURCE).parent.parts))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_follow_the_table(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, (
        f"{named(path)} opens a room that the table does not know: add it here and to"
        " docs/architecture.md"
    )
    wrong = []
    for line, module in imported_modules(parsed(path), package_of(path)):
        first, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if first == "puna" and target and target != room and target not in ALLOWED[room]:
            wrong.append(f"line {line}: {room} may not import {target}")
    assert not wrong, f"{named(path)}: {'; '.join(wrong)}"


def test_a_forbidden_import_is_seen() -> None:
    """The walker itself: each way of writing an import, at any depth, gives the module."""
    tree = ast.parse(
        "import puna.cli.main\nfrom puna import train\nfrom puna.eval import held_out\nfrom"
        " ..inference.engine import Engine\ndef f():\n    from . import rope\n"
    )
    modules = {module for _, module in imported_modules(tree, "puna.nn")}
    assert modules == {
        "puna.cli.main",
        "puna.train",
        "puna.eval",
        "puna.inference.engine",
        "puna.nn",
    }


def test_nobody_imports_the_command_line() -> None:
    assert not [room for room, others in ALLOWED.items() if "cli" in others]


def test_the_table_has_no_circle() -> None:
    order: list[str] = []
    waiting = {room: set(others) for room, others in ALLOWED.items()}
    while waiting:
        ready = sorted(room for room, others in waiting.items() if others <= set(order))
        assert ready, f"these rooms import each other in a circle: {', '.join(waiting)}"
        order += ready
        for room in ready:
            del waiting[room]


def test_every_room_of_the_table_exists() -> None:
    rooms = {room_of(path) for path in FILES}
    assert rooms == set(ALLOWED)


def test_the_printed_table_is_this_one() -> None:
    """docs/architecture.md shows each room in backticks in the first column and what it may import
    in the second.
    """
    table = read_page("docs/architecture.md").section("Who may import whom")
    printed = {
        room: ALLOWED["cli"] if cell == "everything but `puna`" else frozenset(codes_in(cell))
        for room, cell in table.by_code("room", "may import").items()
    }
    assert printed == dict(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_are_of_a_readable_size(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, (
        f"{named(path)} has {lines} lines, more than {MAX_LINES}: find the two nouns in it"
    )


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_open_with_what_they_are(path: Path) -> None:
    """A docstring in every module; an empty `__init__.py` only marks a folder and has nothing to
    say.
    """
    if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
        return
    assert ast.get_docstring(parsed(path)), (
        f"{named(path)} has no docstring: open it with what it is, what it is not, what it costs"
    )


@pytest.mark.parametrize("path", FILES, ids=named)
def test_names_say_something(path: Path) -> None:
    parts = {part.removesuffix(".py") for part in path.relative_to(SOURCE).parts}
    assert not parts & SHAPELESS, (
        f"{named(path)} is named after nothing: a file is the noun that a newcomer would type"
    )


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) != "cli"], ids=named)
def test_below_the_command_line_nothing_prints_or_reads_the_environment(path: Path) -> None:
    """Only cli/ talks to a terminal and knows the environment. Setting a variable for a child
    process is not reading one.
    """
    wrong = []
    tree = parsed(path)
    written = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Attribute)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("print", "input")
        ):
            wrong.append(f"line {node.lineno}: {node.func.id}()")
        if (
            isinstance(node, ast.Attribute)
            and ast.unparse(node) in ("os.environ", "os.getenv")
            and id(node) not in written
        ):
            wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {"environ", "getenv"} & {alias.name for alias in node.names}
        ):
            wrong.append(f"line {node.lineno}: from os import")
    assert not wrong, f"{named(path)}: {'; '.join(wrong)}"


def test_the_tokenizer_room_names_no_torch() -> None:
    wrong = [
        f"{named(path)} line {line}"
        for path in FILES
        if room_of(path) == "tokenizer"
        for line, module in imported_modules(parsed(path), package_of(path))
        if module.partition(".")[0] == "torch"
    ]
    assert not wrong


@pytest.mark.parametrize(
    "module", ["puna", "puna.cli.main", "puna.tokenizer.tokenizer", "puna.data.prepare"]
)
def test_torch_stays_out_until_it_is_needed(module: str) -> None:
    """`puna --help` answers at once, and tokenising processes stay small, because these import no
    torch.
    """
    program = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, (
        f"import {module} brings torch with it, or fails:\n{result.stderr}"
    )
