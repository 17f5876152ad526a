"""The model that is measured: a folder, or a shape by name with random weights.

Speed does not depend on the values of weights, so a shape needs no download.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from puna.errors import ConfigError
from puna.model.accounting import Parameters, count_parameters
from puna.model.config import ModelConfig
from puna.model.weights import read_config

Size = Literal["15M", "110M", "1.1B"]
"""The class of models that a bar holds for."""

CONTEXT = 16384
"""Positions of the named shapes: more than any work here needs."""


def _shape(
    width: int, layers: int, heads: int, kv_heads: int, hidden: int, vocab: int, tied: bool = False
) -> ModelConfig:
    return ModelConfig(
        width=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_width=width // heads,
        feed_forward_width=hidden,
        vocab_size=vocab,
        tie_embeddings=tied,
        context_length=CONTEXT,
    )


def shapes() -> Mapping[str, ModelConfig]:
    """The shapes by name: those of llama2.c's TinyStories models with an output layer of their own,
    of SmolLM2-135M and of TinyLlama 1.1B.
    """
    return MappingProxyType(
        {
            "15M": _shape(288, 6, 6, 6, 768, 32000),
            "110M": _shape(768, 12, 12, 12, 2048, 32000),
            "135M": _shape(576, 30, 9, 3, 1536, 49152, tied=True),
            "1.1B": _shape(2048, 22, 32, 4, 5632, 32000),
        }
    )


@dataclass(frozen=True)
class Subject:
    """A model to measure. folder: None for a shape."""

    name: str
    config: ModelConfig
    folder: Path | None = None

    @property
    def parameters(self) -> Parameters:
        """Its parameters by part."""
        return count_parameters(self.config)

    @property
    def size(self) -> Size:
        """The class that its bars are of: below 50M parameters, below 500M, or above."""
        total = self.parameters.total
        return "15M" if total < 5e7 else "110M" if total < 5e8 else "1.1B"


def find_subject(text: str) -> Subject:
    """The shape of this name, or the model folder at this path. Raises ConfigError for neither, and
    ModelFolderError for a folder that is no model.
    """
    known = shapes()
    if text in known:
        return Subject(text, known[text])
    folder = Path(text)
    if not folder.is_dir():
        raise ConfigError(
            f"{text!r} is neither a model folder nor a shape: give a folder, or one of"
            f" {', '.join(known)}"
        )
    return Subject(folder.resolve().name, read_config(folder), folder)
