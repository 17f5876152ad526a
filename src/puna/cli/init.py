"""`puna init`: a recipe for text of one's own, written to be read, changed and trained.

`recipes/own-text.yaml` is what it writes for a text of any length in `my-notes/`.
"""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

TEMPLATE = """\
# puna train {path}
# A million parameters on text of your own; --dry-run counts the cost. docs/recipes.md has the keys.
tokenizer: {{path: data/{name}/tokenizer, vocab_size: {vocab_size}}}
data:
  mixture:
    - path: data/{name}/text
      sources: [{source}]
      {validation}
  validation_fraction: 0.05  # of the text, held out to measure on
  piece_characters: {pieces}  # longer files become several documents
model: {{preset: puna-1m}}
optimizer: {{name: adamw, learning_rate: 3.0e-3, warmup_ratio: 0.05}}
train:
  steps: 400
  batch_size: 8
  context_length: {context}
  validate_every: 100
  validation_tokens: 20000
  checkpoint_every: 100
"""
PIECES = 2**14
MAX_VOCABULARY, MAX_CONTEXT = 2048, 256
"""Those of puna-1m."""
_SPECIAL_AND_BYTES = 264
_BYTES_A_TOKEN, _WINDOWS = 4, 8


def init(
    name: Annotated[str, typer.Argument(help="The recipe's name: NAME.yaml is written.")],
    text: Annotated[str, typer.Option(help="Your own text: a folder, a file or a quoted glob.")],
    validation: Annotated[
        str | None,
        typer.Option(
            help="A file or folder to hold out and measure on.", show_default="a part of the text"
        ),
    ] = None,
) -> None:
    """Write a recipe for text of your own, with folders of its own and sizes that fit the text.

    Examples:

        puna init notes --text my-notes/

        puna init notes --text my-notes/ --validation my-diary.txt

    Then `puna train notes.yaml` trains it. A file of that name is never overwritten.
    """
    from puna.data.sources import find_sources
    from puna.errors import ConfigError

    name = name.removesuffix(".yaml")
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ConfigError(
            f"{name!r} is no name for a recipe: use letters, digits, dots and hyphens"
        )
    path = Path(f"{name}.yaml")
    if path.exists():
        raise ConfigError(f"{path} is there already and is not overwritten: choose another name")
    if Path(text).is_dir() and Path("data", name).resolve().is_relative_to(Path(text).resolve()):
        raise ConfigError(
            f"data/{name}, where the recipe would put its data, lies inside {text}: go to a folder"
            " outside the text first"
        )
    size = find_sources([text])[0].size
    if validation is not None:
        find_sources([validation])
    path.write_text(recipe_text(path, text, validation, size), encoding="utf-8")
    typer.echo(f"{path}: a recipe for {text}, {size:,} bytes\nnext: puna train {path}")


def recipe_text(path: Path, text: str, validation: str | None, size: int) -> str:
    """The recipe that `path` is to hold. size: bytes of the text, which bound the vocabulary that
    can be learned from it, one entry for 8 bytes, and the windows that it fills, 8 at 4 bytes a
    token.
    """
    context = MAX_CONTEXT
    while context > 8 and context * _WINDOWS * _BYTES_A_TOKEN > size:
        context //= 2
    return TEMPLATE.format(
        path=path,
        name=path.stem,
        source=json.dumps(text, ensure_ascii=False),
        validation=(
            "# validation_sources: [my-other-notes/]  # held out in place of a part of the text"
            if validation is None
            else f"validation_sources: [{json.dumps(validation, ensure_ascii=False)}]"
        ),
        vocab_size=min(MAX_VOCABULARY, _SPECIAL_AND_BYTES + size // 8),
        pieces=PIECES,
        context=context,
    )
