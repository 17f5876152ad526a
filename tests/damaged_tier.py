"""An install of the native core whose fastest tier is damaged."""

import shutil
from pathlib import Path

import pytest

from puna.native import library


def damage_fastest_tier(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Let the core be read from `folder`, where the last of the tiers, which are given back, is no
    object that can be loaded. Skips a test where no other would be left.
    """
    tiers = library.available_tiers()
    if len(tiers) < 2:
        pytest.skip("without the fastest no tier would be left")
    for tier in tiers[:-1]:
        shutil.copy(Path(library.__file__).with_name(f"puna_{tier}.so"), folder)
    (folder / f"puna_{tiers[-1]}.so").write_bytes(b"\x7fELF")
    monkeypatch.setattr(library, "_path", lambda tier: folder / f"puna_{tier}.so")
    return tiers
