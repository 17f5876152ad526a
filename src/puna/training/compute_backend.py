"""The choice of the code that trains a recipe on a device: a tier of the native core,
torch.compile, or PyTorch as the model is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from puna.errors import ConfigError
from puna.model.config import ModelConfig
from puna.model.transformer import build_transformer
from puna.native.library import available_tiers, load
from puna.training.native_model import parts_on_torch
from puna.training.recipe import Recipe


@dataclass(frozen=True)
class Backend:
    """The code that computes a training step.

    isa: the tier of the native core, or `torch`, or `torch.compile`. on_torch: the parts that a
    tier leaves to PyTorch, each with the reason.
    """

    isa: str
    on_torch: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def words(self) -> str:
        """The same in words."""
        if self.isa.startswith("torch"):
            return self.isa
        left = "".join(f"; {part} on torch: {reason}" for part, reason in self.on_torch.items())
        return f"the native core, {self.isa}{left}"


def choose_backend(recipe: Recipe, device: torch.device) -> Backend:
    """The backend of a recipe on this device.

    Left to itself (`train.isa: auto`) a CPU takes the fastest tier that it runs, unless the recipe
    wants torch.compile, activation checkpointing or shards. Raises ConfigError for a tier where the
    core does not compute, and NativeError for one that cannot run.
    """
    train = recipe.train
    obstacle = (
        f"on {device}, a device that is no CPU"
        if device.type != "cpu"
        else "with train.compile"
        if train.compile
        else "with train.activation_checkpointing"
        if train.activation_checkpointing
        else "with train.shards"
        if train.shards != 1
        else ""
    )
    tiers = () if obstacle or train.isa == "torch" else available_tiers()
    if train.isa not in ("auto", "torch"):
        if obstacle:
            raise ConfigError(
                f"train.isa {train.isa}, a tier of the native core, does not compute {obstacle}:"
                " leave one of them out, or say train.isa=torch"
            )
        tiers = (load(train.isa).tier,)
    if not tiers:
        return Backend("torch.compile" if train.compile else "torch")
    return _native(tiers[-1], recipe.model, masked=train.mask_documents)


def fastest_backend(config: ModelConfig) -> Backend:
    """The backend that a CPU takes for a model where nothing else is asked for."""
    tiers = available_tiers()
    return _native(tiers[-1], config, masked=False) if tiers else Backend("torch")


def _native(tier: str, config: ModelConfig, *, masked: bool) -> Backend:
    return Backend(tier, parts_on_torch(build_transformer(config, "meta"), masked=masked))
