"""The hidden states of a model on a CPU for training, by the code that computes them fastest."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from puna.device import autocast, choose_precision
from puna.model.transformer import Transformer
from puna.native.kernels import Kernels
from puna.native.library import load
from puna.quantization.distillation import HiddenStates
from puna.training.compute_backend import fastest_backend
from puna.training.native_model import NativeModel

CPU = torch.device("cpu")


def trainable_states(model: Transformer) -> HiddenStates:
    """`Transformer.hidden_states` of a float32 model, whose gradients reach its weights: on the
    native core where there is one, with products in bfloat16 where the processor multiplies it.
    """
    backend = fastest_backend(model.config)
    precision = choose_precision("auto", CPU)
    cast = autocast(CPU, precision)
    states: HiddenStates = model.hidden_states
    if backend.isa != "torch":
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        states = NativeModel(model, Kernels(load(backend.isa)), dtype).hidden_states

    def run(ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        with cast():  # for the parts on PyTorch
            return states(ids)

    return run
