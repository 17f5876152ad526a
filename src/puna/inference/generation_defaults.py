"""Default options of generation that a model's publisher gives, in generation_config.json.

Read as transformers does, with two differences. `top_k` is unlimited where the file has none;
transformers takes 50. A file without `do_sample` is no request for greedy text; one with
`do_sample: false` is. Other keys are passed over here; the end ids are the tokenizer's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puna.config import validate
from puna.errors import ConfigError
from puna.inference.request import GenerationOptions

FILE = "generation_config.json"
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""The options of sampling that the file may give, under the same names."""

_MOST_BYTES = 1_000_000


def read_generation_defaults(folder: Path | str) -> dict[str, Any]:
    """The options that the file in a model folder gives, by the names of `GenerationOptions`; none
    where there is no file.

    Raises ConfigError for a file that is no JSON object, or a value that is out of its range.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    remedy = (
        "correct or delete it, or leave it unread with --generation-config none"
        f" (generation_config=False in Python): {path}"
    )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no JSON object")
        options = _options(values)
        validate(GenerationOptions, options, FILE)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{FILE} cannot be read ({error}); {remedy}") from error
    except ConfigError as error:
        raise ConfigError(f"{error}; {remedy}") from error
    return options


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: values[name] for name in SAMPLING if values.get(name) is not None}
    if options.get("top_k") == 0:  # as the publishers write "all"
        del options["top_k"]
    if values.get("do_sample") is False:
        # greedy: filters of sampling would change nothing
        options = {name: options[name] for name in options if name == "repetition_penalty"}
        options["temperature"] = 0.0
    if values.get("max_new_tokens") is not None:
        options["max_tokens"] = values["max_new_tokens"]
    return options


def described(defaults: Mapping[str, Any]) -> str:
    """The options in a line, such as "temperature 0.6, top_p 0.9"."""
    return ", ".join(f"{name} {value}" for name, value in defaults.items())
