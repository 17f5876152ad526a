"""A quantized model trained to predict what its original predicts: the codes stay, the scales and
the weights of the norms move.

    minimise over m   the mean of KL(p_original || p_quantized) of the next token
    W_oi = code_oi s_og m_og        norm weight_i = w_i m_i        every m is 1 at first

GPTQ makes each matrix do what the original's did; here all layers make up together for what is
left. Factors are few beside weights, so that some thousand tokens of text teach them.

Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, section 2, at temperature
1; Chen et al. 2024, EfficientQAT, section 3.3, for scales trained through all layers with their
codes fixed; Li et al. 2023, Norm Tweaking, for the norms.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from puna.errors import ModelFolderError
from puna.model.transformer import Transformer
from puna.quantization.calibration import EMBEDDING, HEAD, Done, QuantizedMatrices
from puna.quantization.grid import QuantizedWeight

RATE = 4e-3
"""Adam's largest rate: of factors, so relative and the same for all matrices."""
BETAS = (0.9, 0.95)
WINDOWS_A_STEP = 4
RISING_STEPS = 4
ROWS = 512  # positions whose logits are held at once

HiddenStates = Callable[[Int[Tensor, "B T"]], Float[Tensor, "B T D"]]
"""The normalised hidden states of a model, whose gradients reach its parameters."""


@dataclass(frozen=True)
class Original:
    """The predictions of a model for the calibration windows, kept as the states that its output
    layer reads, [N, T, D], and that layer, [V, D], both float32.
    """

    states: Float[Tensor, "N T D"]
    output_weight: Float[Tensor, "V D"]


@torch.no_grad()
def original_predictions(model: Transformer, windows: Int[Tensor, "N T"]) -> Original:
    """The predictions of a model that is not yet quantized."""
    states = torch.cat([model.hidden_states(window[None]) for window in windows])
    return Original(states, model.output_weight.clone())


def distil(
    model: Transformer,
    made: QuantizedMatrices,
    windows: Int[Tensor, "N T"],
    original: Original,
    hidden_states: HiddenStates,
    on_window: Done = lambda _done, _all: None,
) -> QuantizedMatrices:
    """Train the scales of the matrices inside the layers and the weights of all norms in one pass
    over the windows. The model, which is in float32, has them in the end; embedding and output
    layer stay, and so do the errors of `made`, which are of the codes.

    hidden_states: of this model. Memory holds the gradients of all trained weights and what the
    backward pass of one window needs. Raises ModelFolderError where there is nothing to train, and
    where the divergence is no number.
    """
    scales = {
        name: _of_scales(model.get_submodule(name).get_parameter("weight"), first)
        for name, first in made.weights.items()
        if name not in (EMBEDDING, HEAD)
    }
    norms = [
        _of_norm(parameter)
        for name, parameter in model.named_parameters()
        if name.endswith("norm.weight")
    ]
    factors = [*scales.values(), *norms]
    if not factors:
        raise ModelFolderError(
            "distillation trains the scales of matrices inside the layers and the weights of norms,"
            " and this model has neither: quantize it without distillation, or keep fewer matrices"
        )
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    steps = torch.split(order, WINDOWS_A_STEP)
    optimizer = torch.optim.Adam([one.m for one in factors], lr=RATE, betas=BETAS)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / RISING_STEPS) * (1 - step / len(steps))
    )
    done = 0
    on_window(done, len(windows))
    with _gradients_of_these_alone(model, [one.parameter for one in factors]):
        for chosen in steps:
            nats = sum(
                _backward(model, windows, original, i, hidden_states) for i in chosen.tolist()
            )
            if not math.isfinite(nats):
                raise ModelFolderError(
                    f"the divergence from the original became {nats} after {done} of"
                    f" {len(windows)} windows: quantize this model without distillation"
                )
            for one in factors:
                one.take_gradient()
            optimizer.step()
            schedule.step()
            for one in factors:
                one.put_in()
            done += len(chosen)
            on_window(done, len(windows))
    rescaled = {name: _rescaled(made.weights[name], one.m) for name, one in scales.items()}
    return replace(made, weights={**made.weights, **rescaled})


