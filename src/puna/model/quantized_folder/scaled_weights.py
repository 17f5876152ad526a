"""Weights as small floats or integers times a scale: FP8, and int8 by channel, group or block.

    W_ij = (q_ij - z_ij) s_ij

with one scale for the matrix, for each row, or for each block of it. Two names say the same:
`weight_scale` of compressed-tensors and FBGEMM, `weight_scale_inv` of DeepSeek-V3, which is not the
inverse of what it is multiplied with but of what the weight was. bitsandbytes' int8 has `SCB`, the
largest magnitude of each row, which stands for 127.

Scales of activations are passed over: the programs that use them round what the weights are
multiplied with besides, which is not done here. Source: compressed-tensors, quantization schemes;
DeepSeek-AI 2024, DeepSeek-V3, section 3.3.2 and its published code; Dettmers et al. 2022, LLM.int8,
section 2.1.
"""

from functools import partial

from torch import Tensor

from puna.model.quantized_folder.layout import Layout, QuantizedModule
from puna.model.stored_tensors import StoredTensor

SMALL = ("F8_E4M3", "F8_E5M2", "I8")
ACTIVATIONS = ("input_scale", "input_scale_ub", "input_zero_point", "output_scale")


def _restore(module: QuantizedModule, scale_name: str) -> StoredTensor:
    weight, scale = module.parts["weight"], module.parts[scale_name]
    zero = module.parts.get("weight_zero_point")
    if weight.dtype not in SMALL:
        raise module.error(f"its weight holds {weight.dtype} (only {', '.join(SMALL)} is read)")
    rows, columns = module.shape("weight", None, None)
    block = _block(module, scale_name, rows, columns)
    if zero is not None and zero.shape != scale.shape:
        raise module.error("weight_zero_point has another shape than weight_scale")

    def values() -> Tensor:
        q = weight.read().float()
        if zero is not None:
            q -= _spread(zero.read().float(), block, rows, columns)
        return q * _spread(scale.read().float(), block, rows, columns)

    return module.weight((rows, columns), values)


def _block(module: QuantizedModule, scale_name: str, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns that share a scale. Raises ModelFolderError where the scales are none of
    this matrix.
    """
    shape = module.parts[scale_name].shape
    if shape in ((), (1,)):
        return rows, columns
    down, across = shape if len(shape) == 2 else (shape[0], 1)
    block = module.settings.get("weight_block_size")
    if not (isinstance(block, list) and len(block) == 2 and all(isinstance(b, int) for b in block)):
        block = [rows // max(down, 1), columns // max(across, 1)]
    high, wide = block
    if high < 1 or wide < 1 or (-(-rows // high), -(-columns // wide)) != (down, across):
        raise module.error(
            f"{scale_name} has shape {list(shape)}, which fits no blocks of {list(block)} in"
            f" {[rows, columns]}"
        )
    return high, wide


def _spread(scales: Tensor, block: tuple[int, int], rows: int, columns: int) -> Tensor:
    """The scale of each entry; as few as broadcasting needs."""
    if scales.numel() == 1:
        return scales.reshape(1, 1)
    high, wide = block
    if scales.dim() == 1:
        scales = scales[:, None]
    if high > 1:
        scales = scales.repeat_interleave(high, 0)[:rows]
    return scales if wide == columns else scales.repeat_interleave(wide, 1)[:, :columns]


def _restore_llm_int8(module: QuantizedModule) -> StoredTensor:
    rows, columns = module.shape("weight", None, None)
    module.shape("SCB", rows)
    weight, largest = module.parts["weight"], module.parts["SCB"]
    form = module.parts.get("weight_format")
    if weight.dtype != "I8":
        raise module.error(f"its weight holds {weight.dtype} (only I8 has an SCB)")

    def values() -> Tensor:
        # the tiled orders of older graphics cards have other numbers
        if form is not None and int(form.read().flatten()[0]) != 0:
            raise module.error("its weight_format is none of rows")
        return weight.read().float() * (largest.read().float()[:, None] / 127)

    return module.weight((rows, columns), values)


SCALED = tuple(
    Layout(
        frozenset({"weight", name}),
        frozenset({"weight", name, "weight_zero_point", "weight_shape", *ACTIVATIONS}),
        partial(_restore, scale_name=name),
    )
    for name in ("weight_scale", "weight_scale_inv")
)
LLM_INT8 = Layout(
    frozenset({"weight", "SCB"}), frozenset({"weight", "SCB", "weight_format"}), _restore_llm_int8
)
