"""From YAML and overrides to a frozen, hashed value, and what is said on the way there when
something is wrong.
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from puna.config import (
    Config,
    apply_overrides,
    dotted_keys,
    dump_yaml,
    overlay,
    read_yaml,
    validate,
)
from puna.errors import ConfigError


class Inner(Config):
    steps: int = Field(default=10, gt=0)
    rate: float = 1e-3
    names: tuple[str, ...] = Field(default=(), strict=False)


class Part(Config):
    path: str = ""


class Outer(Config):
    run: str = "here"
    train: Inner = Inner()
    other: Inner | None = None
    parts: tuple[Part, ...] = Field(default=(), strict=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("200", 200),
        ("1e-3", 0.001),
        ("+1E3", 1000.0),
        (".5e2", 50.0),
        ("-2.5e-4", -0.00025),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("[1, 2e-1, x]", [1, 0.2, "x"]),
        ("{a: 1e1}", {"a": 10.0}),
        ("runs/here", "runs/here"),
        ("a=b", "a=b"),
        ("'1e-3'", "1e-3"),
        ("'7'", "7"),
        ("nan", "nan"),
        ("1e-3x", "1e-3x"),
        ("e5", "e5"),
        ("", None),
    ],
)
def test_the_right_side_of_an_override_is_typed(text: str, value: Any) -> None:
    assert apply_overrides({}, [f"train.x={text}"]) == {"train": {"x": value}}


def test_overrides_apply_in_order_and_leave_their_input_alone() -> None:
    values = {"train": {"steps": 1, "rate": 2.0}, "run": "here"}
    changed = apply_overrides(
        values, ["train.steps=5", "other.names=[a]", "train.steps=6", "run=there"]
    )
    assert changed == {
        "train": {"steps": 6, "rate": 2.0},
        "run": "there",
        "other": {"names": ["a"]},
    }
    assert values == {"train": {"steps": 1, "rate": 2.0}, "run": "here"}


@pytest.mark.parametrize(
    "override", ["train.steps", "=3", ".steps=3", "train..steps=3", "train.=3", ""]
)
def test_a_malformed_override_is_quoted_back(override: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form section\.key=value") as caught:
        apply_overrides({}, [override])
    assert repr(override) in str(caught.value)


def test_an_override_that_is_no_yaml_is_quoted_back() -> None:
    with pytest.raises(ConfigError, match=r"'train.names=\[a' is not valid YAML"):
        apply_overrides({}, ["train.names=[a"])


def test_extends_is_relative_to_the_file_that_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.yaml").write_text("run: base\ntrain: {steps: 1, rate: 1e-2, names: [a, b]}\n")
    (tmp_path / "deep" / "middle.yaml").write_text("extends: ../base.yaml\ntrain: {names: [c]}\n")
    (tmp_path / "top.yaml").write_text("extends: deep/middle.yaml\ntrain: {steps: 3}\n")
    monkeypatch.chdir(tmp_path / "deep")
    assert read_yaml(Path("../top.yaml")) == {
        "run": "base",
        "train": {"steps": 3, "rate": 0.01, "names": ["c"]},
    }


def test_a_circle_of_extends_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(
        ConfigError, match=r"extends itself through a\.yaml -> b\.yaml -> a\.yaml; break the circle"
    ):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train: {steps: 1", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        (b"- 1\n- 2\n", "holds list, but a recipe is a mapping of sections such as `train:`"),
        (b"", "holds NoneType"),
        (b"extends: gone.yaml\n", r"cannot read the recipe .*gone\.yaml: No such file"),
    ],
)
def test_a_file_that_is_no_recipe(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


TREES = st.recursive(
    st.integers() | st.text("abc") | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.text("abc", min_size=1, max_size=2), TREES, max_size=3)


@given(MAPPINGS, MAPPINGS)
def test_overlay_keeps_the_base_and_lets_the_top_win(
    base: dict[str, Any], top: dict[str, Any]
) -> None:
    merged = overlay(base, top)
    assert overlay(base, {}) == base
    assert overlay({}, top) == top
    assert overlay(merged, top) == merged
    assert merged.keys() == base.keys() | top.keys()
    for key in merged:
        if isinstance(base.get(key), dict) and isinstance(top.get(key), dict):
            assert merged[key] == overlay(base[key], top[key])
        else:
            assert merged[key] == (top[key] if key in top else base[key])


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.text(max_size=8) | st.floats(allow_nan=False) | st.integers(),
        max_size=4,
    )
)
def test_what_is_dumped_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    """A folder called 1e5 stays a folder: the dumper quotes what the loader would take for a
    number.
    """
    path = tmp_path_factory.mktemp("dump") / "values.yaml"
    path.write_text(dump_yaml({"values": values, "folder": "1e5"}), encoding="utf-8", newline="")
    assert read_yaml(path) == {"values": values, "folder": "1e5"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"stepz": 3}}, "unknown key train.stepz (did you mean train.steps?)"),
        ({"steps": 3}, "unknown key steps (did you mean train.steps?)"),
        ({"parts": [{"paht": ""}]}, "unknown key parts.0.paht (did you mean parts.path?)"),
        ({"other": {"rte": 3}}, "unknown key other.rte (did you mean other.rate?)"),
        ({"train": {"zzz": 3}}, "unknown key train.zzz (known here: steps, rate, names)"),
        ({"train": {"steps": "many"}}, "train.steps = 'many': Input should be a valid integer"),
        ({"train": {"steps": 1.5}}, "train.steps = 1.5: Input should be a valid integer"),
        ({"train": {"steps": True}}, "train.steps = True: Input should be a valid integer"),
        ({"train": {"steps": 0}}, "train.steps = 0: Input should be greater than 0"),
        ({"train": {"rate": "fast"}}, "train.rate = 'fast': Input should be a valid number"),
        ({"train": {"rate": float("inf")}}, "train.rate = inf: Input should be a finite number"),
        ({"run": 3}, "run = 3: Input should be a valid string"),
        ({"train": 3}, "train = 3: Input should be"),
    ],
)
def test_a_broken_rule_names_the_key_and_the_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Outer, values, "recipe.yaml")
    assert str(caught.value).startswith("recipe.yaml: ")
    assert message in str(caught.value)


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Outer, {"train": {"steps": 0, "stepz": 1}, "run": 1}, "recipe.yaml")
    assert str(caught.value).count(";") == 2


def test_text_that_looks_like_a_number_stays_text() -> None:
    assert validate(
        Outer, {"run": "1e5", "train": {"names": ["7", "nan", "1_0"]}}, "x"
    ).train.names == ("7", "nan", "1_0")


def test_values_cannot_change() -> None:
    config = Outer()
    with pytest.raises(ValidationError, match="frozen"):
        config.run = "there"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.train.steps = 3  # type: ignore[misc]


def test_the_fingerprint_is_of_the_values_alone() -> None:
    assert Outer().fingerprint() == "846e9371be07b7fd"  # on every machine, in every process
    assert (
        validate(Outer, {"train": {"rate": 0.001, "steps": 10}, "run": "here"}, "x").fingerprint()
        == Outer().fingerprint()
    )
    others = [
        {"run": "there"},
        {"train": {"steps": 11}},
        {"other": {}},
        {"train": {"names": ["a"]}},
    ]
    assert len({validate(Outer, values, "x").fingerprint() for values in [{}, *others]}) == 5


def test_dotted_keys_reach_into_sections() -> None:
    inner = ["steps", "rate", "names"]
    sections = [
        key
        for section in ("train", "other")
        for key in (section, *(f"{section}.{name}" for name in inner))
    ]
    assert dotted_keys(Outer) == ["run", *sections, "parts", "parts.path"]
