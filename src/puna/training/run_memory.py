"""Memory that a run needs, compared with the machine's before anything is spent."""

import torch

from puna.device import Precision, memory_bytes
from puna.errors import TrainingError
from puna.model.accounting import training_memory
from puna.training.recipe import Recipe


def reject_too_large(recipe: Recipe, device: torch.device, precision: Precision) -> None:
    """Raise TrainingError where the recipe needs more memory than the device has."""
    needed = training_memory(
        recipe.model,
        recipe.micro_batch_size,
        recipe.context_length,
        half=precision == "bfloat16",
        checkpointing=recipe.train.activation_checkpointing,
        device=device.type,
    ).total
    available = memory_bytes(device)
    if available is not None and needed > available:
        raise TrainingError(
            f"this recipe needs about {needed / 1e9:.1f} GB on {device}, which has"
            f" {available / 1e9:.1f} GB: lower train.micro_batch_size, set"
            " train.activation_checkpointing=true, or choose a smaller model"
        )
