"""The matrices of a model put on a grid layer by layer, each layer given what the layers before it
make of the text after they were quantized.

With calibration windows every layer is run twice: once to gather H = X^T X / N of the inputs of its
matrices, once more, quantized, for the inputs of the next layer. Memory holds the model in float32,
the hidden states of all windows and the H of one layer. Without windows each matrix is rounded by
itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from puna.errors import ModelFolderError
from puna.model.transformer import Transformer
from puna.quantization.gptq import quantize_calibrated, round_to_nearest, row_errors
from puna.quantization.grid import Grid, QuantizedWeight

WINDOWS_AT_ONCE = 4
EMBEDDING, HEAD = "embed_tokens", "lm_head"


@dataclass(frozen=True)
class MatrixError:
    """The price of one matrix. weight: sum of (w - W)^2 / sum of w^2. output: the same of the
    layer's outputs on the calibration text, None without one.
    """

    name: str
    grid: Grid
    entries: int
    weight: float
    output: float | None


@dataclass(frozen=True)
class QuantizedMatrices:
    """weights: by the name of the module, such as layers.0.mlp.up_proj. errors: of the same, in
    the order of the model.
    """

    weights: Mapping[str, QuantizedWeight]
    errors: tuple[MatrixError, ...]


Done = Callable[[int, int], None]
"""Called with the layers that are done, at first 0, and their number."""


@torch.no_grad()
def quantize_model(
    model: Transformer,
    grids: Mapping[str, Grid],
    windows: Int[Tensor, "N T"] | None,
    on_layer: Done = lambda _done, _all: None,
) -> QuantizedMatrices:
    """Quantize the matrices that `grids` names by module, and put W in the place of w in the model,
    which is in float32.

    windows: ids of a calibration text; left out, rounding to nearest. Raises ModelFolderError for
    weights that are not finite, and for a group that does not divide.
    """
    _check(model, grids)
    found: dict[str, QuantizedWeight] = {}
    errors: list[MatrixError] = []

    def quantize(name: str, hessian: Tensor | None) -> None:
        matrix = model.get_submodule(name).get_parameter("weight")
        grid, w = grids[name], matrix.detach()
        if hessian is None or name == HEAD:  # whose many rows would fill the memory several times
            made = round_to_nearest(w, grid, None if hessian is None else hessian.diagonal())
        else:
            made = quantize_calibrated(w, grid, hessian)
        new = made.dequantize()
        errors.append(_price(name, grid, w, new, hessian))
        found[name] = made
        matrix.copy_(new)

    if EMBEDDING in grids:
        quantize(EMBEDDING, None)
    stream = None if windows is None else _Stream(model, windows)
    count = len(model.layers)
    on_layer(0, count)
    for number, block in enumerate(model.layers):
        names = [
            name
            for name in (f"layers.{number}.{inner}" for inner, _ in block.named_modules())
            if name in grids
        ]
        hessians = {} if stream is None else stream.hessians(number, names)
        for name in names:
            quantize(name, hessians.pop(name, None))
        if stream is not None:
            stream.advance(number)
        on_layer(number + 1, count)
    if HEAD in grids:
        quantize(HEAD, None if stream is None else stream.head_hessian())
    return QuantizedMatrices(found, tuple(errors))


def _check(model: Transformer, grids: Mapping[str, Grid]) -> None:
    """Raise ModelFolderError before any work is done."""
    for name, grid in grids.items():
        matrix = model.get_submodule(name).get_parameter("weight")
        if not bool(torch.isfinite(matrix).all()):
            raise ModelFolderError(
                f"{name}.weight holds numbers that are not finite, which no code stands for: train"
                " or copy the model again"
            )
        try:
            grid.size(matrix.shape[1])
        except ModelFolderError as error:
            raise ModelFolderError(f"{name}: {error}") from error


def _price(name: str, grid: Grid, w: Tensor, new: Tensor, hessian: Tensor | None) -> MatrixError:
    d = w - new
    weight = float(d.square().sum(dtype=torch.float64) / _positive(w.square().sum()))
    output = None
    if hessian is not None:
        output = float(row_errors(d, hessian).sum() / _positive(row_errors(w, hessian).sum()))
    return MatrixError(name, grid, w.numel(), weight, output)


def _positive(x: Tensor) -> Tensor:
    return x.double().clamp_min(1e-300)


class _Stream:
    """The hidden states of all windows before one layer, float32 [N, T, D]."""

    def __init__(self, model: Transformer, windows: Int[Tensor, "N T"]) -> None:
        self._model = model
        positions = torch.arange(windows.shape[1])
        self._x = torch.cat([model.embed(part, positions) for part in self._parts(windows)])
        self._rotary = None if model.rotary is None else model.rotary(positions)
        self._mask = model.mask(windows[:1], None)
        self._unturned = model.config.layers_without_rope or ()

    @staticmethod
    def _parts(x: Tensor) -> Iterator[Tensor]:
        return (x[start : start + WINDOWS_AT_ONCE] for start in range(0, len(x), WINDOWS_AT_ONCE))

    def _run(self, number: int) -> Iterator[Tensor]:
        turns = None if number in self._unturned else self._rotary
        for part in self._parts(self._x):
            yield self._model.layers[number](part, turns, None, self._mask)

    def advance(self, number: int) -> None:
        """Put the states after a layer in the place of those before it."""
        done = 0
        for part in self._run(number):
            self._x[done : done + len(part)] = part
            done += len(part)

    def hessians(self, number: int, names: list[str]) -> dict[str, Float[Tensor, "I I"]]:
        """H of the inputs of each of these modules of a layer; those that read one tensor share
        theirs.
        """
        inputs: dict[str, Tensor] = {}
        hooks = [
            self._model.get_submodule(name).register_forward_pre_hook(
                lambda _module, given, name=name: inputs.__setitem__(name, given[0])
            )
            for name in names
        ]
        sums: dict[str, Tensor] = {}
        first: dict[str, str] = {}
        try:
            for _ in self._run(number):
                owners: dict[int, str] = {}
                for name, x in inputs.items():
                    first[name] = owners.setdefault(id(x), name)
                for name in owners.values():
                    _add(sums, name, inputs[name])
                inputs.clear()
        finally:
            for hook in hooks:
                hook.remove()
        tokens = self._x.shape[0] * self._x.shape[1]
        scaled = {name: total.div_(tokens) for name, total in sums.items()}
        return {name: scaled[owner] for name, owner in first.items()}

    def head_hessian(self) -> Float[Tensor, "D D"]:
        """H of the normalised states that the output layer reads."""
        sums: dict[str, Tensor] = {}
        for part in self._parts(self._x):
            _add(sums, HEAD, self._model.norm(part))
        return sums[HEAD].div_(self._x.shape[0] * self._x.shape[1])


def _add(sums: dict[str, Tensor], name: str, x: Tensor) -> None:
    flat = x.reshape(-1, x.shape[-1])
    if name not in sums:
        sums[name] = torch.zeros(flat.shape[1], flat.shape[1])
    sums[name].addmm_(flat.T, flat)


def linear_names(model: nn.Module) -> list[str]:
    """The linear layers inside the blocks, in the order of the model."""
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name.startswith("layers.")
    ]
