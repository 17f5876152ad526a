"""The models that `puna serve` is asked for: folders, their names, and the adapters of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from puna.errors import ConfigError

if TYPE_CHECKING:
    from puna.engine_process.messages import ModelSpec


def model_specs(
    folders: Sequence[Path],
    names: Sequence[str],
    adapters: Sequence[str],
    *,
    template: str | None = None,
    generation_config: bool = True,
) -> "list[ModelSpec]":
    """The models to serve: folders with their names, and the adapters of each; template and
    generation_config are for all of them. Raises ConfigError where these do not fit together.
    """
    from puna.engine_process.messages import ModelSpec

    if names and len(names) != len(folders):
        raise ConfigError(
            f"there are {len(folders)} models but {len(names)} times --name: give one for each, in"
            " the same order"
        )
    called = list(names) or [_called(folder) for folder in folders]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"two models are called {twice!r}, so that no request could choose: tell them apart by"
            " --name, once for each"
        )
    strange = next((name for name in called if not name or ":" in name), None)
    if strange is not None:
        raise ConfigError(
            f"a model cannot be called {strange!r}: a colon separates a model from its adapter;"
            " give another by --name"
        )
    chosen: dict[str, dict[str, str]] = {name: {} for name in called}
    for adapter in adapters:
        left, equals, folder = adapter.partition("=")
        model, colon, name = left.rpartition(":")
        if not (equals and name and folder) or (not colon and len(called) > 1):
            raise ConfigError(
                f"--adapter {adapter!r} is not of the form"
                f" {'MODEL:' if len(called) > 1 else ''}NAME=FOLDER"
            )
        model = model if colon else called[0]
        if model not in chosen:
            raise ConfigError(
                f"--adapter {adapter!r} is for {model!r}, which is not served here:"
                f" {', '.join(called)}"
            )
        if name in chosen[model]:
            raise ConfigError(
                f"two adapters of {model} are called {name!r}: give each another name"
            )
        chosen[model][name] = folder
    return [
        ModelSpec(name, str(folder), chosen[name], template, generation_config)
        for name, folder in zip(called, folders, strict=True)
    ]


def _called(folder: Path) -> str:
    """The folder's name; where that is `model`, as in the folder of a run, the name of the folder
    above. A link keeps its own name.
    """
    folder = folder.resolve() if ".." in folder.parts else folder.absolute()
    return folder.parent.name if folder.name == "model" else folder.name