def _backward(
    model: Transformer,
    windows: Int[Tensor, "N T"],
    original: Original,
    number: int,
    hidden_states: HiddenStates,
) -> float:
    """Add the gradients of one window's divergence, which is returned, to the weights'."""
    states = hidden_states(windows[number : number + 1])[0]
    nats, gradient = divergence(
        states.detach(),
        model.output_weight.detach(),
        original.states[number],
        original.output_weight,
    )
    states.backward(gradient)  # type: ignore[no-untyped-call]
    return nats


@torch.no_grad()
def divergence(
    states: Float[Tensor, "T D"],
    output_weight: Float[Tensor, "V D"],
    original_states: Float[Tensor, "T D"],
    original_weight: Float[Tensor, "V D"],
) -> tuple[float, Float[Tensor, "T D"]]:
    """The sum over positions of KL(p || q) in nats, where p and q are the softmax of the original's
    logits and of these; and its gradient after `states`, (q - p) W, in their dtype.

    Products in the dtype of `states`, logarithms and sums in float32; `ROWS` logits at a time.
    """
    total, gradient = 0.0, torch.empty_like(states)
    weight, wanted = output_weight.to(states.dtype), original_weight.to(states.dtype)
    for start in range(0, len(states), ROWS):
        rows = slice(start, start + ROWS)
        log_q = F.linear(states[rows], weight).float().log_softmax(-1)
        log_p = F.linear(original_states[rows].to(states.dtype), wanted).float().log_softmax(-1)
        p = log_p.exp()
        total += float((p * (log_p - log_q)).sum())
        gradient[rows] = log_q.exp_().sub_(p).to(states.dtype) @ weight
    return total, gradient


class _Factors:
    """The factors m of one parameter, and how their gradient follows from its own. value: of the
    parameter with factors m, of this shape.
    """

    def __init__(
        self, parameter: nn.Parameter, shape: torch.Size, value: Callable[[Tensor], Tensor]
    ) -> None:
        self.parameter, self.value = parameter, value
        self.m = torch.ones(shape)

    @torch.no_grad()
    def take_gradient(self) -> None:
        """dL/dm_g = sum over the entries i of g of dL/dW_i W_i / m_g."""
        gradient = self.parameter.grad
        assert gradient is not None
        products = gradient.mul_(self.parameter).view(*self.m.shape, -1)
        self.m.grad = products.sum(-1) / self.m
        self.parameter.grad = None

    @torch.no_grad()
    def put_in(self) -> None:
        """Give the parameter its value."""
        self.parameter.copy_(self.value(self.m))


def _of_scales(parameter: nn.Parameter, first: QuantizedWeight) -> _Factors:
    """One for each scale of a matrix."""
    return _Factors(parameter, first.scales.shape, lambda m: _rescaled(first, m).dequantize())


def _of_norm(parameter: nn.Parameter) -> _Factors:
    """One for each entry of a norm's weight."""
    first = parameter.detach().clone()
    return _Factors(parameter, parameter.shape, lambda m: first * m)


def _rescaled(first: QuantizedWeight, m: Float[Tensor, "O G"]) -> QuantizedWeight:
    """The matrix with its scales times m, rounded as they are stored."""
    limit = torch.finfo(first.scales.dtype).max
    scales = (first.scales * m).clamp(-limit, limit).to(first.scales.dtype)
    return replace(first, scales=scales)


@contextmanager
def _gradients_of_these_alone(
    model: Transformer, parameters: Sequence[nn.Parameter]
) -> Iterator[None]:
    """Inside, these parameters and no other of the model has a gradient."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, was in before.items():
            parameter.requires_grad_(was)
            parameter.grad = None
