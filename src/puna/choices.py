"""Choices by name: what a name in a configuration stands for, and the options that it takes.

A family (norms, schedules, ...) is a table from names to `Choice`s. `ChoosingConfig` validates
against such tables: an unknown name, and an option that the chosen name ignores, are errors. The
tables hold texts and numbers alone, so that a recipe is read without the library behind its parts.
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, SerializerFunctionWrapHandler, create_model, model_serializer
from pydantic.fields import FieldInfo

from puna.config import Config, overlay

REQUIRED = FieldInfo()
"""In place of a default: the option must be given."""


class Choice:
    """One line of a table: the class or function that a name stands for, and its options.

        "rmsnorm": Choice("norm", "puna.nn.norm:RMSNorm", eps=1e-5, bias=False)

    prefix: the argument `eps` has the key `norm_eps`; with an empty prefix, `eps`. target: as
    "module:name", imported at `load`. defaults: what an option is where it is left out, `REQUIRED`,
    or a pydantic `Field(default, gt=0, description=...)` with limits. A key that is no field of the
    configuration becomes one, of the type of its default (`with_options`).
    """

    def __init__(self, prefix: str, target: str, **defaults: Any) -> None:
        self.target = target
        self.arguments: Mapping[str, str] = {
            f"{prefix}_{argument}" if prefix else argument: argument for argument in defaults
        }
        self.options: Mapping[str, FieldInfo] = {
            key: value if isinstance(value, FieldInfo) else FieldInfo(default=value)
            for key, value in zip(self.arguments, defaults.values(), strict=True)
        }

    def deciding(self, **options: Any) -> "Choice":
        """The same with further options, by their keys, that decide something about the
        configuration and are no arguments of the target.
        """
        other = Choice("", self.target, **options)
        other.options = {**self.options, **other.options}
        other.arguments = self.arguments
        return other

    def load(self) -> Any:
        """The class or function itself."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)

    def values(self, config: Config) -> dict[str, Any]:
        """The options that `config` has chosen, by argument."""
        return {argument: getattr(config, key) for key, argument in self.arguments.items()}

    def build(self, config: Config, *numbers: Any) -> Any:
        """Call the target with `numbers` and the options of `config`."""
        return self.load()(*numbers, **self.values(config))


Table = Mapping[str, Choice]


def named(table: Iterable[str]) -> AfterValidator:
    """Only a name of this table; the error lists them."""
    names = tuple(table)

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"there is no {name!r}; choose one of {', '.join(names)}")
        return name

    return AfterValidator(check)


