"""`puna tokenizer`: train a vocabulary, encode and decode with it, look inside, and watch one being
learned.

`encode` and `decode` are plain for pipes: ids with spaces between them, and the exact text.
`train`, `inspect` and `explain` are for eyes.
"""

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from puna.cli.data import Sources
from puna.cli.reading_options import (
    BadShare,
    Exclude,
    Include,
    MaxDocuments,
    Normalize,
    Separator,
    Strict,
    TextField,
)

if TYPE_CHECKING:
    from puna.tokenizer.tokenizer import Tokenizer

app = typer.Typer(
    name="tokenizer",
    help=(
        "Train a byte-level BPE vocabulary, encode and decode with it, look inside, and watch one"
        " being learned."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
)

TokenizerFolder = Annotated[
    Path,
    typer.Argument(
        help="A folder that holds tokenizer.json: a tokenizer's, or any model's.",
        show_default=False,
    ),
]


@app.command()
def train(
    sources: Sources,
    out: Annotated[
        Path, typer.Option(help="The folder to write the tokenizer into.", show_default=False)
    ],
    vocab_size: Annotated[
        int,
        typer.Option(
            help=(
                "Tokens in all: 256 bytes, merges and 8 special tokens. LLaMA has 32000, Llama 3"
                " 128256."
            )
        ),
    ] = 32_000,
    digits: Annotated[
        Literal["one", "two", "three", "off"],
        typer.Option(
            help=(
                "Digits in one token: one (LLaMA), up to two or three (Llama 3), or off, no limit"
                " (GPT-2)."
            )
        ),
    ] = "one",
    max_bytes: Annotated[
        int,
        typer.Option(
            help=(
                "Bytes of text to learn from; one text from each source in turn until they are"
                " read."
            )
        ),
    ] = 200_000_000,
    max_documents: MaxDocuments = None,
    text_field: TextField = "text",
    separator: Separator = None,
    normalize: Normalize = "bom",
    include: Include = None,
    exclude: Exclude = None,
    strict: Strict = False,
    bad_share: BadShare = 0.1,
) -> None:
    """Learn a vocabulary from text.

    Examples:

        puna tokenizer train python-stdlib --out runs/tokenizer --vocab-size 8192

        puna tokenizer train books/ 'web/*.jsonl' --out runs/tokenizer --digits three

    The same texts give the same tokenizer, byte for byte. 20 MB of text and 32,000 tokens take
    about 8 seconds. A folder that holds another tokenizer is not overwritten.
    """
    from rich.console import Console

    from puna.cli.work_progress import sample_progress
    from puna.data.dedup import drop_copies
    from puna.data.left_out import LeftOut, printable
    from puna.data.reading import checked_reading
    from puna.data.sources import find_sources, read_texts
    from puna.tokenizer.tokenizer import Tokenizer
    from puna.tokenizer.training import take_turns

    console = Console(stderr=True, markup=False, emoji=False)
    reading = checked_reading(
        text_field=text_field,
        separator=separator,
        normalize=normalize,
        include=include or (),
        exclude=exclude or (),
    )
    # each source has a report of its own: they take turns, and each is judged at its end
    reports = [LeftOut(strict=strict, bad_share=bad_share) for _ in sources]
    texts = [
        read_texts([source], reading, report, spread=True, own=[out])
        for source, report in zip(sources, reports, strict=True)
    ]
    stored = sum(source.size for source in find_sources(sources, reading, [out]))
    with sample_progress(console, min(max_bytes, stored)) as on_progress:
        tokenizer = Tokenizer.train(
            islice(drop_copies(take_turns(texts)), max_documents),
            vocab_size,
            digits,
            max_bytes,
            on_progress,
        )
    _reject_other(out, tokenizer)
    tokenizer.save(out)
    console.print(
        f"{out}: {tokenizer.vocab_size:,} tokens, digits {digits}, hash {tokenizer.hash[:12]}"
    )
    for source, report in zip(sources, reports, strict=True):
        if report.bad:
            console.print(f"{printable(source)}:", highlight=False)
            for line in report.lines():
                console.print(line, highlight=False, soft_wrap=True)
    if tokenizer.vocab_size < vocab_size:
        console.print(
            f"The vocabulary is smaller than the {vocab_size:,} asked for: no more pairs occur"
            " twice in the text.",
            style="yellow",
        )


def _reject_other(out: Path, tokenizer: "Tokenizer") -> None:
    """Raise TokenizerError where the folder holds a tokenizer of another hash, which models and
    shards may have been made with.
    """
    from puna.errors import TokenizerError
    from puna.tokenizer.tokenizer import Tokenizer

    if not (out / "tokenizer.json").exists():
        return
    before = Tokenizer.load(out)
    if before.hash != tokenizer.hash:
        raise TokenizerError(
            f"{out} holds another tokenizer, of {before.vocab_size:,} tokens and hash"
            f" {before.hash[:12]}, where the new one has {tokenizer.vocab_size:,} and"
            f" {tokenizer.hash[:12]}: shards and models made with it would no longer be readable;"
            f" give another --out, or delete {out / 'tokenizer.json'} first"
        )


@app.command()
def encode(
    tokenizer: TokenizerFolder,
    text: Annotated[
        str | None,
        typer.Argument(help="The text; standard input when left out.", show_default=False),
    ] = None,
) -> None:
    """Print the ids of a text, on one line.

    Examples:

        puna tokenizer encode runs/tokenizer "In 2024"

        puna tokenizer encode runs/tokenizer < book.txt > book.ids

    No special token is added, and none is read from the text: here "<|end_of_text|>" is fifteen
    plain characters.
    """
    from puna.cli.vocabulary_view import loaded_tokenizer

    loaded = loaded_tokenizer(tokenizer)
    typer.echo(" ".join(map(str, loaded.encode(_standard_input() if text is None else text))))


@app.command()
def decode(
    tokenizer: TokenizerFolder,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID...]", help="Token ids; standard input when left out.", show_default=False
        ),
    ] = None,
    skip_special: Annotated[
        bool, typer.Option("--skip-special", help="Leave special tokens out.")
    ] = False,
) -> None:
    """Print the text of ids: exactly its bytes, with a line break added only for a terminal.

    Examples:

        puna tokenizer decode runs/tokenizer 314 220 17

        puna tokenizer encode runs/tokenizer < book.txt | puna tokenizer decode runs/tokenizer | cmp
            - book.txt
    """
    from puna.errors import TokenizerError
    from puna.tokenizer.tokenizer import Tokenizer

    words = (_standard_input() if not ids else " ".join(ids)).replace(",", " ").split()
    try:
        numbers = [int(word) for word in words]
    except ValueError as error:
        raise TokenizerError(
            f"ids are whole numbers with spaces or commas between them ({error})"
        ) from error
    loaded = Tokenizer.load(tokenizer)
    text = loaded.decode(numbers, skip_special).encode("utf-8")
    if loaded.byte_level:  # half characters have bytes of their own
        text = loaded.decode_bytes(numbers, skip_special)
    typer.echo(text, nl=sys.stdout.isatty())


