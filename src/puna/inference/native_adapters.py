"""LoRA adapters for a model on the native core: from PEFT's folders to the layout of its packed
matrices.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from puna.native.packed_adapter import LowRankPart, PackedAdapter, pack_update
from puna.native.packed_model import DecoderShape, PackedModel

if TYPE_CHECKING:
    from puna.model.transformer import Transformer
    from puna.nn.lora import LowRankUpdate


def packed_adapters(
    folders: Mapping[str, Path], model: "Transformer", packed: PackedModel
) -> dict[str, PackedAdapter]:
    """The adapters of these folders, by the same names. model: of the shape of `packed`, whose
    weights are not read, so that it may be on "meta".

    Raises ModelFolderError as `read_adapter` does.
    """
    from puna.model.adapters import read_adapter

    return {
        name: pack_adapter(read_adapter(folder, model), packed) for name, folder in folders.items()
    }


def pack_adapter(updates: "Mapping[str, LowRankUpdate]", packed: PackedModel) -> PackedAdapter:
    """Updates by the names of the model's linear layers as those of a packed model's matrices."""
    shape, lanes = packed.shape, packed.lanes
    found = {}
    for layer in range(shape.layers):
        for matrix, projections in _projections(shape, lanes).items():
            parts = [
                _part(updates[module], rows)
                for name, rows in projections.items()
                if (module := f"layers.{layer}.{name}") in updates
            ]
            if parts:
                name = f"{layer}.{matrix}"
                found[name] = pack_update(parts, packed.linears[name].panels, lanes)
    return PackedAdapter(found)


def _projections(shape: DecoderShape, lanes: int) -> dict[str, dict[str, NDArray[np.int64]]]:
    """By matrix of a layer the projections in it, with the places of their rows."""
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    merged = np.arange(queries + 2 * keys)
    hidden = np.arange(shape.hidden)
    # gate and up take turns by panels
    gate = hidden // lanes * 2 * lanes + hidden % lanes
    return {
        "qkv": {
            "self_attn.q_proj": merged[:queries],
            "self_attn.k_proj": merged[queries : queries + keys],
            "self_attn.v_proj": merged[queries + keys :],
        },
        "attention_output": {"self_attn.o_proj": np.arange(shape.width)},
        "gate_up": {"mlp.gate_proj": gate, "mlp.up_proj": gate + lanes},
        "down": {"mlp.down_proj": np.arange(shape.width)},
    }


def _part(update: "LowRankUpdate", rows: NDArray[np.int64]) -> LowRankPart:
    a, b = update.a.float().cpu().numpy(), update.b.float().cpu().numpy()
    return LowRankPart(a, np.float32(update.scale) * b, rows)
