"""`puna data`: turn text into shards, and show their content.

`prepare` draws a bar on a terminal and writes a line every few seconds elsewhere (to standard error
either way); the tables go to standard output.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    from rich.console import Console

    from puna.data.manifest import Manifest

app = typer.Typer(
    name="data",
    help="Turn text into shards of token ids, and show their content.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_SAMPLE_TOKENS = 120

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help=(
            "Text: folders, files, quoted globs, tables (.jsonl, .csv, .parquet), archives, dataset"
            " folders, python-stdlib, additions, or recall."
        ),
        show_default=False,
    ),
]


@app.command()
def prepare(
    context: typer.Context,
    sources: Sources,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A folder that holds tokenizer.json.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write the shards into.", show_default=False)
    ] = None,
    validation_fraction: Annotated[
        float,
        typer.Option(help="Share of the documents for validation, by the hash of their text."),
    ] = 0.05,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Text to hold out in place of that share; may be given several times.",
            show_default="a share of the text",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that tokenise.", show_default="one a core; fewer for little text"
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help=(
                "With a recipe: the Ray cluster that works, such as auto; local begins one on this"
                " machine."
            ),
            show_default="the processes of this machine",
        ),
    ] = None,
    shard_tokens: Annotated[int, typer.Option(help="Tokens after which a shard ends.")] = 2**24,
    max_bytes: Annotated[
        int | None,
        typer.Option(help="Stop after this many bytes of text.", show_default="all of it"),
    ] = None,
    piece_characters: Annotated[
        int,
        typer.Option(help="Cut longer plain files into pieces this long, at blank lines.", min=1),
    ] = 2**20,
    max_documents: MaxDocuments = None,
    text_field: TextField = "text",
    separator: Separator = None,
    normalize: Normalize = "bom",
    include: Include = None,
    exclude: Exclude = None,
    strict: Strict = False,
    bad_share: BadShare = 0.1,
) -> None:
    """Tokenise text into a folder of shards that training reads; with the recipe of a corpus alone,
    clean its sources first.

    Examples:

        puna data prepare python-stdlib --tokenizer runs/tokenizer --out runs/data

        puna data prepare books/ 'web/*.jsonl.zst' --tokenizer runs/tokenizer --out runs/data
            --validation-fraction 0.01

        puna data prepare wiki.parquet --text-field body --max-bytes 100000000 --tokenizer
            runs/tokenizer --out runs/wiki

    Exact copies of a document are left out; bad files and rows are passed over and named. An
    interrupted run continues when the same command is given again, and ends with the same bytes.
    For a mixture, prepare each source into a folder of its own.
    """
    from rich.console import Console

    from puna.cli.corpus import is_recipe, prepare_recipe, reject_options_of_sources
    from puna.cli.vocabulary_view import loaded_tokenizer
    from puna.cli.work_progress import preparation_progress
    from puna.data.prepare import prepare as prepare_shards

    messages = Console(stderr=True, markup=False, emoji=False)
    try:
        if is_recipe(sources, tokenizer, out):
            reject_options_of_sources(context)
            prepare_recipe(Path(sources[0]), workers, ray)
            return
        if tokenizer is None or out is None:
            raise typer.BadParameter(
                "--tokenizer DIR and --out DIR are needed, but for the recipe of a corpus, a .yaml"
                " file that names both"
            )
        if ray is not None:
            raise typer.BadParameter(
                f"--ray {ray} needs the recipe of a corpus; sources are tokenised on the cores of"
                " this machine: leave it out"
            )
        with preparation_progress(messages) as on_progress:
            manifest = prepare_shards(
                sources,
                loaded_tokenizer(tokenizer),
                out,
                validation_fraction=validation_fraction,
                validation_sources=validation or (),
                workers=workers,
                shard_tokens=shard_tokens,
                max_bytes=max_bytes,
                max_documents=max_documents,
                text_field=text_field,
                piece_characters=piece_characters,
                separator=separator,
                normalize=normalize,
                include=include or (),
                exclude=exclude or (),
                strict=strict,
                bad_share=bad_share,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        messages.print("Interrupted; the same command continues after the last finished shard.")
        raise typer.Exit(130) from None
    console = Console(markup=False, emoji=False)
    _print_manifest(console, out, manifest)


@app.command()
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A folder that `prepare RECIPE` wrote.", show_default=False
        ),
    ],
) -> None:
    """Show what each stage of a corpus dropped, as a table and as a page with samples.

    Examples:

        puna data report runs/corpus
    """
    from rich.console import Console

    from puna.cli.corpus import print_counts
    from puna.corpus.summary import CorpusSummary
    from puna.report.corpus_report import write_corpus_report

    console = Console(markup=False, emoji=False)
    print_counts(console, CorpusSummary.load(folder))
    console.print(f"page: {write_corpus_report(folder)}", highlight=False, soft_wrap=True)


@app.command()
def inspect(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder that `prepare` wrote.", show_default=False),
    ],
    verify: Annotated[bool, typer.Option(help="Read every shard and compare its checksum.")] = True,
) -> None:
    """Show what a folder of shards holds, check it, and decode its beginning.

    Examples:

        puna data inspect runs/data

        puna data inspect runs/data --no-verify
    """
    from rich.console import Console
    from rich.text import Text

    from puna.data.manifest import SPLITS, Manifest
    from puna.data.shards import check_sizes, open_split, verify_shards
    from puna.tokenizer.tokenizer import Tokenizer

    console = Console(markup=False, emoji=False)
    manifest = Manifest.load(folder)
    _print_manifest(console, folder, manifest)
    check_sizes(folder, manifest)
    if verify:
        console.print(
            f"{sum(1 for _ in verify_shards(folder, manifest))} shards verified: every checksum is"
            " right"
        )
    tokenizer = Tokenizer.load(folder)
    for split in SPLITS:
        if manifest.splits[split].documents:
            stream = open_split(folder, split, verify=False)
            start = stream.read(0, min(_SAMPLE_TOKENS, stream.num_tokens))
            console.print(f"\n{split} begins:", style="bold")
            console.print(Text(tokenizer.decode(start.tolist())))


def _print_manifest(console: "Console", folder: Path, manifest: "Manifest") -> None:
    from rich.table import Table

    from puna.data.manifest import SPLITS

    table = Table(title=str(folder), title_justify="left", title_style="bold")
    table.add_column("split")
    for unit in ("documents", "tokens", "text MB", "bytes/token", "shards"):
        table.add_column(unit, justify="right")
    for name in SPLITS:
        split = manifest.splits[name]
        ratio = f"{split.bytes / split.tokens:.3f}" if split.tokens else "-"
        table.add_row(
            name,
            f"{split.documents:,}",
            f"{split.tokens:,}",
            f"{split.bytes / 1e6:,.2f}",
            ratio,
            f"{len(split.shards):,}",
        )
    console.print(table)
    inputs = manifest.inputs
    console.print(
        f"sources: {', '.join(source.name for source in inputs.sources)}",
        highlight=False,
        soft_wrap=True,
    )
    for line in manifest.left_out_lines():
        console.print(line, highlight=False, soft_wrap=True)
    console.print(
        f"tokenizer {inputs.tokenizer_hash[:12]} of {inputs.vocab_size:,} tokens, stored as"
        f" {manifest.dtype}; content {manifest.content_hash[:12]}",
        highlight=False,
    )
