"""The choice of what computes a training step, and what is said where it cannot be."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from said import said

from puna.errors import ConfigError, NativeError
from puna.native import library
from puna.native.library import available_tiers
from puna.training.compute_backend import Backend, choose_backend
from puna.training.recipe import Recipe

CPU, META = torch.device("cpu"), torch.device("meta")
TIERS = available_tiers()
built = pytest.mark.skipif(not TIERS, reason="the native core is not built")
MakeRecipe = Callable[..., Recipe]


@built
@pytest.mark.parametrize(
    ("overrides", "device", "isa"),
    [
        ((), CPU, TIERS[-1:]),
        (("train.isa=torch",), CPU, ("torch",)),
        *(((f"train.isa={tier}",), CPU, (tier,)) for tier in TIERS),
        (("train.compile=true",), CPU, ("torch.compile",)),
        (("train.compile=true", "train.isa=torch"), CPU, ("torch.compile",)),
        (("train.activation_checkpointing=true",), CPU, ("torch",)),
        ((), META, ("torch",)),
        (("train.compile=true",), META, ("torch.compile",)),
    ],
)
def test_the_choice(
    overrides: tuple[str, ...], device: torch.device, isa: tuple[str], tiny_recipe: MakeRecipe
) -> None:
    assert choose_backend(tiny_recipe(*overrides), device) == Backend(*isa)


@built
@pytest.mark.parametrize(
    ("overrides", "device", "obstacle"),
    [
        ((), META, "meta, a device that is no CPU"),
        (("train.compile=true",), CPU, "train.compile"),
        (("train.activation_checkpointing=true",), CPU, "train.activation_checkpointing"),
    ],
)
def test_a_tier_that_was_asked_for_where_it_does_not_compute(
    overrides: tuple[str, ...], device: torch.device, obstacle: str, tiny_recipe: MakeRecipe
) -> None:
    recipe = tiny_recipe("train.isa=scalar", *overrides)
    with pytest.raises(ConfigError, match=said(f"train.isa scalar ... {obstacle} ... isa=torch")):
        choose_backend(recipe, device)


def test_a_name_that_is_no_tier(tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match=said("train.isa ... 'avx1024' ... 'scalar'")):
        tiny_recipe("train.isa=avx1024")


def test_a_tier_of_another_processor(tiny_recipe: MakeRecipe) -> None:
    other = "avx2" if "neon" in TIERS else "neon"
    with pytest.raises(NativeError, match=said(f"{other} ... say" if TIERS else "not built")):
        choose_backend(tiny_recipe(f"train.isa={other}"), CPU)


@built
def test_the_parts_on_torch_are_named(tiny_recipe: MakeRecipe) -> None:
    backend = choose_backend(tiny_recipe("model.qk_norm=true", "train.mask_documents=true"), CPU)
    assert backend.on_torch.keys() == {"attention"}
    words = f"the native core, {TIERS[-1]} ... attention on torch ... normalised"
    assert re.search(said(words), backend.words)
    masked = choose_backend(tiny_recipe("train.mask_documents=true"), CPU)
    assert "mask" in masked.on_torch["attention"]
    assert choose_backend(tiny_recipe(), CPU).words == f"the native core, {TIERS[-1]}"
    assert choose_backend(tiny_recipe("train.isa=torch"), CPU).words == "torch"


def test_without_a_core_pytorch_computes(
    tiny_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_path", lambda tier: tmp_path / f"puna_{tier}.so")
    assert choose_backend(tiny_recipe(), CPU) == Backend("torch")
    with pytest.raises(NativeError, match=said("not built ... C++ compiler ... install")):
        choose_backend(tiny_recipe("train.isa=scalar"), CPU)
    (tmp_path / "puna_scalar.so").write_bytes(b"cut off")
    assert choose_backend(tiny_recipe(), CPU) == Backend("torch")
    with pytest.raises(NativeError, match=said("puna_scalar.so ... install")):
        choose_backend(tiny_recipe("train.isa=scalar"), CPU)
