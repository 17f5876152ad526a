"""The tokenizer's files in a model folder: `tokenizer.json` or a vocabulary in another form,
`tokenizer_config.json` with roles and chat template, and the end ids of `generation_config.json`.

The first decides the ids; the second tells transformers, vLLM and lm-evaluation-harness which class
reads it, which tokens open, close and pad a text, and how a chat is laid out. A folder that came
from elsewhere keeps its own second file when it is saved again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna import durable
from puna.errors import TokenizerError
from puna.tokenizer.chat_template import CHAT_TEMPLATE, CHAT_TOKENS
from puna.tokenizer.merges_file import read_merges
from puna.tokenizer.rank_file import RANK_LINE, read_ranks
from puna.tokenizer.roles import read_ids
from puna.tokenizer.sentencepiece_model import read_sentencepiece
from puna.tokenizer.special import (
    BEGIN_OF_TEXT_NAMES,
    END_OF_MESSAGE,
    END_OF_TEXT_NAMES,
    END_OF_TURN_NAMES,
    PAD_NAMES,
)

DEFINITION_FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
END_FILES = ("generation_config.json", "config.json")
"""Files that may hold eos_token_id; the first that does decides."""
PROVENANCE_FILE, PROVENANCE_KEY = "puna.json", "tokenizer_hash"

MAX_FILE_BYTES = 1 << 26
"""Largest file that is read, twice the largest published one."""


@dataclass(frozen=True)
class TokenizerFiles:
    """definition: the content of a tokenizer.json. config: that of tokenizer_config.json, if any.
    end_ids: what the folder's model ends at, empty where it does not say.
    """

    definition: str
    config: dict[str, Any] | None
    end_ids: tuple[int, ...]


def read_folder(path: Path) -> TokenizerFiles:
    """The tokenizer at `path`: a folder, or a vocabulary file in it.

    A chat template in a file of its own, as transformers 5 writes it, is put into the config.
    Raises TokenizerError for what is not there or cannot be read.
    """
    file = _vocabulary_file(path)
    config = _read_config(file.parent)
    data = _read_bytes(file)
    roles: dict[str, Any] = {}
    # these forms have no post-processor that could say so
    begins = (config or {}).get("add_bos_token") is not False
    if data.startswith(b"version https://git-lfs"):
        raise TokenizerError(
            f"{file} is a pointer of Git LFS and holds no vocabulary; fetch the file itself with"
            " `git lfs pull`"
        )
    if file.suffix == ".json" and file.name != VOCAB_FILE:
        definition = _text(data, file)
    elif file.name in (VOCAB_FILE, MERGES_FILE):
        vocab, merges = (file.with_name(name) for name in (VOCAB_FILE, MERGES_FILE))
        definition = read_merges(
            _text(_read_bytes(vocab), vocab), _text(_read_bytes(merges), merges), config
        )
    elif RANK_LINE.match(data):
        definition = read_ranks(data, config, begins=begins)
    else:
        definition, roles = read_sentencepiece(data, begins=begins)
    if roles:
        config = roles | (config or {})
    return TokenizerFiles(definition, config, _end_ids(file.parent))


def _vocabulary_file(path: Path) -> Path:
    if not path.is_dir():
        found = path
    else:
        names = (DEFINITION_FILE, MODEL_FILE, VOCAB_FILE)
        found = next((path / name for name in names if (path / name).is_file()), path / names[0])
    if not found.is_file():
        raise TokenizerError(
            f"there is no tokenizer at {found}; name a folder that holds {DEFINITION_FILE},"
            f" {MODEL_FILE}, or {VOCAB_FILE} with {MERGES_FILE}, or make one with `puna tokenizer"
            " train`"
        )
    return found


def _read_bytes(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise TokenizerError(
                f"{file} has {size:,} bytes, and a file of a tokenizer may have"
                f" {MAX_FILE_BYTES:,}; name the right file"
            )
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _text(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> TokenizerError:
    return TokenizerError(
        f"the tokenizer in {file.parent} cannot be read ({file.name}: {error}); copy or train it"
        " again"
    )


def _read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is no such file."""
    if not file.is_file():
        return None
    try:
        values = json.loads(_text(_read_bytes(file), file))
    except (ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(values, dict):
        raise _unreadable(file, ValueError(f"{file.name} is no JSON object"))
    return values


def _read_config(folder: Path) -> dict[str, Any] | None:
    """The configuration with what stands in files of its own. special_tokens_map.json counts, and
    wins, only beside one without added_tokens_decoder, as in transformers.
    """
    config = _read_object(folder / CONFIG_FILE)
    if config is None or "added_tokens_decoder" not in config:
        special = _read_object(folder / SPECIAL_FILE)
        config = config if special is None else (config or {}) | special
    template = folder / TEMPLATE_FILE
    # The file wins over an entry of the configuration, as in transformers
    if config is not None and template.is_file():
        config["chat_template"] = _text(_read_bytes(template), template)
    return config


def _end_ids(folder: Path) -> tuple[int, ...]:
    for name in END_FILES:
        values = _read_object(folder / name) or {}
        ids = read_ids(values.get("eos_token_id"), f"eos_token_id of {folder / name}")
        if ids:
            return ids
    return ()


def reject_other(path: Path, hash_of: Callable[[], str]) -> None:
    """Raise TokenizerError where the model in a folder was trained with a tokenizer of another hash
    than the one that was read, by its puna.json; its ids would mean other text.
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
    if expected is not None and expected != (found := hash_of()):
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
        ("eot", END_OF_TURN_NAMES),
        ("eom", (END_OF_MESSAGE,)),
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
