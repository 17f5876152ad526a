"""Packages that only some stages and sources need, imported when one is asked for."""

import importlib
from typing import Any

from puna.errors import DataError


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """The module. Raises DataError with the command that installs it where it is absent.

    extra: the one of pyproject.toml that brings it. purpose: what needs it, for the message.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise DataError(
            f"{purpose} needs the package {error.name}, which is not installed: pip install"
            f" 'puna[{extra}]'"
        ) from error