class ChoosingConfig(Config):
    """A configuration with names of choices among its values, and with their options.

    An option that no chosen name takes is an error where it was given and would change something.
    Accepted is what it would be anyhow: the default, what a preset brought, and null. A mapping
    that holds every key is no request but a stored configuration, which a program wrote; what its
    choices ignore is kept in it as it is, for it is part of its fingerprint (late options, which
    are not, are dropped). What is asked for over a stored one `ignored_overrides` judges.
    """

    families: ClassVar[Mapping[str, Table]]
    """By the field that holds the name."""
    late_options: ClassVar[frozenset[str]] = frozenset()
    """Keys that are left out of what is dumped where they are at their defaults, so that a new
    choice changes no fingerprint of those without it; those that `with_options` makes are among
    them.
    """

    @classmethod
    def with_defaults(
        cls, values: dict[str, Any], preset: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The given values over those of the preset, with the defaults of the chosen names' options
        filled in. Raises ValueError for an option that they ignore or lack.
        """
        given, preset = values, preset or {}
        values = overlay(dict(preset), given)
        chosen = {
            field: values.get(field, cls.model_fields[field].default) for field in cls.families
        }
        taken = {
            key: (name, option)
            for field, name in chosen.items()
            for key, option in _options(cls.families[field], name).items()
        }
        # nobody writes every key by hand, and every dump has them
        stored = cls.model_fields.keys() - cls.late_options <= given.keys()
        broken = []
        for key, sentence in cls._ignored(given, chosen, preset).items():
            if given[key] is None or (stored and key in cls.late_options):
                values[key] = cls.model_fields[key].default
            elif not stored:
                broken.append(sentence)
        if broken:
            raise ValueError("; ".join(sorted(broken)))
        for key, (name, option) in taken.items():
            absent = key not in values or (
                values[key] is None and cls.model_fields[key].default is None
            )
            if absent and option.is_required():
                raise ValueError(f"{name} requires {key}: give it")
            if absent:
                values[key] = option.default
        return values

    @classmethod
    def _ignored(
        cls, given: Mapping[str, Any], chosen: Mapping[str, Any], below: Mapping[str, Any]
    ) -> dict[str, str]:
        """A sentence for each given option that the chosen names ignore, unless it is what lies
        `below` it, or the default.
        """
        found = {}
        for key in given.keys() & cls.model_fields.keys():
            if any(key in _options(cls.families[field], name) for field, name in chosen.items()):
                continue
            takers = cls._takers(key, chosen)
            if takers and given[key] != below.get(key, cls.model_fields[key].default):
                found[key] = f"{key} = {given[key]!r} means nothing with {takers}"
        return found

    @classmethod
    def _takers(cls, key: str, chosen: Mapping[str, Any]) -> str:
        """The chosen name to which this option means nothing, and the remedy; empty where `key` is
        no option, or where the chosen name does not exist.
        """
        for field, table in cls.families.items():
            takers = [name for name, choice in table.items() if key in choice.options]
            if takers and chosen[field] in tuple(table):
                return (
                    f"{field} = {chosen[field]}: leave it out (null), or choose one that takes it"
                    f" ({', '.join(takers)})"
                )
        return ""

    @model_serializer(mode="wrap")
    def _without_late_options(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        return {
            key: value
            for key, value in values.items()
            if key not in self.late_options or value != type(self).model_fields[key].default
        }


def ignored_overrides(
    config: Config, given: Mapping[str, Any], below: Mapping[str, Any], section: str = ""
) -> list[str]:
    """A sentence for each given option that the choices of a configuration ignore, in it and in its
    sections; null, and what lies `below` anyhow, are none.

    given: the values that were asked for over those `below`, which may be a stored configuration:
    that accepts what its choices ignore, so that `config`, made of both, does.
    """
    sentences = []
    if isinstance(config, ChoosingConfig):
        chosen = {field: getattr(config, field) for field in config.families}
        found = config._ignored(given, chosen, below)
        sentences = [
            f"{section}: {sentence}" if section else sentence
            for key, sentence in sorted(found.items())
            if given[key] is not None
        ]
    for name, value in config:
        asked, under = given.get(name), below.get(name)
        if isinstance(value, Config) and isinstance(asked, dict):
            inside = f"{section}.{name}" if section else name
            under = under if isinstance(under, dict) else {}
            sentences += ignored_overrides(value, asked, under, inside)
    return sentences


def _options(table: Table, name: Any) -> Mapping[str, FieldInfo]:
    return table[name].options if name in tuple(table) else {}


C = TypeVar("C", bound=ChoosingConfig)


def with_options(cls: type[C]) -> type[C]:
    """The class with a field for each option of its families that it does not spell out: of the
    type of its default, and None where the chosen name does not take it.
    """
    options = {
        key: option
        for table in cls.families.values()
        for choice in table.values()
        for key, option in choice.options.items()
        if key not in cls.model_fields
    }
    fields: dict[str, Any] = {
        key: (
            Annotated[(type(option.default), *(option.metadata or [None]))] | None,
            FieldInfo(default=None, description=option.description),
        )
        for key, option in options.items()
    }
    made = create_model(
        cls.__name__, __base__=cls, __module__=cls.__module__, __doc__=cls.__doc__, **fields
    )
    made.late_options = cls.late_options | frozenset(fields)
    return made
