"""Weights of another model to start a run from: `train.init_from`."""

from pathlib import Path

import torch

from puna.errors import TrainingError
from puna.model.config import ModelConfig
from puna.model.parts import INITS
from puna.model.transformer import Transformer
from puna.model.weights import read_model
from puna.training.weight_sharding import copy_state

# keys that decide how weights are made or trained, not which there are and what is done with them
_FREE = frozenset(
    {
        "preset",
        "init",
        "init_std",
        "scale_residual_init",
        "zero_residual_init",
        "embedding_std",
        "feed_forward_multiple",
        "padding_id",
        *(key for choice in INITS.values() for key in choice.options),
    }
)


def copy_weights(model: Transformer, folder: Path) -> None:
    """Fill a model, in place and in its dtype, with the weights of a model folder.

    The context length may differ unless positions are learned. Raises TrainingError that names the
    first key of the shape that differs, and ModelFolderError for what is no model folder.
    """
    dtype: torch.dtype = model.output_weight.dtype
    source = read_model(folder, dtype=dtype)
    # Of the model that was read: its file decides where config.json leaves the output layer open
    _reject_other_shape(model.config, source.config, folder)
    copy_state(model, source)


def _reject_other_shape(wanted: ModelConfig, found: ModelConfig, folder: Path) -> None:
    free = _FREE if wanted.position == "learned" else _FREE | {"context_length"}
    for key in type(wanted).model_fields:
        ours, theirs = getattr(wanted, key), getattr(found, key)
        if key not in free and ours != theirs:
            raise TrainingError(
                f"train.init_from {folder} has model.{key} {theirs}, but the recipe has {ours}: set"
                f" model.{key}={theirs} and whatever else differs, or leave out train.init_from"
            )
