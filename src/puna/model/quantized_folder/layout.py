"""A layout in which programs store quantized weights: the tensors that make one weight, and the
function that makes it of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from puna.errors import ModelFolderError
from puna.model.stored_tensors import FLOATS, StoredTensor

Parts = Mapping[str, StoredTensor]
"""The tensors of one module by what stands behind its name, such as weight or weight.absmax."""


@dataclass(frozen=True)
class QuantizedModule:
    """The tensors of one module of a quantized folder.

    name: such as model.layers.0.self_attn.q_proj. settings: the quantization_config of config.json,
    empty where it has none. dtype: of the weight to be made, as safetensors calls it.
    """

    name: str
    parts: Parts
    settings: Mapping[str, Any]
    dtype: str

    def weight(self, shape: tuple[int, ...], values: Callable[[], Tensor]) -> StoredTensor:
        """The weight of this shape, whose float32 values the function gives when it is read."""
        dtype = FLOATS[self.dtype]
        return StoredTensor(shape, self.dtype, lambda: values().reshape(shape).to(dtype))

    def shape(self, part: str, *expected: int | None) -> tuple[int, ...]:
        """The shape of a part. Raises ModelFolderError unless it is the expected one; None stands
        for any length.
        """
        shape = self.parts[part].shape
        fits = len(shape) == len(expected) and all(
            want is None or want == have for want, have in zip(expected, shape, strict=True)
        )
        if not fits:
            wanted = ["any" if want is None else want for want in expected]
            raise self.error(f"{part} has shape {list(shape)} instead of {wanted}")
        return shape

    def number(self, key: str, allowed: tuple[int, ...]) -> int:
        """A whole number of the settings. Raises ModelFolderError where it is another one."""
        value = self.settings.get(key)
        if isinstance(value, bool) or value not in allowed:
            raise self.error(
                f"{key} = {value!r} (only {', '.join(map(str, allowed))} is supported)"
            )
        return int(value)

    def error(self, problem: str) -> ModelFolderError:
        """The error of a module that cannot be made."""
        return ModelFolderError(
            f"{self.name} is stored quantized, but {problem}: use the model that it was made from,"
            " or copy the folder again"
        )


@dataclass(frozen=True)
class Layout:
    """needs: the parts by which the layout is known. takes: parts that it reads or may ignore.
    restore: describes the weight.
    """

    needs: frozenset[str]
    takes: frozenset[str]
    restore: Callable[[QuantizedModule], StoredTensor]


def unpacked(packed: Tensor, bits: int) -> Tensor:
    """The whole numbers of `bits` bits in each 32-bit integer, lowest bits first: [..., n] to
    [..., n * 32 / bits], in int32.
    """
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    words = packed.view(torch.int32).unsqueeze(-1)
    # The shift keeps the sign; the mask drops it
    return ((words >> shifts) & ((1 << bits) - 1)).flatten(-2)
