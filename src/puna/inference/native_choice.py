"""The choice of the native core for a model on disk, and its packed weights.

Without torch where the model was packed before.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from puna import host
from puna.errors import ConfigError
from puna.inference.engine_config import EngineConfig
from puna.inference.native_weights import reason_against
from puna.inference.packed_file import packed_model, packed_path
from puna.native.library import Library, available_tiers, load
from puna.native.packed_model import PackedModel

if TYPE_CHECKING:
    from puna.model.transformer import Transformer


def on_cpu(device: str) -> bool:
    """True where the device of this name is the CPU; asks PyTorch only where there may be another.

    Raises ConfigError for a device that is not there.
    """
    if device == "cpu" or (device == "auto" and not host.may_have_accelerator()):
        return True
    from puna.device import choose_device

    return choose_device(device).type == "cpu"


def choose_library(options: EngineConfig) -> Library | None:
    """The tier that the options name, or the fastest; None where PyTorch is to run the model.

    Raises NativeError for a tier that cannot be used.
    """
    if options.isa == "torch" or options.block_size % 16:
        return None
    if options.isa == "auto":
        return load() if available_tiers() else None
    return load(options.isa)


def native_model(
    path: Path, library: Library, options: EngineConfig, read: "Callable[[], Transformer]"
) -> PackedModel | None:
    """The model at `path` packed for a tier; None where the core lacks one of its parts.

    read: opens it with PyTorch, called where it was not packed before. Raises ConfigError for a
    part that is lacking where the options ask for the core.
    """
    file = packed_path(path, options.weights, library.lanes)
    if file.exists():
        return packed_model(file, path, read, options.weights, library.lanes)
    model = read()
    if (reason := reason_against(model.config)) is None:
        return packed_model(file, path, lambda: model, options.weights, library.lanes)
    if options.isa != "auto" or options.weights != "auto":
        raise ConfigError(
            f"{path} has {reason}, for which the native core has no kernel: leave out --isa and"
            " --weights, and PyTorch runs it"
        )
    return None