@app.command()
def inspect(
    tokenizer: TokenizerFolder,
    text: Annotated[
        str | None,
        typer.Argument(
            help="A text to cut, in colour; - reads standard input.", show_default=False
        ),
    ] = None,
) -> None:
    """Show what a vocabulary holds and how it cuts a text.

    Examples:

        puna tokenizer inspect runs/tokenizer "In 2024, 1234567 llamas"

        puna tokenizer inspect models/llama-3 - < book.txt

    White space is drawn: · a space, → a tab, ⏎ a line break. Bytes that are part of a character are
    shown as <E2>.
    """
    from rich.console import Console

    from puna.cli.vocabulary_view import loaded_tokenizer, print_cut, print_vocabulary

    loaded = loaded_tokenizer(tokenizer)
    console = Console(markup=False, emoji=False)
    print_vocabulary(console, loaded)
    if text is not None:
        print_cut(console, loaded, _standard_input() if text == "-" else text)


@app.command()
def explain(
    text: Annotated[
        str | None,
        typer.Argument(
            help="The text to learn from; standard input when left out.", show_default=False
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            help="Words with their counts, in place of a text: 'low:5 lower:2'.", show_default=False
        ),
    ] = None,
    end: Annotated[
        Literal["separate", "attached", "none"],
        typer.Option(
            help=(
                "The mark </w> of a word's end: a symbol of its own, part of the last character's,"
                " or none."
            )
        ),
    ] = "separate",
    ties: Annotated[
        Literal["first", "oldest"],
        typer.Option(
            help=(
                "Of equally frequent pairs merge the one met first in the text, or the one of the"
                " oldest symbols."
            )
        ),
    ] = "first",
    merges: Annotated[
        int | None,
        typer.Option(help="Stop after this many merges.", show_default="when no pair is left"),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Stop at this many symbols.", show_default="no limit")
    ] = None,
) -> None:
    """Show how byte pair encoding learns from a small text, merge by merge.

    Examples:

        puna tokenizer explain --words "low:5 lower:2 newest:6 widest:3"

        puna tokenizer explain aaabdaaabac --end none --ties oldest --merges 3

        puna tokenizer explain --end attached --vocab-size 60 < poem.txt

    Each merge shows how often its pair was counted, the pairs next in line, and the words that it
    changed.
    """
    from rich.console import Console

    from puna.cli.explain import print_merges, read_words
    from puna.errors import TokenizerError
    from puna.tokenizer.bpe import BpeLearner

    if text is not None and words is not None:
        raise TokenizerError("there is both a text and --words; give one of the two")
    counted = (
        read_words(words, with_counts=True)
        if words is not None
        else read_words(_standard_input() if text is None else text)
    )
    learner = BpeLearner(counted, end=end, ties=ties)
    print_merges(
        Console(markup=False, emoji=False), learner, max_merges=merges, vocab_size=vocab_size
    )


def _standard_input() -> str:
    """Standard input, byte for byte; no translation of line breaks."""
    from puna.errors import TokenizerError

    try:
        return typer.get_binary_stream("stdin").read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"standard input is not UTF-8 (byte {error.start}); convert it first, for example with"
            " iconv"
        ) from error
