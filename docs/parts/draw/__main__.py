"""Draws the pictures of docs/parts with Puna's own parts: `make pictures`. Ten to twenty seconds.

    python docs/parts/draw [FOLDER]

Writes one SVG for each picture, and data.json: what each picture shows, as numbers. The bytes of an
SVG change with the version of matplotlib, its numbers do not. A test draws everything anew and
compares the numbers; each SVG carries the checksum of its own, so that neither can be exchanged
without the other.
"""

import hashlib
import json
import sys
from pathlib import Path

import attention
import feed_forward
import matplotlib
import normalization
import placement
import positions
import torch
from style import STYLE, numbers

PICTURES = Path(__file__).parents[1] / "pictures"
DRAWN = (normalization.DRAWN, placement.DRAWN, feed_forward.DRAWN, positions.DRAWN, attention.DRAWN)


def main(folder: Path) -> None:
    """Every picture of every page into this folder; what lies there under another name goes."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {}
    for name, draw in ((name, draw) for page in DRAWN for name, draw in page.items()):
        # what a picture draws at random does not depend on the pictures before it
        torch.manual_seed(0)
        with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
            figure = draw()
            data[name] = numbers(figure)
            checksum = hashlib.sha256(json.dumps(data[name]).encode()).hexdigest()
            figure.savefig(
                folder / f"{name}.svg",
                metadata={"Date": None, "Description": f"data.json: {checksum}"},
            )
    rows = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(data[name], ensure_ascii=False)}" for name in data
    )
    (folder / "data.json").write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
    for left in {*folder.glob("*.svg")} - {folder / f"{name}.svg" for name in data}:
        left.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
