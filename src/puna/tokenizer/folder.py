"""The tokenizer's files in a model folder: `tokenizer.json`, and `tokenizer_config.json` with roles
and chat template.

The first decides the ids; the second tells transformers, vLLM and lm-evaluation-harness which class
reads it, which tokens open, close and pad a text, and how a chat is laid out. A folder that came
from elsewhere keeps its own second file when it is saved again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna import durable
from puna.errors import TokenizerError
from puna.tokenizer.chat_template import CHAT_TEMPLATE, CHAT_TOKENS
from puna.tokenizer.special import BEGIN_OF_TEXT_NAMES, END_OF_TEXT_NAMES, PAD_NAMES

DEFINITION_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
PROVENANCE_FILE, PROVENANCE_KEY = "puna.json", "tokenizer_hash"


def read_folder(path: Path) -> tuple[str, dict[str, Any] | None]:
    """The content of `tokenizer.json` and the config beside it, if any; `path` is the folder or the
    file.

    A chat template in a file of its own, as transformers 5 writes it, is put into the config.
    Raises TokenizerError for what is not there or cannot be read.
    """
    file = path / DEFINITION_FILE if path.is_dir() else path
    if not file.is_file():
        raise TokenizerError(
            f"there is no tokenizer at {file}; name a folder that holds {DEFINITION_FILE}, or make"
            " one with `puna tokenizer train`"
        )
    config_file, template_file = file.with_name(CONFIG_FILE), file.with_name(TEMPLATE_FILE)
    try:
        definition = file.read_text(encoding="utf-8")
        config = (
            json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else None
        )
        if not isinstance(config, dict | None):
            raise ValueError(f"{CONFIG_FILE} is no JSON object")
        # The file wins over an entry of the configuration, as in transformers
        if config is not None and template_file.is_file():
            config["chat_template"] = template_file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"the tokenizer in {file.parent} cannot be read ({error}); copy or train it again"
        ) from error
    return definition, config


def reject_other(path: Path, found: str) -> None:
    """Raise TokenizerError where the model in a folder was trained with a tokenizer of another hash
    than `found`, by its puna.json; its ids would mean other text.
    """
    provenance = (path if path.is_dir() else path.parent) / PROVENANCE_FILE
    try:
        values = json.loads(provenance.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"{provenance} cannot be read ({error}); copy the model folder again, or delete this"
            " file to read the model without its origin"
        ) from error
    expected = values.get(PROVENANCE_KEY) if isinstance(values, dict) else None
    if expected is not None and expected != found:
        raise TokenizerError(
            f"the tokenizer there has the hash {found[:12]}, but the model beside it was trained"
            f" with {str(expected)[:12]}, as {PROVENANCE_FILE} says: copy that model's"
            f" {DEFINITION_FILE} into the folder again"
        )


def write_folder(path: Path, definition: str, config: Mapping[str, Any]) -> None:
    """Write both files, each whole or not at all; other files of the folder stay."""
    durable.write_text(path / DEFINITION_FILE, definition)
    durable.write_json(path / CONFIG_FILE, dict(config))


def build_config(special_tokens: Mapping[str, int]) -> dict[str, Any]:
    """The `tokenizer_config.json` of a vocabulary without one: roles by name, and the template if
    it can hold a chat.

    The class named is the one that takes `tokenizer.json` as it stands. A model's own class
    (`LlamaTokenizer`) would rebuild the pre-tokenizer and give other ids.
    """
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role, names in (
        ("bos", BEGIN_OF_TEXT_NAMES),
        ("eos", END_OF_TEXT_NAMES),
        ("pad", PAD_NAMES),
    ):
        token = next((name for name in names if name in special_tokens), None)
        if token is not None:
            config[f"{role}_token"] = token
    config["clean_up_tokenization_spaces"] = False
    config["model_input_names"] = ["input_ids", "attention_mask"]
    if all(name in special_tokens for name in CHAT_TOKENS):
        config["chat_template"] = CHAT_TEMPLATE
    return config
