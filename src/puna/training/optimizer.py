"""From gradients to updates: AdamW, Muon for the matrices of the blocks, and SGD.

Weights, gradients and state are float32.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from puna.model.transformer import Transformer
from puna.training.recipe import OPTIMIZERS, OptimizerRecipe


def orthogonalise(gradient: Float[Tensor, "R C"], iterations: int = 5) -> Float[Tensor, "R C"]:
    """A matrix with the singular vectors of `gradient` and singular values near 1, in float32.

    Newton-Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X, from X = G / |G|, which drives every
    singular value s by a s + b s^3 + c s^5.

    Source: Jordan et al. 2024, Muon, with its quintic coefficients: the values end between about
    0.7 and 1.2, not at 1 exactly.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    # of a wide matrix X X^T is the smaller of the two squares
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.mT if tall else gradient
    # the Frobenius norm bounds the largest singular value, so all begin in [0, 1]
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """w <- w - lr (orthogonalise(m) sqrt(max(1, R/C)) + decay w), with Nesterov momentum m; for
    matrices [R, C] only.

    Source: Jordan et al. 2024, Muon. Embeddings and norms are not for it: give those to AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None, "the gradients are there already"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalise(weight.grad.lerp(momentum, group["momentum"]))
                # decay is decoupled, as in AdamW: it does not pass through the momentum
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(
                    update, alpha=-group["lr"] * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                )


class Optimizers:
    """The optimizers of one model, stepped together with a common factor on their learning
    rates.
    """

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self.optimizers = optimizers
        self._tops = [group["lr"] for group in self._groups()]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, factor: float) -> None:
        """Update the weights with every learning rate at `factor` of its top."""
        for group, top in zip(self._groups(), self._tops, strict=True):
            group["lr"] = factor * top
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients and give their memory back."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


def adamw(
    model: Transformer,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    without: Collection[Tensor] = (),
) -> list[Optimizer]:
    """AdamW for all weights but those in `without`; weight decay acts on matrices (embeddings
    included), never on the norms' weights.
    """
    others = {id(weight) for weight in without}
    owned = [weight for weight in model.parameters() if id(weight) not in others]
    groups = _matrices_and_vectors(owned, weight_decay)
    return [AdamW(groups, lr=learning_rate, betas=betas, fused=True)]


def muon_and_adamw(
    model: Transformer,
    *,
    learning_rate: float,
    muon_learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> list[Optimizer]:
    """Muon for the matrices of the blocks, and `adamw` for all other weights."""
    hidden = [weight for weight in model.layers.parameters() if weight.ndim == 2]
    muon = Muon(hidden, lr=muon_learning_rate, weight_decay=weight_decay)
    rest = adamw(
        model, learning_rate=learning_rate, betas=betas, weight_decay=weight_decay, without=hidden
    )
    return [muon, *rest]


def sgd(
    model: Transformer, *, learning_rate: float, momentum: float, weight_decay: float
) -> list[Optimizer]:
    """SGD with momentum for all weights: m <- momentum m + g + decay w; w <- w - lr m. Weight decay
    acts on matrices (embeddings included), never on the norms' weights.

    Source: Sutskever et al. 2013, section 2, in PyTorch's form, whose rate multiplies all of m.
    Usual mistake: AdamW's decay. Here it is part of the gradient, so that after a few steps a
    weight shrinks by lr decay / (1 - momentum) a step.
    """
    groups = _matrices_and_vectors(model.parameters(), weight_decay)
    return [SGD(groups, lr=learning_rate, momentum=momentum)]


def _matrices_and_vectors(weights: Iterable[Tensor], decay: float) -> list[dict[str, Any]]:
    """Two groups, of which the vectors (norms) keep their scale: decay would pull them to 0."""
    weights = list(weights)
    return [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizers(model: Transformer, recipe: OptimizerRecipe) -> Optimizers:
    """The recipe's optimizers, each of the model's weights with one of them."""
    return Optimizers(OPTIMIZERS[recipe.name].build(recipe, model))
