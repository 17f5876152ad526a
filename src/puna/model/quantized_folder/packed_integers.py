"""Small integers packed into 32-bit words, with a scale and a zero point for each group of inputs:
GPTQ, AWQ, MLX and compressed-tensors.

    W_oi = (q_oi - z_og) s_og        with g the group of input i

| layout | words hold | order in a word | zero point |
|---|---|---|---|
| GPTQ | inputs of one output, [I 32/b, O] | lowest bits first | packed along O, stored less 1 |
| AWQ, gemm | outputs of one input, [I, O b/32] | 0 2 4 6 1 3 5 7 | packed alike |
| MLX | inputs of one output, [O, I b/32] | lowest bits first | biases: W = q s + b |
| compressed-tensors | inputs of one output, [O, I b/32] | lowest bits first | 2^(b-1), or by O |

GPTQ says the group of each input in g_idx, where inputs were taken in another order (act-order).
Source: Frantar et al. 2022, GPTQ, and AutoGPTQ's QuantLinear.pack; Lin et al. 2023, AWQ, and
AutoAWQ's WQLinear_GEMM.from_linear; MLX's `quantize`; compressed-tensors' pack_quantized.
"""

import torch
from torch import Tensor

from puna.model.quantized_folder.layout import Layout, QuantizedModule, unpacked
from puna.model.stored_tensors import StoredTensor

