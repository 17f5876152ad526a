"""Low-rank adapters on a linear layer, several at a time: each row of a batch goes through the
adapter that it belongs to, or none.

Not here: training them, reading them from disk and putting them into a model (model/adapters.py).
An adapter costs r (I + O) entries a layer and as many multiplications for each of its rows, in two
small matrix products for each segment; rows without one cost nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """The update of one adapter to one weight: scale B A, with A [r, I], B [O, r] and scale = alpha
    / r, or alpha / sqrt(r) in rsLoRA.

    Source: Hu et al. 2021, LoRA, section 4.1; Kalajdzievski 2023, A Rank Stabilization Scaling
    Factor for Fine-Tuning with LoRA. Usual mistake: the other of the two scales; it loads, and the
    adapter is sqrt(r) times too weak or too strong.
    """

    a: Float[Tensor, "r I"]
    b: Float[Tensor, "O r"]
    scale: float

    def delta(self) -> Float[Tensor, "O I"]:
        """scale B A, computed in float32 whatever the dtype of A and B."""
        return self.scale * (self.b.float() @ self.a.float())


@dataclass(slots=True)
class Selection:
    """The adapter of each row of the next forward passes; one object is shared by all
    layers of a model.

    segments: (adapter, start, stop) with the rows of the batch counted as if it were flattened to
    [N, I]; apart from each other, and within N. Rows in no segment belong to no adapter. Whoever
    owns the object changes it between forward passes.
    """

    segments: tuple[tuple[str, int, int], ...] = ()


class LoRALinear(nn.Linear):
    """y = x W^T + b, and for the rows of an adapter y = x W^T + b + scale (x A^T) B^T: a linear
    layer with any number of adapters.

    Shapes: x [..., I] -> [..., O]. W and b are those of `base`, shared and under the same names, so
    that a state dict does not change; the adapters are no part of it. They move with the module to
    another device or dtype.

    Arithmetic in the dtype of W: A is rounded to it, and so is scale B, which is folded once when
    the adapter is added. W's product is one for all rows, and only the rows of a segment are added
    to, so the others keep the base layer's bits. Each segment is computed by itself: two segments
    of the same adapter, even neighbours, do not enter each other's products. For inference; A and B
    get no gradient.

    Source: Hu et al. 2021, LoRA, section 4.1, equation 3; batches of several adapters: Chen et al.
    2023, Punica, Multi-Tenant LoRA Serving. Usual mistake: a selection left over from the pass
    before, whose rows were others.
    """

    def __init__(self, base: nn.Linear, selection: Selection) -> None:
        # replaced at once
        super().__init__(
            base.in_features, base.out_features, bias=base.bias is not None, device="meta"
        )
        self.weight, self.bias = base.weight, base.bias
        self.selection = selection
        # A and scale B of each adapter; no buffers, whose names hold no dots
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}
        self.train(base.training)

    def add(self, name: str, update: LowRankUpdate) -> None:
        """Put one more adapter on this layer. Raises ValueError where its matrices do not fit W."""
        if (update.b.shape[0], update.a.shape[1]) != (self.out_features, self.in_features):
            raise ValueError(
                f"A {list(update.a.shape)} and B {list(update.b.shape)} do not fit W"
                f" [{self.out_features}, {self.in_features}]: A must be [r, I] and B [O, r]"
            )
        scaled = update.scale * update.b.float()
        # a copy: A as it was read may be the file itself, mapped into memory, and would change with
        # it
        self.factors[name] = update.a.to(self.weight, copy=True), scaled.to(self.weight)

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        y = super().forward(x)
        for name, start, stop in self.selection.segments:
            if name in self.factors:
                a, b = self.factors[name]
                rows = x.reshape(-1, self.in_features)[start:stop]
                assert len(rows) == stop - start, f"rows {start} to {stop} of {name} do not exist"
                y.view(-1, self.out_features)[start:stop].addmm_(F.linear(rows, a), b.T)
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LoRALinear":
        self.factors = {name: (fn(a), fn(b)) for name, (a, b) in self.factors.items()}
        moved: LoRALinear = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, adapters={list(self.factors)}"
