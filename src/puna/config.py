"""From YAML and dotted overrides to a validated, frozen, hashed configuration.

A configuration class derives from `Config`: its fields are typed, its values cannot change after
construction, and a key that it does not know is an error that names the nearest one. Derived values
are properties, never sentinels.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from puna.errors import ConfigError

C = TypeVar("C", bound="Config")


class _Loader(yaml.SafeLoader):
    """YAML whose 1e-3 is a number. YAML 1.1 takes it for a string because it has no dot; everyone
    who types it means the number.
    """


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: the string '1e-3' is quoted."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z"),
        list("-+.0123456789"),
    )


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def fingerprint(self) -> str:
        """The first 16 hex digits of the SHA-256 of the values as sorted JSON: equal for equal
        configurations, on any machine.
        """
        values = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()[:16]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; `extends: other.yaml` (relative to this file) is read first and
    overlaid, section by section.

    Raises ConfigError for a missing file, YAML that does not parse, a top level that is no mapping,
    or a circle of `extends`.
    """
    return _read_yaml(path, ())


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ConfigError(
            f"{path} extends itself through {' -> '.join(p.name for p in (*seen, path))}; break the"
            " circle"
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds {type(values).__name__}, but a recipe is a mapping of sections such as"
            " `train:`"
        )
    base = values.pop("extends", None)
    if base is None:
        return values
    return overlay(_read_yaml(path.parent / str(base), (*seen, path)), values)


def overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` over it; mappings are merged key by key, everything else
    (lists too) is replaced.
    """
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = (
            overlay(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `train.steps=200` style overrides, in order; the right side is read as YAML (so `1e-3`,
    `true`, `[1, 2]` are typed).
    """
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not all(dotted.split(".")):
            raise ConfigError(f"the override {override!r} is not of the form section.key=value")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"the value of the override {override!r} is not valid YAML: {error}"
            ) from error
        for key in reversed(dotted.split(".")):
            value = {key: value}
        values = overlay(values, value)
    return values


def dump_yaml(values: dict[str, Any]) -> str:
    """The YAML that `read_yaml` reads as `values`."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def validate(cls: type[C], values: dict[str, Any], origin: str) -> C:
    """Build `cls` from plain values, or raise one ConfigError that lists every broken rule with its
    dotted key.

    origin: what to call the values in the message, such as the recipe's path.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            location = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown key {location}{_nearest(cls, problem['loc'])}")
            elif problem["type"] == "missing":
                lines.append(f"{location} is required")
            elif problem["type"] == "value_error":
                where = f"{location}: " if location else ""
                lines.append(where + problem["msg"].removeprefix("Value error, "))
            else:
                lines.append(f"{location} = {problem['input']!r}: {problem['msg']}")
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from error


def _nearest(cls: type[Config], location: tuple[int | str, ...]) -> str:
    """' (did you mean train.steps?)' for the unknown key at `location`: the same name in another
    section, or a like one in its own.
    """
    # indices of a list are no keys
    *above, unknown = (part for part in location if isinstance(part, str))
    names = [
        (section, name) for section, _, name in (key.rpartition(".") for key in dotted_keys(cls))
    ]
    siblings = [name for section, name in names if section == ".".join(above)]
    elsewhere: list[tuple[str, ...]] = [
        (section, name) if section else (name,) for section, name in names if name == unknown
    ]
    close = elsewhere or [
        (*above, name) for name in difflib.get_close_matches(unknown, siblings, n=1, cutoff=0.5)
    ]
    if close:
        return f" (did you mean {'.'.join(close[0])}?)"
    return f" (known here: {', '.join(siblings)})" if siblings else ""


def dotted_keys(cls: type[Config]) -> list[str]:
    """Every key of `cls` and of the sections inside it, as `section.key`."""
    keys: list[str] = []
    for name, field in cls.model_fields.items():
        keys.append(name)
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Config):
                keys += [f"{name}.{key}" for key in dotted_keys(part)]
    return keys
