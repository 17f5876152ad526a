"""The `puna` command: its groups, its version, the form of its errors.

Imports of torch and its friends wait inside the commands, so that `puna --help` answers at once.
"""

import sys
from typing import Annotated

import typer

from puna.cli import (
    bench,
    data,
    doctor,
    evaluate,
    export,
    generate,
    import_model,
    init,
    merge,
    plan,
    quantize,
    quickstart,
    serve,
    study,
    tokenizer,
    train,
)
from puna.errors import PunaError
from puna.spinning import limit_spinning

app = typer.Typer(
    name="puna",
    help="Raise a LLaMA: from raw text to a trained, measured, generating model.",
    epilog="Begin with: puna quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("quickstart")(quickstart.quickstart)
app.command("init")(init.init)
app.add_typer(tokenizer.app)
app.add_typer(data.app)
app.add_typer(plan.app)
app.add_typer(study.app)
app.command("train")(train.train)
app.command("verify-resume")(train.verify_resume)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("chat")(generate.chat)
app.command("serve")(serve.serve)
app.command("merge")(merge.merge)
app.command("quantize")(quantize.quantize)
app.command("import")(import_model.import_model)
app.command("export")(export.export)
app.command("doctor")(doctor.doctor)
app.add_typer(bench.app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"puna {installed('puna')}")
        raise typer.Exit


def main() -> None:
    """Run the command line. What the user can mend is one line on standard error and exit code 1;
    the rest is a traceback.
    """
    limit_spinning()
    try:
        app()
    except PunaError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader of a pipe left, as `| head` does
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a full or read-only disk, a permission: the system says it best
        if error.strerror is None:
            raise
        sys.exit(f"error: {error.strerror}" + (f": {error.filename}" if error.filename else ""))
