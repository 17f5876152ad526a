"""The loss of a batch on the backend that a recipe trains on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.device import Precision, autocast
from puna.model.transformer import Transformer
from puna.native.kernels import Kernels
from puna.native.library import load
from puna.nn.loss import linear_cross_entropy
from puna.training.compute_backend import Backend, choose_backend
from puna.training.native_model import Documents, NativeModel
from puna.training.recipe import Recipe


@dataclass(frozen=True)
class BatchLoss:
    """A batch's loss and what computes it.

    function: ids [B, T + 1] -> the sum over the valid targets of their cross entropy, in nats,
    float32, ready for `backward`. kernels: those of the backend's tier, where it has one.
    """

    function: Callable[[Int[Tensor, "B T+1"]], Float[Tensor, ""]]
    backend: Backend
    kernels: Kernels | None = None


def batch_loss(
    model: Transformer,
    recipe: Recipe,
    device: torch.device,
    precision: Precision,
    documents: Documents | None = None,
) -> BatchLoss:
    """The loss of this model, whose recipe this is. Raises as `choose_backend`.

    documents: (ids) -> the document of each position, which attention then does not leave.
    """
    backend = choose_backend(recipe, device)
    cast = autocast(device, precision)
    if not backend.isa.startswith("torch"):
        kernels = Kernels(load(backend.isa))
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        native = NativeModel(model, kernels, dtype, documents)

        def native_loss(ids: Int[Tensor, "B T+1"]) -> Float[Tensor, ""]:
            with cast():  # for the parts on PyTorch
                return native.loss(ids)

        return BatchLoss(native_loss, backend, kernels)

    def hidden_states(ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return model.hidden_states(ids, documents=documents(ids) if documents else None)

    states = torch.compile(hidden_states) if recipe.train.compile else hidden_states

    def loss(ids: Int[Tensor, "B T+1"]) -> Float[Tensor, ""]:
        with cast():
            return linear_cross_entropy(states(ids[:, :-1]), model.output_weight, ids[:, 1:])

    return BatchLoss(loss, backend)
