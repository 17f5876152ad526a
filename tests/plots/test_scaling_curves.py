"""The drawing of a plan's curves as one SVG file."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from drawn_text import texts

from puna.errors import PunaError
from puna.plots.scaling_curves import Panel, ScalingCurves, write_scaling_curves

SPACE = "{http://www.w3.org/2000/svg}"


def panel(title: str, *labels: str) -> Panel:
    parameters = np.geomspace(1e8, 1e10, 20)
    return Panel(
        title,
        "FLOPs",
        [
            (label, parameters, parameters**1.5 * index, (1e9, 3e13))
            for index, label in enumerate(labels, 1)
        ],
    )


def test_a_file_holds_every_panel_s_title_labels_and_axes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "curves.svg"
    write_scaling_curves(
        path,
        [
            (panel("one", "a <b>", "c"), panel("two", "d")),
            (panel("three", "e"), panel("four", "f")),
        ],
    )
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SPACE}svg"
    texts = ["".join(text.itertext()).strip() for text in root.iter(f"{SPACE}text")]
    for text in ("one", "two", "three", "four", "a <b>", "c", "d", "e", "f"):
        assert texts.count(text) == 1, text
    assert texts.count("parameters") == texts.count("FLOPs") == 4
    assert {"100M", "1B", "10B"} <= set(texts)


def test_equal_numbers_give_equal_files_without_a_date(tmp_path: Path) -> None:
    first, second = tmp_path / "x" / "c.svg", tmp_path / "y" / "c.svg"
    for path in (first, second):
        write_scaling_curves(path, [[panel("one", "a")]])
    assert first.read_bytes() == second.read_bytes()
    assert b"dc:date" not in first.read_bytes()


def test_another_format_is_rejected_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match=r"curves\.png is no SVG file by its name"):
        write_scaling_curves(tmp_path / "curves.png", [[panel("one", "a")]])
    assert not list(tmp_path.iterdir())


def test_curves_of_a_law_carry_the_runs_as_points() -> None:
    numbers = np.geomspace(1e5, 1e7, 9)
    panel = Panel(
        "Equal loss",
        "tokens",
        [("loss 3.00", numbers, 1e12 / numbers, (1e6, 1e6))],
        [("small $x$", 2e5, 1e6)],
    )
    svg = ScalingCurves("law", [panel], "a law").svg
    assert {"Equal loss", "loss 3.00", "small $x$"} <= set(texts(svg))
    assert "var(--arm-1)" not in svg  # one curve, in the quiet colour
    assert svg == ScalingCurves("law", [panel], "a law").svg
