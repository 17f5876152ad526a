"""Choices by name: defaults by name, what is rejected, and the fields that options become."""

from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field, model_validator

from puna.choices import (
    REQUIRED,
    Choice,
    ChoosingConfig,
    Table,
    ignored_overrides,
    named,
    with_options,
)
from puna.config import dotted_keys, validate
from puna.errors import ConfigError

SHAPES: Table = {
    "circle": Choice("shape", "builtins:dict", radius=2.0),
    "square": Choice("shape", "builtins:dict", side=1),
    "ring": Choice(
        "shape", "builtins:dict", radius=4.0, hole=Field(0.5, gt=0, description="its inner radius")
    ),
    "line": Choice("shape", "builtins:dict", points=REQUIRED),
}


@with_options
class Drawing(ChoosingConfig):
    """A shape, and the options that were there before the others."""

    families: ClassVar[dict[str, Table]] = {"shape": SHAPES}

    shape: Annotated[str, named(SHAPES)] = "circle"
    shape_radius: float = Field(default=1.0, gt=0)
    shape_points: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_its_choices(cls, values: Any) -> Any:
        preset = {"shape_radius": 9.0} if (values := dict(values)).pop("large", False) else {}
        return cls.with_defaults(values, preset)


def drawn(**values: Any) -> Drawing:
    return validate(Drawing, values, "a drawing")


def test_each_name_has_defaults_of_its_own() -> None:
    assert drawn().shape_radius == 2.0
    assert drawn(shape="ring").shape_radius == 4.0
    assert drawn(shape="ring", shape_radius=3.0).shape_radius == 3.0
    assert drawn(large=True).shape_radius == 9.0


def test_an_option_of_no_field_becomes_one_of_the_type_of_its_default() -> None:
    assert "shape_side" in dotted_keys(Drawing)
    assert Drawing.model_fields["shape_hole"].description == "its inner radius"
    with pytest.raises(ConfigError, match=r"shape_side = 1.5: Input should be a valid integer"):
        drawn(shape="square", shape_side=1.5)
    with pytest.raises(ConfigError, match=r"shape_hole = 0.0: Input should be greater than 0"):
        drawn(shape="ring", shape_hole=0.0)
    with pytest.raises(ConfigError, match=r"unknown key shape_sied \(did you mean shape_side\?\)"):
        drawn(shape="square", shape_sied=3)


def test_it_is_dumped_where_it_is_taken_and_nowhere_else() -> None:
    """So that a new choice changes no fingerprint of a configuration without it."""
    old = {"shape": "circle", "shape_radius": 2.0, "shape_points": None}
    assert drawn().model_dump() == old
    square = drawn(shape="square")
    assert square.model_dump() == {**old, "shape": "square", "shape_radius": 1.0, "shape_side": 1}
    assert drawn(**square.model_dump()) == square


def test_the_target_is_called_with_the_numbers_and_the_options() -> None:
    ring = drawn(shape="ring", shape_hole=0.25)
    assert SHAPES["ring"].build(ring, {"width": 7}) == {"width": 7, "radius": 4.0, "hole": 0.25}
    assert SHAPES["ring"].load() is dict


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"shape": "square", "shape_radius": 3.0},
            (
                r"^a drawing: shape_radius = 3.0 means nothing with shape = square: leave it out"
                r" \(null\), or choose one that takes it \(circle, ring\)$"
            ),
        ),
        (
            {"shape": "square", "shape_radius": 3.0, "shape_hole": 0.1},
            r"shape_hole = 0.1 means nothing with .* \(ring\); shape_radius = 3.0 means nothing",
        ),
        ({"shape": "square", "shape_radius": 3.0, "large": True}, r"shape_radius = 3.0 means"),
        ({"shape": "line"}, r"line requires shape_points: give it"),
        ({"shape": "cube"}, r"shape: there is no 'cube'; choose one of circle, square, ring, line"),
        ({"shape": ["circle"]}, r"shape = \['circle'\]: Input should be a valid string"),
    ],
)
def test_what_the_choice_ignores_or_lacks_is_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drawn(**values)


@pytest.mark.parametrize(
    "values", [{"shape_radius": 1.0}, {"large": True}, {"shape_radius": 9.0, "large": True}]
)
def test_what_was_not_asked_for_is_no_error(values: dict[str, Any]) -> None:
    """The default, and what a preset brought; it stays in the dump, as it always did."""
    radius = 9.0 if "large" in values else 1.0
    square = drawn(shape="square", **values)
    assert square.model_dump()["shape_radius"] == radius
    assert drawn(**square.model_dump()) == square


def test_another_name_over_a_stored_configuration_drops_the_late_options() -> None:
    """As `puna train runs/x/recipe.yaml model.norm=...` does; the others are kept, as ever."""
    ring = drawn(shape="ring", shape_radius=3.0).model_dump()
    square = drawn(**{**ring, "shape": "square"}).model_dump()
    old = {"shape": "square", "shape_radius": 3.0, "shape_points": None}
    assert square == {**old, "shape_side": 1}


def test_what_is_asked_for_over_a_stored_configuration_is_judged() -> None:
    stored = drawn(shape="square", shape_side=2).model_dump()
    square = drawn(**{**stored, "shape_radius": 3.0})  # as if it were stored too
    (sentence,) = ignored_overrides(square, {"shape_radius": 3.0}, stored)
    assert sentence.startswith("shape_radius = 3.0 means nothing with shape = square: leave it out")
    for given in ({"shape_radius": None}, {"shape_radius": 1.0}, {"shape_side": 5}, {"other": 1}):
        assert ignored_overrides(square, given, stored) == []
    ring = drawn(**{**stored, "shape": "ring"})
    assert ignored_overrides(ring, {"shape": "ring", "shape_radius": 3.0}, stored) == []
    (sentence,) = ignored_overrides(ring, {"shape_points": 3}, stored, "page.drawing")
    assert sentence.startswith("page.drawing: shape_points = 3 means nothing with shape = ring")


def test_null_leaves_out_what_lies_below() -> None:
    assert drawn(shape="square", shape_radius=None).shape_radius == 1.0
    with pytest.raises(ConfigError, match=r"shape_radius = None: Input should be a valid number"):
        drawn(shape="circle", shape_radius=None)
