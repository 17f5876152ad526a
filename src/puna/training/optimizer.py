"""From gradients to updates: AdamW, Muon for the matrices of the blocks, and SGD.

Weights, gradients and state are float32.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.native.kernels import Kernels
from puna.training.distributed import ALONE, Ranks, local
from puna.training.matrix_owners import on_owners
from puna.training.recipe import OPTIMIZERS, OptimizerRecipe

Quintic = tuple[float, float, float]
"""a, b, c of a s + b s^3 + c s^5."""
_SAFETY = 1.01  # of Amsel et al.: a value that rounding puts above 1 still converges
QUINTICS: Mapping[str, tuple[Quintic, ...]] = MappingProxyType(
    {
        "jordan": ((3.4445, -4.7750, 2.0315),),
        "polar_express": (
            *(
                (a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5)
                for a, b, c in (
                    (8.28721201814563, -23.595886519098837, 17.300387312530933),
                    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
                    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
                    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
                )
            ),
            (1.875, -1.25, 0.375),
        ),
    }
)
"""By name the steps of an orthogonalisation; the last of them repeats.

jordan: Jordan et al. 2024, Muon; the singular values end between about 0.7 and 1.2, not at 1
exactly. polar_express: Amsel et al. 2025, arXiv 2505.16932, algorithm 1: after any number of steps
the largest error over singular values from 0.001 to 1 is as small as that number allows.
"""
NATIVE_WIDTH = 1024
"""Matrices whose smaller side is longer are left to PyTorch, which shares one out over all
threads.
"""


def quintic_steps(name: str, iterations: int) -> tuple[Quintic, ...]:
    """The coefficients of the first `iterations` steps of an entry of `QUINTICS`."""
    steps = QUINTICS[name]
    return (*steps[:iterations], *steps[-1:] * (iterations - len(steps)))


def orthogonalise(gradient: Float[Tensor, "R C"], steps: Sequence[Quintic]) -> Float[Tensor, "R C"]:
    """A matrix with the singular vectors of `gradient` and singular values near 1, in the number
    format of `gradient`.

    Newton-Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X for each of the steps, from X = G / |G|,
    which drives every singular value s by a s + b s^3 + c s^5.

    Source: Jordan et al. 2024, Muon.
    """
    # of a wide matrix X X^T is the smaller of the two squares
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.mT if tall else gradient
    # the Frobenius norm bounds the largest singular value, so all begin in [0, 1]
    x = x / (x.norm() + 1e-7)
    for a, b, c in steps:
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """w <- w - lr (orthogonalise(m) sqrt(max(1, R/C)) + decay w), with Nesterov momentum m; for
    matrices [R, C] only.

    steps: of the orthogonalisation. cautious_decay: decay entries alone whose weight the update
    shrinks or leaves. kernels: of the native core, for matrices of at most `NATIVE_WIDTH`; without
    them `orthogonalise` has all. ranks: that update the same weights, each some whole matrices.

    Source: Jordan et al. 2024, Muon; Chen et al. 2025, arXiv 2510.12402, Cautious Weight Decay:
    decay where u w >= 0. Embeddings and norms are not for it: give those to AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: Sequence[Quintic] = quintic_steps("jordan", 5),
        cautious_decay: bool = False,
        kernels: Kernels | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.steps, self.cautious_decay = tuple(steps), cautious_decay
        self.kernels, self.ranks = kernels, ranks

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient, computing in the memory of the gradients."""
        assert closure is None, "the gradients are there already"
        for group in self.param_groups:
            whole = [weight for weight in group["params"] if weight.grad is not None]
            if not whole:
                continue
            weights = [local(weight) for weight in whole]
            updates = [local(weight.grad) for weight in whole]
            momenta = [local(self._momentum(weight)) for weight in whole]
            torch._foreach_lerp_(momenta, updates, 1 - group["momentum"])
            torch._foreach_lerp_(updates, momenta, group["momentum"])
            updates = on_owners(self.ranks, self._orthogonalised, whole, updates)
            # decay is decoupled, as in AdamW: it does not pass through the momentum
            decay = group["lr"] * group["weight_decay"]
            if not self.cautious_decay:
                torch._foreach_mul_(weights, 1 - decay)
            shapes = [weight.shape for weight in whole]
            for weight, update, (rows, columns) in zip(weights, updates, shapes, strict=True):
                if self.cautious_decay:
                    weight.mul_(1 - decay * (weight * update >= 0))
                weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _orthogonalised(self, matrices: list[Tensor]) -> list[Tensor]:
        native = [matrix for matrix in matrices if self._is_native(matrix)]
        if self.kernels is not None and native:
            self.kernels.orthogonalise(native, torch.tensor(self.steps))
        return [
            matrix if self._is_native(matrix) else orthogonalise(matrix, self.steps)
            for matrix in matrices
        ]

    def _is_native(self, matrix: Tensor) -> bool:
        return self.kernels is not None and min(matrix.shape) <= NATIVE_WIDTH

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


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


@dataclass(frozen=True)
class LearningRates:
    """The rates of the weights that Muon does not take. embedding: of token and position
    embeddings, which with tied embeddings are the output layer too; head: of an output layer of its
    own; vector: of norms and biases; None: as `matrix`, the rate of all others.
    """

    matrix: float
    embedding: float | None = None
    head: float | None = None
    vector: float | None = None

    def groups(
        self, model: Transformer, weights: Iterable[Tensor], weight_decay: float
    ) -> list[dict[str, Any]]:
        """The weights by rate and decay; vectors keep their scale: decay would pull norms to 0."""
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        head = None if model.lm_head is None else model.lm_head.weight
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for weight in weights:
            own = (
                self.vector
                if weight.ndim < 2
                else self.embedding
                if id(weight) in embeddings
                else self.head
                if weight is head
                else None
            )
            key = (self.matrix if own is None else own, 0.0 if weight.ndim < 2 else weight_decay)
            groups.setdefault(key, []).append(weight)
        return [
            {"params": members, "lr": rate, "weight_decay": decay}
            for (rate, decay), members in groups.items()
        ]


def adamw(
    model: Transformer,
    *,
    learning_rate: float,
    embedding_learning_rate: float | None,
    head_learning_rate: float | None,
    vector_learning_rate: float | None,
    betas: tuple[float, float],
    weight_decay: float,
    without: Collection[Tensor] = (),
) -> list[Optimizer]:
    """AdamW for all weights but those in `without`; weight decay acts on matrices (embeddings
    included), never on the norms' weights.
    """
    others = {id(weight) for weight in without}
    owned = [weight for weight in model.parameters() if id(weight) not in others]
    rates = LearningRates(
        learning_rate, embedding_learning_rate, head_learning_rate, vector_learning_rate
    )
    return [AdamW(rates.groups(model, owned, weight_decay), betas=betas, fused=True)]


def muon_and_adamw(
    model: Transformer,
    *,
    muon_learning_rate: float,
    muon_momentum: float,
    muon_coefficients: str,
    muon_iterations: int,
    cautious_decay: bool,
    weight_decay: float,
    learning_rate: float,
    embedding_learning_rate: float | None,
    head_learning_rate: float | None,
    vector_learning_rate: float | None,
    betas: tuple[float, float],
) -> list[Optimizer]:
    """Muon for the matrices of the blocks, and `adamw` for all other weights."""
    hidden = [weight for weight in model.layers.parameters() if weight.ndim == 2]
    muon = Muon(
        hidden,
        lr=muon_learning_rate,
        momentum=muon_momentum,
        weight_decay=weight_decay,
        steps=quintic_steps(muon_coefficients, muon_iterations),
        cautious_decay=cautious_decay,
    )
    rest = adamw(
        model,
        learning_rate=learning_rate,
        embedding_learning_rate=embedding_learning_rate,
        head_learning_rate=head_learning_rate,
        vector_learning_rate=vector_learning_rate,
        betas=betas,
        weight_decay=weight_decay,
        without=hidden,
    )
    return [muon, *rest]


def sgd(
    model: Transformer,
    *,
    learning_rate: float,
    embedding_learning_rate: float | None,
    head_learning_rate: float | None,
    vector_learning_rate: float | None,
    momentum: float,
    weight_decay: float,
) -> list[Optimizer]:
    """SGD with momentum for all weights: m <- momentum m + g + decay w; w <- w - lr m. Weight decay
    acts on matrices (embeddings included), never on the norms' weights.

    Source: Sutskever et al. 2013, section 2, in PyTorch's form, whose rate multiplies all of m.
    Usual mistake: AdamW's decay. Here it is part of the gradient, so that after a few steps a
    weight shrinks by lr decay / (1 - momentum) a step.
    """
    rates = LearningRates(
        learning_rate, embedding_learning_rate, head_learning_rate, vector_learning_rate
    )
    return [SGD(rates.groups(model, model.parameters(), weight_decay), momentum=momentum)]


def build_optimizers(
    model: Transformer,
    recipe: OptimizerRecipe,
    kernels: Kernels | None = None,
    ranks: Ranks = ALONE,
) -> Optimizers:
    """The recipe's optimizers, each of the model's weights with one of them. kernels, ranks:
    Muon's.
    """
    optimizers: list[Optimizer] = OPTIMIZERS[recipe.name].build(recipe, model)
    for optimizer in optimizers:
        if isinstance(optimizer, Muon):
            optimizer.kernels, optimizer.ranks = kernels, ranks
    return Optimizers(optimizers)


def state_bytes(config: ModelConfig, recipe: OptimizerRecipe) -> int:
    """Bytes of the state of a recipe's optimizers, from the second step on: in float32 AdamW's two
    moments, and one momentum of Muon and of SGD, which has none at 0. Nothing is allocated.
    """
    entries = 0
    for optimizer in build_optimizers(build_transformer(config, "meta"), recipe).optimizers:
        for group in optimizer.param_groups:
            one = isinstance(optimizer, Muon | SGD)
            kept = 0 if isinstance(optimizer, SGD) and not group["momentum"] else 1 if one else 2
            entries += kept * sum(weight.numel() for weight in group["params"])
    return 4 * entries