WORDS = ("I32", "U32")
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""For each output of eight the place of its four bits in the word."""


def _bits(module: QuantizedModule, key: str = "bits") -> int:
    return module.number(key, (2, 4, 8))


def _check_words(module: QuantizedModule, *names: str) -> None:
    for name in names:
        if module.parts[name].dtype not in WORDS:
            raise module.error(f"{name} holds {module.parts[name].dtype}, not 32-bit words")


def _restore_rows_first(module: QuantizedModule) -> StoredTensor:
    """GPTQ or AWQ, which have the same names, by quant_method."""
    _check_words(module, "qweight", "qzeros")
    groups, outputs = module.shape("scales", None, None)
    method = module.settings.get("quant_method")
    if method not in ("gptq", "awq"):
        raise module.error(f"quant_method = {method!r} (only 'gptq', 'awq' is supported)")
    if method == "gptq":
        return _restore_gptq(module, groups, outputs)
    return _restore_awq(module, groups, outputs)


def _restore_gptq(module: QuantizedModule, groups: int, outputs: int) -> StoredTensor:
    form = module.settings.get("checkpoint_format", "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise module.error(f"checkpoint_format = {form!r} (only 'gptq', 'gptq_v2' is supported)")
    bits = _bits(module)
    per_word = 32 // bits
    rows, _ = module.shape("qweight", None, outputs)
    inputs = rows * per_word
    module.shape("qzeros", groups, -(-outputs // per_word))
    order = module.parts.get("g_idx")
    if order is not None:
        module.shape("g_idx", inputs)
    elif groups < 1 or inputs % groups:
        raise module.error(f"{inputs} inputs are no {groups} groups of one size")
    # The first format has all zero points less 1, so that 16 fits four bits
    offset = 0 if form == "gptq_v2" else 1

    def values() -> Tensor:
        q = unpacked(module.parts["qweight"].read().T.contiguous(), bits)
        zeros = unpacked(module.parts["qzeros"].read(), bits)[:, :outputs]
        zeros = (zeros + offset) & ((1 << bits) - 1) if offset else zeros
        scales = module.parts["scales"].read().float()
        group = torch.arange(inputs) // (inputs // groups) if order is None else order.read().long()
        if int(group.min()) < 0 or int(group.max()) >= groups:
            raise module.error(f"g_idx names groups beyond 0 to {groups - 1}")
        return (q - zeros.T[:, group]).float() * scales.T[:, group]

    return module.weight((outputs, inputs), values)


def _restore_awq(module: QuantizedModule, groups: int, outputs: int) -> StoredTensor:
    version = module.settings.get("version", "gemm")
    if version != "gemm":
        raise module.error(f"version = {version!r} (only 'gemm' is supported)")
    module.number("bits", (4,))
    if outputs % 8:
        raise module.error(f"{outputs} outputs are no words of eight")
    inputs, _ = module.shape("qweight", None, outputs // 8)
    module.shape("qzeros", groups, outputs // 8)
    if groups < 1 or inputs % groups:
        raise module.error(f"{inputs} inputs are no {groups} groups of one size")

    def ordered(name: str) -> Tensor:
        places = unpacked(module.parts[name].read(), 4)
        eights = places.view(*places.shape[:-1], -1, 8)
        return eights[..., list(AWQ_ORDER)].flatten(-2)

    def values() -> Tensor:
        size = inputs // groups
        zeros = ordered("qzeros").repeat_interleave(size, 0)
        scales = module.parts["scales"].read().float().repeat_interleave(size, 0)
        return ((ordered("qweight") - zeros).float() * scales).T

    return module.weight((outputs, inputs), values)


def _restore_mlx(module: QuantizedModule) -> StoredTensor:
    _check_words(module, "weight")
    bits = _bits(module)
    outputs, words = module.shape("weight", None, None)
    inputs = words * 32 // bits
    _, groups = module.shape("scales", outputs, None)
    module.shape("biases", outputs, groups)
    if groups < 1 or inputs % groups:
        raise module.error(f"{inputs} inputs are no {groups} groups of one size")
    size = inputs // groups
    if module.settings.get("group_size", size) != size:
        raise module.error(
            f"group_size = {module.settings['group_size']!r}, and its scales say {size}"
        )

    def values() -> Tensor:
        q = unpacked(module.parts["weight"].read(), bits).float()
        scales, biases = (
            module.parts[name].read().float().repeat_interleave(size, 1)
            for name in ("scales", "biases")
        )
        return q * scales + biases

    return module.weight((outputs, inputs), values)


def _announced_bits(module: QuantizedModule, inputs: int, words: int) -> int:
    """The bits of this module among those that the groups of compressed-tensors' configuration
    name: the only ones with which so many numbers fill so many words. Raises ModelFolderError.
    """
    groups = module.settings.get("config_groups")
    found = {
        group["weights"].get("num_bits")
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict) and isinstance(group.get("weights"), dict)
    }
    if not found or not found <= {2, 4, 8}:
        raise module.error(
            f"config_groups name the bits {sorted(map(str, found))} (only 2, 4 and 8 are supported)"
        )
    fitting = [bits for bits in found if -(-inputs * bits // 32) == words]
    if len(fitting) != 1:
        raise module.error(
            f"{words} words a row hold no {inputs} numbers of any of the bits {sorted(found)}"
        )
    return int(fitting[0])


def _restore_packed(module: QuantizedModule) -> StoredTensor:
    _check_words(module, "weight_packed")
    outputs, words = module.shape("weight_packed", None, None)
    shape = module.parts["weight_shape"].read().flatten().tolist()
    whole = len(shape) == 2 and all(isinstance(number, int) for number in shape)
    if not whole or shape[0] != outputs or not 0 < shape[1] <= words * 32:
        raise module.error(f"its weight_shape is {shape} for words of {[outputs, words]}")
    inputs = shape[1]
    bits = _announced_bits(module, inputs, words)
    _, groups = module.shape("weight_scale", outputs, None)
    if groups < 1 or inputs % groups:
        raise module.error(f"{inputs} inputs are no {groups} groups of one size")
    order = module.parts.get("weight_g_idx")
    if order is not None:
        module.shape("weight_g_idx", inputs)
    zero = module.parts.get("weight_zero_point")
    if zero is not None:
        module.shape("weight_zero_point", -(-outputs * bits // 32), groups)
        _check_words(module, "weight_zero_point")

    def values() -> Tensor:
        q = unpacked(module.parts["weight_packed"].read(), bits)[:, :inputs]
        group = torch.arange(inputs) // (inputs // groups) if order is None else order.read().long()
        if int(group.min()) < 0 or int(group.max()) >= groups:
            raise module.error(f"weight_g_idx names groups beyond 0 to {groups - 1}")
        if zero is None:
            q = q - (1 << (bits - 1))
        else:  # packed along the outputs
            q = q - unpacked(zero.read().T.contiguous(), bits).T[:outputs, group]
        return q.float() * module.parts["weight_scale"].read().float()[:, group]

    return module.weight((outputs, inputs), values)


ROWS_FIRST = Layout(
    frozenset({"qweight", "qzeros", "scales"}),
    frozenset({"qweight", "qzeros", "scales", "g_idx"}),
    _restore_rows_first,
)
MLX = Layout(
    frozenset({"weight", "scales", "biases"}),
    frozenset({"weight", "scales", "biases"}),
    _restore_mlx,
)
PACKED = Layout(
    frozenset({"weight_packed", "weight_scale", "weight_shape"}),
    frozenset(
        {
            "weight_packed",
            "weight_scale",
            "weight_shape",
            "weight_g_idx",
            "weight_zero_point",
            "input_scale",
        }
    ),
    _restore_packed,
)
