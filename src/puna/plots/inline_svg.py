"""A matplotlib figure as an `<svg>` element that belongs to the page around it.

Colours become CSS variables (so one drawing serves light and dark), the page's font is used, ids
are unique in the page, and nothing is left that names an outside address: no DOCTYPE, no metadata,
no namespaces (HTML needs none). Equal figures give equal text. It decides nothing about what is
drawn: that is `curves.py` for a run, `study_charts.py` for a study.
"""

import io
import re
from collections.abc import Mapping
from typing import Final
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

# Role of a colour -> the stand-in that matplotlib draws with; in the page it reads `var(--role)`.
ARMS = tuple(f"arm-{number}" for number in range(1, 9))
ROLES = (
    "ink",
    "muted",
    "line",
    "surface",
    "train",
    "validation",
    "reference",
    "better",
    "worse",
    *ARMS,
)
COLOURS: Final[Mapping[str, str]] = {role: f"#0d0e{index:02x}" for index, role in enumerate(ROLES)}

SVG_SPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as one `<svg role="img">` element that fills the width it is given.

    name: put before each id, so it must be unique in the page. label: what a screen reader says for
    the drawing.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify_threshold": 0.3}
    ):
        figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    root = ElementTree.fromstring(buffer.getvalue())
    used = {element.attrib[LINK] for element in root.iter() if LINK in element.attrib}
    used |= {
        target
        for element in root.iter()
        for target in re.findall(r"url\((#.*?)\)", element.get("clip-path", ""))
    }
    for element in root.iter():
        _adapt(element, name, used)
    view_box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": view_box, "role": "img", "aria-label": label})
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))


def _adapt(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Rewrite one element in place: its tag without namespace, its ids, links, colours, font and
    coordinates.
    """
    element.tag = element.tag.removeprefix(SVG_SPACE)
    for child in list(element):
        # its style sheet would reach the whole page
        if child.tag.removeprefix(SVG_SPACE) in ("metadata", "style"):
            element.remove(child)
    if f"#{element.get('id')}" in used:
        element.attrib["id"] = f"{name}-{element.attrib['id']}"
    else:
        element.attrib.pop("id", None)
    if LINK in element.attrib:
        element.attrib["href"] = element.attrib.pop(LINK).replace("#", f"#{name}-")
    if "clip-path" in element.attrib:
        element.attrib["clip-path"] = element.attrib["clip-path"].replace("#", f"#{name}-")
    if "style" in element.attrib:
        element.attrib["style"] = _themed(element.attrib["style"])
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    for key in ("d", "x", "y"):
        if key in element.attrib:
            element.attrib[key] = re.sub(r"-?\d+\.\d+", _two_decimals, element.attrib[key]).replace(
                "\n", ""
            )


def _themed(style: str) -> str:
    """Stand-in colours -> CSS variables; matplotlib's list of fonts -> none, so that the page's
    font is inherited.
    """
    for role, stand_in in COLOURS.items():
        style = style.replace(stand_in, f"var(--{role})")
    return re.sub(r"font-family: [^;]*; ", "", style)


def _two_decimals(number: re.Match[str]) -> str:
    """A hundredth of a CSS pixel is finer than any screen, and half the bytes."""
    return f"{float(number.group()):.2f}".rstrip("0").rstrip(".")
