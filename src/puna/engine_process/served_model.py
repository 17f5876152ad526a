"""A served model as the API server knows it: its vocabulary, the layout of its chats, and its
default options, read from its folder while the engine process reads the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.engine_process.messages import LoadedModel, ModelSpec
from puna.inference.generation_defaults import read_generation_defaults
from puna.tokenizer.chat_layout import ChatLayout, chat_layout
from puna.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextSide:
    """The makers of ids and options from requests. defaults: options of generation where a request
    gives none, by the names of `GenerationOptions`. created: the time of the folder, in seconds
    since 1970.
    """

    tokenizer: Tokenizer
    layout: ChatLayout
    defaults: Mapping[str, Any]
    created: int


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that requests can name."""

    loaded: LoadedModel
    text: TextSide


def read_text_side(spec: ModelSpec) -> TextSide:
    """Read the files beside the weights. Raises TokenizerError, ConfigError."""
    tokenizer = Tokenizer.load(spec.folder)
    return TextSide(
        tokenizer,
        chat_layout(tokenizer, spec.template),
        read_generation_defaults(spec.folder) if spec.generation_config else {},
        int((Path(spec.folder) / "config.json").stat().st_mtime),
    )
