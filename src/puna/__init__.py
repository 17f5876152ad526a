"""Puna raises a LLaMA: tokenizer, corpus, training, measurement, generation, each part in sight.

>>> import puna
>>> llama = puna.load("runs/quickstart/model")  # doctest: +SKIP
>>> llama.generate("import ", max_tokens=20)    # doctest: +SKIP

Nothing heavy is imported before it is asked for.
"""

import importlib
from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from puna.errors import PunaError

if TYPE_CHECKING:
    from puna import nn
    from puna.inference.language_model import LanguageModel, load
    from puna.tokenizer.chat import Message
    from puna.tokenizer.tokenizer import Tokenizer

__all__ = ["LanguageModel", "Message", "PunaError", "Tokenizer", "__version__", "load", "nn"]

__version__ = version("puna")

_HOMES: Mapping[str, str] = MappingProxyType(
    {
        "LanguageModel": "puna.inference.language_model",
        "Message": "puna.tokenizer.chat",
        "Tokenizer": "puna.tokenizer.tokenizer",
        "load": "puna.inference.language_model",
    }
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "nn":
        return importlib.import_module("puna.nn")
    raise AttributeError(f"module 'puna' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those that are loaded late among them."""
    return __all__
