"""A model's weights laid out for the native core: from PyTorch's modules, or at random.

No torch at import: it is there with the model that is given.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from puna.model.config import ModelConfig
from puna.native.packed_model import DecoderShape, Part
from puna.native.packing import PackedLinear, pack_codes, pack_floats, take_turns

if TYPE_CHECKING:
    from torch import Tensor

    from puna.model.transformer import Transformer
    from puna.quantization.stored import QuantizedMatrix

WeightFormat = Literal["float32", "bfloat16", "int8", "int4"]
INT4_GROUP = 64

# numbers of the gates: native/gate.h
ACTIVATIONS: Mapping[str, int] = MappingProxyType(
    {"swiglu": 0, "glu": 1, "reglu": 2, "bilinear": 3, "geglu": 4}
)


def reason_against(config: ModelConfig) -> str | None:
    """The first part of the model that the native core has no kernel for; None where it runs it."""
    gate = config.feed_forward
    rules = (
        (config.placement == "pre", f"placement {config.placement}"),
        (config.norm == "rmsnorm" and not config.norm_bias, f"norm {config.norm}"),
        (config.norm_eps_place == "inside", "norm_eps_place outside"),
        (gate in ACTIVATIONS, f"feed_forward {gate}"),
        (gate != "geglu" or config.gelu_approximate == "none", "gelu_approximate tanh"),
        (gate != "swiglu" or config.swish_beta == 1, f"swish_beta {config.swish_beta}"),
        (not config.feed_forward_bias, "feed_forward_bias"),
        (config.position in ("rope", "none"), f"position {config.position}"),
        (not config.layers_without_rope, "layers_without_rope"),
        (config.attention is None, "attention none"),
        (config.attention_bias == "none", f"attention_bias {config.attention_bias}"),
        (not config.qk_norm, "qk_norm"),
        (config.sliding_window is None, "sliding_window"),
    )
    return next((reason for holds, reason in rules if not holds), None)


def shape_of(model: "Transformer") -> DecoderShape:
    """The numbers of a model that the core runs."""
    return shape_by(model.config, 0 if model.rotary is None else model.rotary.cos.shape[1])


def weights_format(model: "Transformer", weights: str, *, quantized: bool) -> WeightFormat:
    """The format that `weights` stands for: "auto" is bfloat16 for a model in it, and for what a
    quantized one does not hold as codes; else float32.
    """
    if weights == "auto":
        half = quantized or str(model.output_weight.dtype) == "torch.bfloat16"
        return "bfloat16" if half else "float32"
    return cast(WeightFormat, weights)


def shape_by(config: ModelConfig, rotary_half: int) -> DecoderShape:
    """The same of a configuration."""
    return DecoderShape(
        width=config.width,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_width=config.head_width,
        hidden=config.feed_forward_width,
        vocabulary=config.vocab_size,
        positions=config.context_length,
        rotary_half=rotary_half,
        eps=config.norm_eps,
        embedding_scale=config.embedding_scale,
        activation=ACTIVATIONS[config.feed_forward],
    )


def parts_of(
    model: "Transformer",
    kind: WeightFormat,
    lanes: int,
    stored: "Mapping[str, QuantizedMatrix]" = MappingProxyType({}),
) -> Iterator[Part]:
    """All parts of a model, one after the other: its matrices in the format `kind`, or with the
    codes of `stored`, by the names that the model's folder has for them.
    """

    def matrix(*names: str) -> PackedLinear:
        """The rows of one matrix, or of several."""
        parts = [_entries(tensors[f"{name.removeprefix('model.')}.weight"]) for name in names]
        codes = [stored[f"{name}.weight"] for name in names if f"{name}.weight" in stored]
        alike = len(codes) == len(names) and len({(each.bits, each.group) for each in codes}) == 1
        # a family may have other entries than its file, where its multipliers were folded in
        if alike and all(map(_holds, codes, parts)):
            return pack_codes(
                np.concatenate([each.codes for each in codes]),
                np.concatenate([each.scales for each in codes]),
                bits=codes[0].bits,
                group=codes[0].group,
                lanes=lanes,
            )
        return pack(np.concatenate(parts), kind, lanes)

    tensors = model.state_dict()
    yield "embedding", matrix("model.embed_tokens")
    for index in range(model.config.num_layers):
        layer = f"model.layers.{index}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        yield f"{index}.qkv", matrix(*(f"{attention}.{name}_proj" for name in "qkv"))
        yield f"{index}.attention_output", matrix(f"{attention}.o_proj")
        gate, up = (matrix(f"{mlp}.{name}_proj") for name in ("gate", "up"))
        if (gate.kind, gate.group) != (up.kind, up.group):
            gate, up = (
                pack(_entries(tensors[f"layers.{index}.mlp.{name}_proj.weight"]), kind, lanes)
                for name in ("gate", "up")
            )
        yield f"{index}.gate_up", take_turns(gate, up)
        yield f"{index}.down", matrix(f"{mlp}.down_proj")
    if model.lm_head is not None:
        yield "head", matrix("lm_head")
    yield "norm", _entries(tensors["norm.weight"])
    for index in range(model.config.num_layers):
        layer = f"layers.{index}"
        yield f"{index}.attention_norm", _entries(tensors[f"{layer}.input_layernorm.weight"])
        yield (
            f"{index}.feed_forward_norm",
            _entries(tensors[f"{layer}.post_attention_layernorm.weight"]),
        )
    for name in ("cos", "sin"):
        empty = np.empty((model.config.context_length, 0), np.float32)
        yield name, empty if model.rotary is None else _entries(getattr(model.rotary, name))


def _holds(codes: "QuantizedMatrix", entries: NDArray[np.float32]) -> bool:
    """True where codes and scales are the entries, by the first and last rows."""
    ends = [0, -1]
    size = codes.group or codes.codes.shape[1]
    scales = codes.scales[ends].astype(np.float32).repeat(size, 1)[:, : codes.codes.shape[1]]
    return codes.codes.shape == entries.shape and np.allclose(
        codes.codes[ends] * scales, entries[ends], rtol=2**-7, atol=0
    )


def _entries(tensor: "Tensor") -> NDArray[np.float32]:
    entries: NDArray[np.float32] = tensor.detach().float().cpu().contiguous().numpy()
    return entries


def pack(entries: NDArray[np.float32], kind: WeightFormat, lanes: int) -> PackedLinear:
    """A matrix in a format; integers to the nearest, with scales by the largest entry."""
    if kind in ("float32", "bfloat16"):
        return pack_floats(entries, kind, lanes)
    bits, group = (8, 0) if kind == "int8" else (4, INT4_GROUP)
    codes, scales = absmax_codes(entries, bits, group)
    return pack_codes(codes, scales, bits=bits, group=group, lanes=lanes)


def absmax_codes(
    entries: NDArray[np.float32], bits: int, group: int
) -> tuple[NDArray[np.int8], NDArray[np.float32] | NDArray[np.float16]]:
    """Codes and scales, as `pack_codes` takes them: the largest entry falls on the largest code.

    One pass, for a start that waits for it; puna.quantization.grid searches the scales, many passes
    long, and loses less. An entry that is no number makes its scale one.
    """
    most = 2 ** (bits - 1) - 1
    rows, columns = entries.shape
    size = group or columns
    filled = np.zeros((rows, -(-columns // size) * size), np.float32)
    filled[:, :columns] = entries
    grouped = filled.reshape(rows, -1, size)
    scales = (np.abs(grouped).max(2) / most).astype(np.float16 if group else np.float32)
    divisors = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    with np.errstate(invalid="ignore"):
        whole = np.nan_to_num(np.rint(grouped / divisors))
    codes = np.clip(whole, -most - (bits == 4), most).astype(np.int8)
    return codes.reshape(rows, -1)[:, :columns], scales


def random_parts(
    shape: DecoderShape, kind: WeightFormat, lanes: int, *, tied: bool = False, seed: int = 0
) -> Iterator[Part]:
    """Weights of this shape that mean nothing, for measuring."""
    random = np.random.default_rng(seed)
    group = INT4_GROUP if kind == "int4" else 0
    for name, rows, columns in shape.linears(lanes, tied=tied):
        if kind in ("float32", "bfloat16"):
            entries = random.standard_normal((rows, columns), np.float32) * np.float32(0.02)
            yield name, pack_floats(entries, kind, lanes)
            continue
        empty = PackedLinear(kind, rows, columns, lanes, np.empty(0, np.uint8), None, group)
        scale = 0.02 / (74 if kind == "int8" else 4.6)  # deviations of uniform codes
        assert empty.scales_shape is not None
        scales = np.full(empty.scales_shape, scale, np.float16 if group else np.float32)
        weights = np.frombuffer(random.bytes(empty.weight_bytes), np.uint8)
        yield name, PackedLinear(kind, rows, columns, lanes, weights, scales, group)
    for name, dimensions in shape.vectors():
        yield name, _random_vector(name, dimensions)


def _random_vector(name: str, dimensions: tuple[int, ...]) -> NDArray[np.float32]:
    if name not in ("cos", "sin"):
        return np.ones(dimensions, np.float32)
    positions, half = dimensions
    phases = np.outer(np.arange(positions), 10000.0 ** (-np.arange(half) / max(half, 1)))
    turn: Callable[..., NDArray[np.float64]] = np.cos if name == "cos" else np.sin
    return turn(phases).astype(np.float32)
