"""A served model as the API server knows it: its vocabulary, the layout of its chats, and its
default options, read from its folder while the engine process reads the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from puna.engine_process.messages import LoadedModel, ModelSpec
from puna.formats.model_path import find_model, read_tokenizer, written_at
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
    path = find_model(spec.folder)
    tokenizer = read_tokenizer(path)
    return TextSide(
        tokenizer,
        chat_layout(tokenizer, spec.template),
        read_generation_defaults(path) if spec.generation_config else {},
        written_at(path),
    )
