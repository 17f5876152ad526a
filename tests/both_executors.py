"""Models on both executors: what a test of the engine is parametrized by, and a model packed for
the native core.
"""

import pytest

from puna.inference.build_executor import PackedWeights
from puna.inference.native_weights import WeightFormat, parts_of, shape_of
from puna.model.transformer import Transformer
from puna.native.library import available_tiers, load
from puna.native.packed_model import PackedModel

EXECUTORS = (
    "torch",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(not available_tiers(), reason="the native core is not built"),
    ),
)


def pack_model(model: Transformer, lanes: int, weights: WeightFormat = "float32") -> PackedModel:
    """The model laid out for the native core, in memory."""
    packed = PackedModel(shape_of(model), lanes, half=weights != "float32")
    for name, part in parts_of(model, weights, lanes):
        packed.add(name, part)
    return packed


def weights_for(executor: str, model: Transformer) -> Transformer | PackedWeights:
    """What `build_executor` and `LanguageModel` take, so that this executor runs the model: in
    float32, on the fastest tier.
    """
    if executor == "torch":
        return model
    library = load()
    return PackedWeights(pack_model(model, library.lanes), library, lambda: model)
