"""What others may build on: `puna.__all__`, and every name without an underscore in every package,
described and typed.
"""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import puna

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
)
# Written by a library's rules, not by ours: their meaning is that of the class they stand in
INHERITED_MEANING = frozenset({"forward", "extra_repr", "step"})


def loaded(name: str) -> ModuleType:
    """The module; skipped where an extra that it wants is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "puna":
            raise
        pytest.skip(f"{error.name} is not installed")


def public_definitions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes and functions that this module defines and does not hide."""
    for name, value in vars(module).items():
        if (
            not name.startswith("_")
            and (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == module.__name__
        ):
            yield name, value


def public_methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties that the class itself spells out; what dataclasses and pydantic
    write for it is theirs.
    """
    source = inspect.getsource(cls)
    for name, value in vars(cls).items():
        function = inspect.unwrap(
            value.fget
            if isinstance(value, property)
            else getattr(value, "func", getattr(value, "__func__", value))
        )
        if (
            inspect.isfunction(function)
            and f"def {name}(" in source
            and (not name.startswith("_") or name == "__init__")
        ):
            yield name, function


def unannotated(function: Any) -> list[str]:
    """The parameters, and `return`, that say no type."""
    signature = inspect.signature(function)
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name not in ("self", "cls")
    ]
    if signature.return_annotation is signature.empty:
        missing.append("return")
    return missing


def test_all_is_sorted_and_importable() -> None:
    assert list(puna.__all__) == sorted(puna.__all__)
    for name in puna.__all__:
        assert getattr(puna, name) is not None


def test_dir_shows_what_is_loaded_late() -> None:
    assert set(puna.__all__) <= set(dir(puna))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = puna.no_such_name


def test_all_is_documented() -> None:
    """Every exported name stands in docs/python.md as `puna.NAME`, and carries a docstring of its
    own.
    """
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    missing = [name for name in puna.__all__ if f"puna.{name}" not in page]
    assert not missing, f"docs/python.md does not name {', '.join(missing)}"
    for name in puna.__all__:
        value = getattr(puna, name)
        if not isinstance(value, str):
            assert inspect.getdoc(value), f"puna.{name} has no docstring"


def test_the_parts_are_sorted_and_importable() -> None:
    nn = loaded("puna.nn")
    assert list(nn.__all__) == sorted(nn.__all__)
    for name in nn.__all__:
        assert inspect.getdoc(getattr(nn, name)), f"puna.nn.{name} has no docstring"


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert puna.__version__ == version("puna")


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_described(name: str) -> None:
    module = loaded(name)
    missing = []
    for label, value in public_definitions(module):
        # a dataclass writes its own
        if not value.__doc__ or (inspect.isclass(value) and value.__doc__.startswith(f"{label}(")):
            missing.append(label)
        if inspect.isclass(value):
            missing += [
                f"{label}.{method}"
                for method, _ in public_methods(value)
                # an override may have its docstring from the class that it derives from
                if not inspect.getdoc(getattr(value, method))
                and method not in INHERITED_MEANING
                and method != "__init__"
            ]
    assert not missing, f"{name} describes nothing at {', '.join(missing)}"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_typed(name: str) -> None:
    module = loaded(name)
    missing = []
    for label, value in public_definitions(module):
        functions = public_methods(value) if inspect.isclass(value) else [(label, value)]
        for part, function in functions:
            found = unannotated(inspect.unwrap(function))
            if found:
                missing.append(
                    f"{label}.{part}" if inspect.isclass(value) else f"{label}: {', '.join(found)}"
                )
    assert not missing, f"{name} leaves types out at {'; '.join(missing)}"


def test_type_checkers_may_read_the_types() -> None:
    marker = Path(puna.__file__).with_name("py.typed")
    assert marker.is_file(), (
        "py.typed is missing, so type checkers of other projects would ignore ours"
    )
