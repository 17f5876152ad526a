"""A corpus' report: from its folder to `report.html`, one file that shows what each stage took,
dropped and changed, with samples of the documents that it dropped.

The text of samples is untrusted: the template escapes it, and the page holds no script. It is a
view: it computes nothing but shares.
"""

from pathlib import Path
from typing import Any

from puna.corpus.summary import CorpusSummary, SourceSummary
from puna.corpus.tally import StageCount, StageCounts
from puna.durable import write_text
from puna.report.pages import render

REPORT_NAME = "report.html"


def write_corpus_report(out: Path) -> Path:
    """Write `out/report.html` from `out/corpus.json`, and return its path. Raises DataError where
    `out` is no finished corpus. Replaces an older page, whole or not at all.
    """
    summary = CorpusSummary.load(out)
    page = render(
        "corpus_report.html",
        name=out.resolve().name,
        stages=_rows(summary.stages),
        sources=[_source(source) for source in summary.sources],
        dropped=[
            {
                "stage": stage,
                "reason": reason,
                "documents": f"{drop.documents:,}",
                "megabytes": f"{drop.bytes / 1e6:,.2f}",
                "samples": drop.samples,
            }
            for stage, count in summary.stages.items()
            for reason, drop in sorted(
                count.dropped.items(), key=lambda item: (-item[1].documents, item[0])
            )
        ],
    )
    report = out / REPORT_NAME
    write_text(report, page)
    return report


def _source(source: SourceSummary) -> dict[str, Any]:
    return {
        "name": source.name,
        "weight": f"{source.weight:g}",
        "files": f"{source.files:,}",
        "stored": f"{source.size / 1e6:,.2f}",
        "left_out": ", ".join(
            f"{count:,} {kind.replace('_', ' ')}"
            for kind, count in source.left_out.items()
            if count
        ),
        "stages": _rows(source.stages),
    }


def _rows(stages: StageCounts) -> list[dict[str, str]]:
    return [_row(name, count) for name, count in stages.items()]


def _row(name: str, count: StageCount) -> dict[str, str]:
    dropped = count.documents_in - count.documents_out
    return {
        "name": name,
        "documents": f"{count.documents_in:,}",
        "dropped": f"{dropped:,}",
        "share": f"{dropped / count.documents_in:.1%}" if count.documents_in else "-",
        "megabytes_in": f"{count.bytes_in / 1e6:,.2f}",
        "megabytes_out": f"{count.bytes_out / 1e6:,.2f}",
        "changed": ", ".join(f"{number:,} {kind}" for kind, number in count.changed.items()),
    }
