"""The loss of a batch, computed by what serves a recipe best on this machine: the native core,
torch.compile, or PyTorch as the model is written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.device import Precision, autocast
from puna.errors import ConfigError
from puna.model.transformer import Transformer
from puna.native.kernels import Kernels
from puna.native.library import available_tiers, load
from puna.nn.loss import linear_cross_entropy
from puna.training.native_model import NativeModel, parts_on_torch
from puna.training.recipe import Recipe

Documents = Callable[[Int[Tensor, "B T"]], Int[Tensor, "B T"]]


@dataclass(frozen=True)
class BatchLoss:
    """A batch's loss and what computes it.

    function: ids [B, T + 1] -> the sum over the valid targets of their cross entropy, in nats,
    float32, ready for `backward`. isa: the tier of the native core, or `torch`, or `torch.compile`.
    on_torch: the parts that a tier leaves to PyTorch, each with the reason. kernels: the tier's.
    """

    function: Callable[[Int[Tensor, "B T+1"]], Float[Tensor, ""]]
    isa: str
    on_torch: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    kernels: Kernels | None = None

    @property
    def words(self) -> str:
        """The code that computes it, in words."""
        if self.isa.startswith("torch"):
            return self.isa
        left = "".join(f"; {part} on torch: {reason}" for part, reason in self.on_torch.items())
        return f"the native core, {self.isa}{left}"


def batch_loss(
    model: Transformer,
    recipe: Recipe,
    device: torch.device,
    precision: Precision,
    documents: Documents | None = None,
) -> BatchLoss:
    """The loss of this model under the recipe's `train.isa` and `train.compile`.

    documents: (ids) -> the document of each position, which attention then does not leave. Raises
    ConfigError for a tier where the core does not compute, and NativeError for one that cannot run.
    """
    cast = autocast(device, precision)
    isa = tier_of(recipe, device)
    if isa is not None:
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        kernels = Kernels(load(isa))
        native = NativeModel(model, kernels, dtype, documents)

        def native_loss(ids: Int[Tensor, "B T+1"]) -> Float[Tensor, ""]:
            with cast():  # for the parts on PyTorch
                return native.loss(ids)

        return BatchLoss(native_loss, isa, native.on_torch, kernels)

    def hidden_states(ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return model.hidden_states(ids, documents=documents(ids) if documents else None)

    states = torch.compile(hidden_states) if recipe.train.compile else hidden_states

    def loss(ids: Int[Tensor, "B T+1"]) -> Float[Tensor, ""]:
        with cast():
            return linear_cross_entropy(states(ids[:, :-1]), model.output_weight, ids[:, 1:])

    return BatchLoss(loss, "torch.compile" if recipe.train.compile else "torch")


def tier_of(recipe: Recipe, device: torch.device) -> str | None:
    """The tier of the native core that trains this recipe on this device; None for PyTorch.

    Left to itself (`train.isa: auto`) a CPU takes the fastest that it runs, unless the recipe wants
    torch.compile or activation checkpointing.
    """
    train = recipe.train
    obstacle = (
        f"on {device}, a device that is no CPU"
        if device.type != "cpu"
        else "with train.compile"
        if train.compile
        else "with train.activation_checkpointing"
        if train.activation_checkpointing
        else ""
    )
    if train.isa == "torch":
        return None
    if train.isa == "auto":
        tiers = () if obstacle else available_tiers()
        return tiers[-1] if tiers else None
    if obstacle:
        raise ConfigError(
            f"train.isa {train.isa}, a tier of the native core, does not compute {obstacle}: leave"
            " one of them out, or say train.isa=torch"
        )
    return load(train.isa).tier


def planned_isa(recipe: Recipe, model: Transformer, device: torch.device) -> str:
    """The code that `batch_loss` would choose, in words; the model may be without memory (meta)."""
    tier = tier_of(recipe, device)
    if tier is None:
        return "torch.compile" if recipe.train.compile else "torch"
    parts = parts_on_torch(model, masked=recipe.train.mask_documents)
    return BatchLoss(lambda _: torch.zeros(()), tier, parts).words
