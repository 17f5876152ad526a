"""Puna raises a LLaMA: tokenizer, corpus, training, measurement, generation, each part in sight.

>>> import puna
>>> run = puna.train("recipes/tiny.yaml")                    # doctest: +SKIP
>>> run.model.generate("import ", max_tokens=20)             # doctest: +SKIP
>>> puna.load("runs/tiny/model").generate("import ", seed=1) # doctest: +SKIP

Nothing heavy is imported before it is asked for.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from puna.errors import PunaError

if TYPE_CHECKING:
    from puna import nn
    from puna.data.prepare import prepare
    from puna.inference.language_model import LanguageModel, load
    from puna.tokenizer.chat_template import Message
    from puna.tokenizer.tokenizer import Tokenizer
    from puna.workflow.evaluation import evaluate
    from puna.workflow.training_run import train

__version__: str

__all__ = [
    "LanguageModel",
    "Message",
    "PunaError",
    "Tokenizer",
    "__version__",
    "evaluate",
    "load",
    "nn",
    "prepare",
    "train",
]

_HOMES: Mapping[str, str] = MappingProxyType(
    {
        "LanguageModel": "puna.inference.language_model",
        "Message": "puna.tokenizer.chat_template",
        "Tokenizer": "puna.tokenizer.tokenizer",
        "evaluate": "puna.workflow.evaluation",
        "load": "puna.inference.language_model",
        "prepare": "puna.data.prepare",
        "train": "puna.workflow.training_run",
    }
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "nn":
        return importlib.import_module("puna.nn")
    if name == "__version__":
        from importlib.metadata import version

        return version("puna")
    raise AttributeError(f"module 'puna' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those that are loaded late among them."""
    return __all__
