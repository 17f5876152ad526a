"""The rules of the layout, walked with `ast`: who may import whom, and what a file must or must not
hold.

The table is the one that docs/architecture.md prints, and a test holds the two together. Imports
under `TYPE_CHECKING` and inside functions count: a dependency is one whenever it happens.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from pages import codes_in, read_page

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "puna"
FILES = sorted(SOURCE.rglob("*.py"))

# Package: the packages that it may import, besides itself. A package is here a folder of src/puna,
# or a module at its root.
ALLOWED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        package: frozenset(others.split())
        for package, others in {
            "durable": "",
            "errors": "",
            "nn": "",
            "number_format": "",
            "run_log": "",
            "strict_json": "",
            "config": "errors",
            "device": "errors host",
            "host": "",
            "native": "errors",
            "plan": "errors",
            "plots": "durable errors number_format run_log",
            "spawn": "errors",
            "spinning": "host",
            "statistics": "errors",
            "tokenizer": "durable errors",
            "choices": "config",
            "data": "durable errors config spawn tokenizer",
            "corpus": "durable errors config spawn tokenizer data",
            "model": "durable errors nn config choices",
            "eval": "errors nn strict_json config statistics tokenizer data model inference",
            "formats": "durable errors config nn tokenizer model",
            "auto_model": "errors nn model",
            "vllm": "errors model auto_model",
            "quantization": "durable errors formats model",
            "inference": (
                "errors host native nn strict_json config device tokenizer model formats"
                " quantization"
            ),
            "training": "durable errors native nn run_log config device choices model",
            "engine_process": "errors host spinning tokenizer formats inference",
            "diagnosis": "device host native engine_process",
            "inference_benchmark": "errors native diagnosis model formats inference",
            "study": (
                "durable errors nn run_log config device spawn statistics tokenizer data model eval"
                " training"
            ),
            "workflow": (
                "durable errors native run_log spinning device tokenizer data model formats"
                " quantization eval inference training"
            ),
            "api": "errors strict_json config tokenizer inference engine_process",
            "report": "durable errors number_format run_log plan plots statistics corpus study",
            "server": "errors inference engine_process api",
            "cli": (
                "durable errors host native nn number_format run_log strict_json config device"
                " plan plots spawn spinning statistics tokenizer choices data corpus model formats"
                " quantization eval inference training engine_process diagnosis"
                " inference_benchmark study workflow api report server auto_model vllm"
            ),
            # src/puna/__init__.py, and only when a name is asked for
            "puna": "workflow data inference tokenizer nn model errors",
        }.items()
    }
)
MAX_LINES = 350
MAX_FUNCTION_LINES = 60
INTERROGATIVES = frozenset(
    {"What", "How", "Whether", "Who", "Whose", "Whom", "Which", "Where", "Why", "When"}
)

# Allow-lists. An entry that no longer applies is a failure, so that they only shrink.
LONG_FILES: frozenset[str] = frozenset()
LONG_FUNCTIONS: frozenset[str] = frozenset()
RIDDLES: frozenset[str] = frozenset()
"""Files with a docstring that opens with an interrogative."""
SHARED_CLASS_NAMES: frozenset[str] = frozenset()
SHARED_FILE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "__init__.py": "every package has one",
        "config.py": "puna/config.py is the mechanism, model/config.py the shape of a model",
    }
)
"""With the reason. Besides these, cli/NAME.py may be called as the file whose command it is."""
SHAPELESS = frozenset({"utils", "util", "common", "helpers", "helper", "misc", "tools", "stuff"})


def package_of(path: Path) -> str:
    """The package of the table that a source file belongs to; src/puna/__init__.py is `puna`, and
    src/puna/__main__.py one more way into `cli`.
    """
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return {("__init__",): "puna", ("__main__",): "cli"}.get(parts, parts[0])


def imported_modules(tree: ast.AST, dotted: str) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, absolute, with the line; `from puna import x` gives
    puna.x.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = dotted.split(".")[: len(dotted.split(".")) - node.level + 1]
                module = ".".join([*base, *([module] if module else [])])
            if module == "puna":
                yield from ((node.lineno, f"puna.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def dotted_package(path: Path) -> str:
    """The package that relative imports of the file start from, such as puna.nn."""
    return ".".join(("puna", *path.relative_to(SOURCE).parent.parts))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_packages(path: Path) -> dict[str, int]:
    """The other packages of the table that a file imports, with the first line that does."""
    found: dict[str, int] = {}
    for line, module in imported_modules(parsed(path), dotted_package(path)):
        first, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if first == "puna" and target and target != package_of(path):
            found.setdefault(target, line)
    return found


@pytest.mark.parametrize("path", FILES, ids=named)
def test_imports_follow_the_table(path: Path) -> None:
    package = package_of(path)
    assert package in ALLOWED, (
        f"{named(path)} opens a package that the table does not know: add it here and to"
        " docs/architecture.md"
    )
    wrong = [
        f"line {line}: {package} may not import {target}"
        for target, line in imported_packages(path).items()
        if target not in ALLOWED[package]
    ]
    assert not wrong, f"{named(path)}: {'; '.join(wrong)}"


def test_every_edge_of_the_table_is_used() -> None:
    """What nobody imports is not allowed in advance. `cli` may import everything, and `puna` names
    in a table of its own what it imports when asked.
    """
    used: dict[str, set[str]] = {package: set() for package in ALLOWED}
    for path in FILES:
        used[package_of(path)] |= imported_packages(path).keys()
    unused = [
        f"{package} -> {target}"
        for package, targets in ALLOWED.items()
        if package not in ("cli", "puna")
        for target in sorted(targets - used[package])
    ]
    assert not unused, f"the table allows what no file does: {', '.join(unused)}"


def test_a_forbidden_import_is_seen() -> None:
    """The walker itself: each way of writing an import, at any depth, gives the module."""
    tree = ast.parse(
        "import puna.cli.main\nfrom puna import training\nfrom puna.eval import held_out\nfrom"
        " ..inference.engine import Engine\ndef f():\n    from . import rope\n"
    )
    modules = {module for _, module in imported_modules(tree, "puna.nn")}
    assert modules == {
        "puna.cli.main",
        "puna.training",
        "puna.eval",
        "puna.inference.engine",
        "puna.nn",
    }


def test_nobody_imports_the_command_line() -> None:
    assert not [package for package, others in ALLOWED.items() if "cli" in others]


def test_the_table_has_no_circle() -> None:
    order: list[str] = []
    waiting = {package: set(others) for package, others in ALLOWED.items()}
    while waiting:
        ready = sorted(package for package, others in waiting.items() if others <= set(order))
        assert ready, f"these packages import each other in a circle: {', '.join(waiting)}"
        order += ready
        for package in ready:
            del waiting[package]


def test_every_package_of_the_table_exists() -> None:
    assert {package_of(path) for path in FILES} == set(ALLOWED)


def test_the_printed_table_is_this_one() -> None:
    """docs/architecture.md shows each package in the first column, what it may import in the
    second.
    """
    table = read_page("docs/architecture.md").section("Who may import whom")
    printed = {
        package: ALLOWED["cli"] if cell == "everything but `puna`" else frozenset(codes_in(cell))
        for package, cell in table.by_code("package", "may import").items()
    }
    assert printed == dict(ALLOWED)


def judge(found: Collection[str], allowed: Collection[str], rule: str) -> None:
    """Fail on what breaks a rule and is not in its allow-list, and on what is there in vain."""
    broken, mended = sorted(set(found) - set(allowed)), sorted(set(allowed) - set(found))
    assert not broken, f"{rule}: {', '.join(broken)}"
    assert not mended, f"take off the allow-list what keeps the rule now: {', '.join(mended)}"


def test_files_are_of_a_readable_size() -> None:
    long = {
        named(path)
        for path in FILES
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES
    }
    judge(long, LONG_FILES, f"more than {MAX_LINES} lines, so find the two nouns in it")


def definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Every class and function of a file with its dotted name, nested ones too."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{child.name}", child
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    return walk(parsed(path), "")


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end: the options of a command and
    the help that its docstring is are read as a table, not as code.
    """
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_of_a_readable_size() -> None:
    long = {
        f"{named(path)}::{name}"
        for path in FILES
        for name, node in definitions(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and body_lines(node) > MAX_FUNCTION_LINES
    }
    judge(long, LONG_FUNCTIONS, f"more than {MAX_FUNCTION_LINES} lines in one function")


def first_words(path: Path) -> Iterator[str]:
    """Of every docstring: of the module, its classes and functions, and of what is assigned."""
    for node in ast.walk(parsed(path)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield (re.findall(r"\w+", text) or [""])[0]


def test_docstrings_open_with_a_noun_or_an_imperative() -> None:
    """A reader meets the thing before what is said of it."""
    riddles = {named(path) for path in FILES if INTERROGATIVES & set(first_words(path))}
    judge(riddles, RIDDLES, "a docstring opens with an interrogative (What, How, Whether, ...)")


def test_an_interrogative_is_seen(tmp_path: Path) -> None:
    """In the docstring of a module, a class, a method and a constant, and nowhere else."""
    file = tmp_path / "file.py"
    file.write_text(
        '"""A."""\nclass X:\n    """How."""\n    a = 1\n    """`When`."""\n'
        '    def f(self):\n        """Which?"""\n        return "What"\n'
    )
    assert list(first_words(file)) == ["A", "How", "When", "Which"]


def test_a_class_name_has_one_meaning() -> None:
    names = Counter(
        node.name
        for path in FILES
        for _, node in definitions(path)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    shared = {name for name, count in names.items() if count > 1}
    judge(shared, SHARED_CLASS_NAMES, "several classes of one name")


def test_a_file_name_has_one_meaning() -> None:
    names = Counter(path.name for path in FILES if package_of(path) != "cli")
    shared = {name for name, count in names.items() if count > 1}
    judge(shared, SHARED_FILE_NAMES, "several files of one name")


def test_a_test_file_has_a_name_of_its_own() -> None:
    """Folders of tests are no packages, so pytest knows a file by its name alone."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


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


@pytest.mark.parametrize(
    "path", [path for path in FILES if package_of(path) not in ("cli", "spinning")], ids=named
)
def test_below_the_command_line_nothing_prints_or_reads_the_environment(path: Path) -> None:
    """Only cli/ talks to a terminal and knows the environment. Setting a variable for a child
    process is not reading one, and those that `spinning` leaves to the user are the OpenMP
    library's.
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


def test_the_tokenizer_package_names_no_torch() -> None:
    wrong = [
        f"{named(path)} line {line}"
        for path in FILES
        if package_of(path) == "tokenizer"
        for line, module in imported_modules(parsed(path), dotted_package(path))
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
