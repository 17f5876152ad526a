"""The pages tell the truth: what README.md, CONTRIBUTING.md, CHANGELOG.md and docs/ name exists,
and what they show runs.

What is read, in inline code and in fenced blocks:

    a path           `src/puna/nn/rope.py`, or short for it `nn/rope.py`; a folder ends in a slash
    path / symbol    `src/puna/nn/rope.py` / `rotate`: the symbol is in that file
    puna.x.y         resolves by import and attribute
    puna COMMAND     the command and its options exist; in a fenced block the whole line parses
    make TARGET      is a target of the Makefile
    section.key      is a key of a recipe, also as section.key=value

Left alone: what a run writes (`runs/`), places in capitals (`RUN/model/`), and file names without a
folder (`puna.json`).
"""

import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic_core import PydanticUndefined

from puna.cli.main import app
from puna.config import Config, dotted_keys, overlay, validate
from puna.errors import ConfigError
from puna.inference.request import GenerationOptions
from puna.study.definition import Study, read_study, resolve_arms
from puna.study.metrics import METRICS
from puna.train.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
RECIPES = sorted([*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "studies").glob("*/recipe.yaml")])
FILE_ENDINGS = (
    r"\.(?:py|md|yaml|yml|json|jsonl|ndjson|toml|html|safetensors|txt|gz|zst|parquet|tokens|offsets"
    r"|arrow|bin|pt|so|gguf|model)$"
)
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:/|" + FILE_ENDINGS + r")?")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# Folders that are the user's or a run's, so that what they hold is not here
ELSEWHERE = ("runs/", "my-notes/", "books/", "web/", "models/")
SECTIONS = frozenset(key for key in dotted_keys(Recipe) if "." not in key)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fences(page: Path, *languages: str) -> list[str]:
    return [
        text
        for language, text in FENCE.findall(page.read_text(encoding="utf-8"))
        if language in languages
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    return INLINE.findall(prose(page))


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The commands of the page's shell blocks as words, without prompts, comments and what follows
    a pipe.
    """
    for block in fences(page, "sh", "bash", "shell", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            end = next(
                (place for place, word in enumerate(words) if word in ("|", "<", ">", "&&", ";")),
                len(words),
            )
            if words[:end]:
                yield words[:end]


def find_path(name: str) -> Path | None:
    """Where the repository has this path: at its root, or in the package for those written
    short.
    """
    return next(
        (found for base in (ROOT, ROOT / "src" / "puna") if (found := base / name).exists()), None
    )


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words after `puna` name, and the words that are left for it."""
    command, rest = command_line(), list(words)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            if rest[0] == "...":
                return command, []
            raise LookupError(
                f"puna has no command {' '.join(words)}: {', '.join(command.commands)} exist"
            )
        command = command.commands[rest.pop(0)]
    return command, rest


def unknown_options(command: Any, words: list[str]) -> list[str]:
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help"}
    return [
        word
        for word in words
        if re.fullmatch(r"-{1,2}[a-z][\w-]*(=.*)?", word) and word.partition("=")[0] not in known
    ]


def is_recipe_key(key: str) -> bool:
    return key in dotted_keys(Recipe)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_paths_exist(page: Path) -> None:
    missing = []
    for code in inline_code(page):
        if (
            "/" not in code
            or not PATH.fullmatch(code)
            or code.startswith(ELSEWHERE)
            or re.match(r"[A-Z]{2,}/", code)
        ):
            continue
        if find_path(code) is None:
            missing.append(code)
    assert not missing, f"{named(page)} names what is not there: {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_symbols_are_in_the_files_named_beside_them(page: Path) -> None:
    wrong = []
    for path, symbol in re.findall(r"`([\w./-]+\.py)`\s+/\s+`([\w.]+)`", prose(page)):
        file = find_path(path)
        if file is None:
            wrong.append(f"{path} is not there")
        elif (ROOT / "src") in file.parents:
            module = ".".join(file.relative_to(ROOT / "src").with_suffix("").parts)
            if not resolves(f"{module.removesuffix('.__init__')}.{symbol}"):
                wrong.append(f"{path} has no {symbol}")
        elif not re.search(
            rf"^(?:def|class)? *{re.escape(symbol)}\b",
            file.read_text(encoding="utf-8"),
            re.MULTILINE,
        ):
            wrong.append(f"{path} has no {symbol}")
    assert not wrong, f"{named(page)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_dotted_names_resolve(page: Path) -> None:
    names = {
        code.partition("(")[0]
        for code in inline_code(page)
        if re.match(r"puna\.[\w.]+(\(|$)", code)
    }
    wrong = sorted(
        name for name in names if not re.search(FILE_ENDINGS, name) and not resolves(name)
    )
    assert not wrong, f"{named(page)} names what cannot be imported: {', '.join(wrong)}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute (of an attribute ...) of one; a field of a
    dataclass counts.
    """
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            if part in getattr(value, "__annotations__", {}):
                return True
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_in_prose_exist(page: Path) -> None:
    wrong = []
    for code in inline_code(page):
        words = code.split()
        if words[0] == "puna" and len(words) > 1:
            try:
                command, rest = find_command(words[1:])
            except LookupError as error:
                wrong.append(str(error))
                continue
            wrong += [
                f"`{code}`: there is no {option}" for option in unknown_options(command, rest)
            ]
        elif words[0] == "make" and len(words) > 1 and "=" not in words[1]:
            wrong += (
                [] if words[1] in make_targets() else [f"the Makefile has no target {words[1]}"]
            )
    assert not wrong, f"{named(page)}: {'; '.join(wrong)}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_in_blocks_parse(page: Path) -> None:
    """Every `puna` line of a shell block has what the command needs, of the right types; recipes
    that it names exist.
    """
    wrong = []
    for words in shell_lines(page):
        program = words[0].rpartition("/")[2]
        if program == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            wrong += [
                f"the Makefile has no target {target}"
                for target in targets
                if target not in make_targets()
            ]
        if program != "puna":
            continue
        try:
            command, rest = find_command(words[1:])
            command.make_context(command.name, list(rest))
        except LookupError as error:
            wrong.append(str(error))
        # every fault of a command line; typer keeps the classes to itself
        except Exception as error:
            wrong.append(f"{' '.join(words)}: {getattr(error, 'message', None) or error!r}")
        for word in rest:
            key = re.match(r"([a-z_]+(?:\.[a-z_]+)*)=", word)
            if key and command.name in ("train", "verify-resume") and not is_recipe_key(key[1]):
                wrong.append(f"{' '.join(words)}: {key[1]} is no key of a recipe")
            if word.startswith("recipes/") and not (ROOT / word).is_file():
                wrong.append(f"{word} is not there")
    assert not wrong, f"{named(page)}: {'; '.join(wrong)}"


@cache
def make_targets() -> frozenset[str]:
    return frozenset(
        re.findall(
            r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        )
    )


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert (
        set(phony[1].split())
        == make_targets()
        == set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_recipe_keys_exist(page: Path) -> None:
    """In prose `section.key` or `section.key=value`; in YAML blocks every key, and whole recipes
    and studies validate.
    """
    wrong = []
    for code in inline_code(page):
        key = code.partition("=")[0]
        section, dot, _ = key.partition(".")
        if (
            dot
            and section in SECTIONS
            and re.fullmatch(r"[a-z_.]+", key)
            and not re.search(FILE_ENDINGS, key)
            and not is_recipe_key(key)
        ):
            wrong.append(key)
    for block in fences(page, "yaml"):
        values = yaml.safe_load(block)
        values.pop("extends", None)
        if "question" in values:
            validate(Study, values, origin=named(page))
            continue
        wrong += [key for key in written_keys(values) if not is_recipe_key(key)]
        if {"tokenizer", "data", "model", "train"} <= set(values):
            file = ROOT / "recipes" / "shown.yaml"
            validate(Recipe, as_read(block), origin=f"{named(page)} as {file.name}")
    assert not wrong, f"{named(page)} names keys that no recipe has: {', '.join(wrong)}"


def as_read(block: str) -> dict[str, Any]:
    """The block's values as a recipe file's would be read, 1e-3 included."""
    import tempfile

    from puna.config import read_yaml

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(block, encoding="utf-8")
        return read_yaml(path)


def written_keys(values: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of nested mappings; entries of a list stand under the list's own key."""
    if isinstance(values, list):
        for value in values:
            yield from written_keys(value, prefix)
    if isinstance(values, dict):
        for key, value in values.items():
            dotted = f"{prefix}.{key}" if prefix else key
            yield dotted
            yield from written_keys(value, dotted)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_resolve(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(target)
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{target} (no such heading)")
    assert not wrong, f"{named(page)} has links that lead nowhere: {', '.join(wrong)}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tree_of_the_house_is_whole() -> None:
    """docs/architecture.md lists every source file, and no other."""
    (tree,) = fences(ROOT / "docs" / "architecture.md", "tree")
    folders: list[str] = []
    listed = set()
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        path = "".join(folders)
        assert (ROOT / path).exists(), f"the tree names {path}, which is not there"
        listed.add(path.rstrip("/"))
    package = ROOT / "src" / "puna"
    present = {
        named(path)
        for path in (*package.rglob("*.py"), *package.rglob("*.html"))
        if path.name != "__init__.py"
    }
    missing = sorted(present - listed)
    assert not missing, f"the tree of docs/architecture.md leaves out {', '.join(missing)}"


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_recipes_validate_and_open_with_their_command(recipe: Path) -> None:
    read_recipe(recipe, [])
    first = recipe.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"# puna train {named(recipe)}"), (
        f"{named(recipe)} does not open with the command that runs it"
    )


def printed_rows(page: Path, *head: str) -> Iterator[tuple[str, str]]:
    """(first cell's code, second cell) of every row of the tables with this head."""
    inside = False
    for line in prose(page).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif tuple(cells[:2]) == head:
            inside = True
        elif inside and (code := re.fullmatch(r"`([\w.]+)`", cells[0])):
            yield code[1], cells[1]


def field_of(cls: type[Config], dotted: str) -> Any:
    """The pydantic field behind a dotted key."""
    from typing import get_args

    name, dot, rest = dotted.partition(".")
    field = cls.model_fields[name]
    if not dot:
        return field
    inner = next(
        part
        for part in (field.annotation, *get_args(field.annotation))
        if isinstance(part, type) and issubclass(part, Config)
    )
    return field_of(inner, rest)


SMALLEST: dict[str, Any] = {
    "run": "runs/smallest",
    "tokenizer": {"path": "t"},
    "data": {"mixture": [{"path": "d"}]},
    "model": {"width": 64, "num_layers": 1, "num_heads": 2},
    "train": {"steps": 1000},
}


def is_enough(values: dict[str, Any]) -> bool:
    try:
        validate(Recipe, values, origin="the smallest recipe")
    except ConfigError:
        return False
    return True


def without(values: dict[str, Any], dotted: str) -> dict[str, Any]:
    name, dot, rest = dotted.partition(".")
    if not dot:
        return {key: value for key, value in values.items() if key != name}
    inner = values[name]
    if isinstance(inner, list):
        return values | {name: [without(value, rest) for value in inner]}
    return values | {name: without(inner, rest)}


def test_the_tables_of_recipe_keys_are_whole() -> None:
    """docs/recipes.md has a row for each key, with its default, in the order of the fields."""
    printed = dict(printed_rows(ROOT / "docs" / "recipes.md", "key", "default"))
    expected = dotted_keys(Recipe)
    assert set(printed) == set(expected), (
        f"missing {set(expected) - set(printed)}, unknown {set(printed) - set(expected)}"
    )
    for key, cell in printed.items():
        default = field_of(Recipe, key).default
        if default is PydanticUndefined:
            state = (
                "required"
                if key in written_keys(SMALLEST) and not is_enough(without(SMALLEST, key))
                else "derived"
            )
            assert cell == state, f"docs/recipes.md calls {key} {cell}, but it is {state}"
        else:
            assert_same_default(key, cell, default)


def test_the_table_of_generation_options_is_whole() -> None:
    printed = dict(printed_rows(ROOT / "docs" / "python.md", "option", "default"))
    assert set(printed) == set(GenerationOptions.model_fields)
    for key, cell in printed.items():
        assert_same_default(
            key, cell, GenerationOptions.model_fields[key].get_default(call_default_factory=True)
        )


def assert_same_default(key: str, cell: str, default: Any) -> None:
    if default is None:
        assert cell == "left out", f"{key} has no default, but its row says {cell}"
    elif isinstance(default, Config):
        assert cell == "all defaults"
    else:
        value: Any = yaml.safe_load(cell)
        if isinstance(default, float):
            value = float(value)
        assert value == (list(default) if isinstance(default, tuple) else default), (
            f"{key} is {default!r}, but its row says {cell}"
        )


def test_the_smallest_recipe_is_enough() -> None:
    assert is_enough(SMALLEST)
    assert is_enough(
        overlay(
            without(
                without(without(SMALLEST, "model.width"), "model.num_layers"), "model.num_heads"
            ),
            PRESET_ALONE,
        )
    )


PRESET_ALONE = {"model": {"preset": "puna-1m"}}


def test_every_preset_is_listed() -> None:
    from puna.model.config import PRESETS

    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert not [name for name in PRESETS if f"`{name}`" not in page]


def test_decisions_are_numbered_without_gaps() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for number, path in enumerate(decisions, 1):
        assert path.name.startswith(f"{number:04d}-"), (
            f"{path.name} is number {number} in the order of names"
        )
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {number:04d} ")
        for part in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert part in text, f"{path.name} has no {part}"


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained model where the pages say that one lies, below the working directory."""
    import torch

    from puna.model.config import ModelConfig
    from puna.model.init import init_weights
    from puna.model.transformer import build_transformer
    from puna.model.weights import write_model
    from puna.tokenizer.tokenizer import Tokenizer

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    folder = Path("runs/quickstart/model")
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.train(
        ["def main():\n    import sys\n    print('Hello', 2024)\n"] * 2, vocab_size=300
    )
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2, context_length=128
    )
    model = build_transformer(config)
    init_weights(model, 0)
    write_model(folder, model, bos_id=tokenizer.bos_id, eos_ids=(tokenizer.eos_id,))
    tokenizer.save(folder)
    return folder


def test_the_python_page_runs(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every block of docs/python.md, one after the other, as a reader would paste them."""
    scope: dict[str, Any] = {}
    for block in fences(ROOT / "docs" / "python.md", "python"):
        exec(
            compile(block.replace('device="auto"', 'device="cpu"'), "docs/python.md", "exec"), scope
        )
    assert capsys.readouterr().out


def test_the_table_of_study_keys_is_whole() -> None:
    keys = {key for key, _ in printed_rows(ROOT / "docs" / "studies.md", "key", "default")}
    leaves = {"rule.alpha", "rule.smallest_difference"} | Study.model_fields.keys() - {"rule"}
    assert keys == leaves


def test_the_table_of_metrics_is_whole() -> None:
    assert dict(printed_rows(ROOT / "docs" / "studies.md", "metric", "unit")) == {
        name: metric.unit for name, metric in METRICS.items()
    }


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*/study.yaml")), ids=named)
def test_studies_validate_and_open_with_their_command(path: Path) -> None:
    resolve_arms(read_study(path.parent), path.parent)
    assert path.read_text(encoding="utf-8").startswith(f"# puna study run {named(path.parent)}\n")
