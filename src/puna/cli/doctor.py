"""`puna doctor`: the machine, its software, and what Puna makes of both, for a bug report."""

import contextlib
import getpass
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puna.errors import PunaError
from puna.number_format import gigabytes

if TYPE_CHECKING:
    from puna.diagnosis.findings import Findings
    from puna.diagnosis.measurements import Measurement
    from puna.diagnosis.processor import Processor

WIDTH, LABEL = 80, 16

Rows = Iterator[tuple[str, str]]


def doctor(
    isa: Annotated[
        str,
        typer.Option(
            help="Say what this choice of the native core's tier would give: auto, torch or a tier."
        ),
    ] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Measure nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with bytes and units.")
    ] = False,
) -> None:
    """Describe this machine, what was installed, and what Puna will use here and why.

    Put its output at the top of a bug report: it names no user and no machine.

    Examples:

        puna doctor

        puna doctor --quick --json
    """
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:  # a library below it is missing or of another system
        reason = str(error).partition("\n")[0]
        raise PunaError(
            f"PyTorch cannot be imported ({reason}): install it again, as with"
            " pip install --force-reinstall torch"
        ) from error
    from puna.diagnosis.findings import gather

    findings = gather(isa, os.environ, measure=not quick)
    if as_json:
        text = without_names(json.dumps(asdict(findings), ensure_ascii=False))
        typer.echo(json.dumps(json.loads(text), indent=2))
        return
    for title, rows in _sections(findings):
        typer.secho(title, bold=True)
        for label, text in rows:
            _print_row(label, without_names(text))
        typer.echo()
    for warning in findings.warnings:
        typer.echo(textwrap.fill(f"warning: {without_names(warning)}", WIDTH))


def without_names(text: str) -> str:
    """The text with ENV for the virtual environment's folder, ~ for the home folder, and USER for
    the user's name in other paths.
    """
    folders = {Path(sys.prefix): "ENV"} if sys.prefix != sys.base_prefix else {}
    with contextlib.suppress(RuntimeError):  # no home folder
        folders |= {Path.home().resolve(): "~", Path.home(): "~"}
    for folder, word in folders.items():
        if folder != folder.parent:  # a home folder / would match every path
            text = re.sub(rf"{re.escape(str(folder))}(?![\w.-])", word, text)
    with contextlib.suppress(KeyError, OSError, ImportError):  # a user without a name
        text = re.sub(rf"(?<=/){re.escape(getpass.getuser())}(?![\w.-])", "USER", text)
    return text


def _print_row(label: str, text: str) -> None:
    lines = textwrap.wrap(text, WIDTH - LABEL - 2, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        typer.echo(f"  {'' if number else label:{LABEL}}{line}")


def _sections(findings: "Findings") -> Iterator[tuple[str, Rows]]:
    yield "Versions", _versions(findings)
    yield "Machine", _machine(findings)
    yield "PyTorch", _torch(findings)
    yield "Native core", _native(findings)
    if findings.limits is not None:
        yield f"Measured limits of {findings.decisions[0].choice}", map(_limit, findings.limits)
    yield (
        "What Puna will use and why",
        ((each.subject, f"{each.choice}: {each.reason}") for each in findings.decisions),
    )


def _versions(findings: "Findings") -> Rows:
    for name, version in findings.versions.items():
        yield name, version or "not installed"
    system = findings.system
    yield "system", system.name
    yield "kernel", f"{system.kernel} {system.architecture}"
    if system.libc:
        yield "libc", system.libc


def _machine(findings: "Findings") -> Rows:
    processor, group, memory = findings.processor, findings.control_group, findings.memory
    yield "processor", processor.name
    yield "cores", _cores(processor)
    if group.cores is not None:
        yield "", f"the control group allows the time of {group.cores:g}"
    if processor.caches:
        yield (
            "caches",
            ", ".join(
                f"{cache.name} {cache.size / 2**10:,.0f} KiB"
                + (f" for {cache.cores}" if cache.cores > 1 else "")
                for cache in processor.caches
            ),
        )
    yield "instructions", " ".join(processor.instructions) or "no vector instructions known"
    yield "memory", f"{_bytes(memory.total)}, {_bytes(memory.available)} available"
    if group.memory is not None:
        yield "", f"the control group allows {gigabytes(group.memory)}"
    yield "disk", f"{_bytes(findings.disk_free)} free at the working folder"
    for gpu in findings.gpus:
        yield "GPU", f"{gpu.name}, {gigabytes(gpu.memory)}, capability {gpu.capability}"
    yield "others", _others(findings)


def _cores(processor: "Processor") -> str:
    text = f"{processor.allowed_cores} of {processor.logical_cores} logical"
    if processor.physical_cores is not None:
        text += f", on {processor.physical_cores} physical"
        if processor.physical_cores < processor.allowed_cores:
            text += " (SMT)"
    return text


def _others(findings: "Findings") -> str:
    others = findings.other_programs
    taken = "unknown" if others.cores is None else f"{max(0.0, others.cores):.1f} cores"
    if others.load_average is None:
        return taken
    averages = ", ".join(f"{average:.2f}" for average in others.load_average)
    return f"{taken} taken by other programs; load average {averages}"


def _torch(findings: "Findings") -> Rows:
    build = findings.torch
    yield "threads", f"{build.threads} in an operation, {build.interop_threads} operations at once"
    yield "vector code", build.vector_code
    yield "BLAS", f"{build.blas}; oneDNN {build.onednn or 'none'}"
    yield "accelerator", build.accelerator or "none: a build for CPUs"
    for path in build.openmp:
        yield "OpenMP", path
    for name, value in findings.environment.items():
        yield "environment", f"{name}={value}"


def _native(findings: "Findings") -> Rows:
    core = findings.native
    if core.problem:
        yield "problem", core.problem
        return
    yield "compiled", ", ".join(core.compiled)
    yield "run here", ", ".join(core.available)
    yield "chosen", core.chosen or "none"
    if core.path:
        yield "file", core.path


def _limit(measured: "Measurement") -> tuple[str, str]:
    if measured.value is None:
        return measured.name, f"none: {measured.note}"
    rate = measured.value / 1e9
    text = f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
    text += f" G{measured.unit}"
    if measured.note:
        text += f" ({measured.note})"
    if measured.others is not None and measured.others >= 0.1:
        text += f", while other programs took {measured.others:.1f} cores"
    return measured.name, text


def _bytes(value: int | None) -> str:
    return "unknown" if value is None else gigabytes(value)
