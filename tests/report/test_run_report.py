"""The page of a run, from the folder that a run leaves behind: finished, cut short, resumed, empty
or hostile.
"""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from puna.errors import PunaError
from puna.report.run_report import run_charts, write_run_report

SUMMARY = {
    "parameters": 33_702_400,
    "tokens": 16_384_000,
    "train_seconds": 4_320.0,
    "tokens_per_second": 5_100.2,
    "mfu": 0.612,
    "matmul_peak_gflops": 904.1,
    "val_bits_per_byte": 1.234,
    "gzip_bits_per_byte": 2.412,
    "xz_bits_per_byte": 2.187,
    "primed_bits_per_byte": {"xz -9e": 1.611, "zstd -22": 1.654, "PPMd": 1.302, "5-gram": 1.71},
    "primed_read_bytes": 11_665_401,
    "primed_all_bytes": 11_665_401,
    "device": "cpu",
    "dtype": "bfloat16",
    "date": "2025-11-21T01:11:00+01:00",
    "llamas_seen": {"white": 3},
}


def train_record(step: int, **changed: Any) -> dict[str, Any]:
    record = {
        "kind": "train",
        "step": step,
        "tokens": 8192 * step,
        "loss": 2 + 7 * math.exp(-step / 20) + 0.1 * math.sin(step),
        "bits_per_byte": 0.9 + 2 * math.exp(-step / 20),
        "learning_rate": 1e-3,
        "gradient_norm": 0.7 + 0.2 * math.cos(step),
        "tokens_per_second": 5100.0,
        "mfu": 0.61,
        "seconds": 1.6 * step,
    }
    return record | changed


def validation_record(step: int, bits_per_byte: float = 1.3) -> dict[str, Any]:
    return {
        "kind": "validation",
        "step": step,
        "tokens": 8192 * step,
        "loss": 3.0,
        "bits_per_byte": bits_per_byte,
    }


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A run folder with the given files, all of them by default; a file given as None is not
    written.
    """

    def make(**changed: str | None) -> Path:
        files = {
            "metrics": lines(
                [*(train_record(step) for step in range(1, 301)), validation_record(300)]
            ),
            "summary": json.dumps(SUMMARY),
            "recipe": "model:\n  width: 512  # <narrow>\n",
            "samples": json.dumps([{"prompt": "Once upon", "text": " a time,\n\n  a llama."}]),
        }
        names = {
            "metrics": "metrics.jsonl",
            "summary": "summary.json",
            "recipe": "recipe.yaml",
            "samples": "samples.json",
        }
        run = tmp_path / "quiet-llama"
        run.mkdir()
        for key, text in (files | changed).items():
            if text is not None:
                (run / names[key]).write_text(text, encoding="utf-8")
        return run

    return make


def page_of(run: Path) -> str:
    report = write_run_report(run)
    assert report == run / "report.html"
    return report.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every tag with its attributes; asserts that what is opened is closed in order."""

    VOID = ("meta", "br", "hr", "img", "link")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_finished_run_shows_its_headline_cards_charts_samples_and_every_summary_key(make_run):
    page = page_of(make_run())
    for expected in (
        "quiet-llama",
        ">finished<",
        "2025-11-21 00:11 UTC",
        ">1.234<",
        ">33.7M<",
        "1 h 12 min",
        "61.2%",
    ):
        assert expected in page
    assert (
        "The model wins: it needs 5.2% fewer bits than primed\N{NO-BREAK SPACE}PPMd and 49%" in page
    )
    for heading in (
        "the held-out text alone",
        "having read all 11.7 MB of the training text first",
    ):
        assert f'<dt class="heading">{heading}</dt>' in page
    assert re.findall(r"<i style=.*?</i><span>(.*?)</span>", page) == [
        *("1.234", "2.412", "2.187", "1.611", "1.654", "1.302", "1.710")
    ]
    assert page.count("<svg") == 6
    assert "<b>Once upon</b> a time,\n\n  a llama.</pre>" in page
    assert all(f"<code>{key}</code>" in page for key in SUMMARY)
    assert "width: 512  # &lt;narrow&gt;" in page


def test_an_unfinished_run_says_so_and_shows_the_last_records(make_run):
    page = page_of(make_run(summary=None, samples=None, recipe=None))
    assert ">unfinished<" in page
    assert "so far, step 300" in page
    assert ">1.300<" in page  # of the last validation
    assert "<h2>Samples" not in page
    assert "gzip\N{NO-BREAK SPACE}-9" not in page


def test_an_empty_log_is_a_page_without_charts(make_run):
    page = page_of(make_run(metrics="", summary=None))
    assert "Nothing has been logged yet" in page
    assert "<svg" not in page


def test_a_resumed_run_is_told_once_with_the_values_of_its_last_life(make_run):
    """A run logged up to step 5, was killed, and resumed from its checkpoint of step 3."""
    first_life = [train_record(step, loss=9.0) for step in range(1, 6)]
    second_life = [train_record(step, loss=4.0) for step in range(4, 9)]
    page = page_of(make_run(metrics=lines(first_life + second_life), summary=None))
    assert "training from 9 at step 1 to 4 at step 8" in page


def test_a_torn_line_is_skipped_at_the_end_and_where_a_resume_left_it_behind(make_run):
    whole = lines([train_record(1), train_record(2)])
    torn = json.dumps(train_record(3))[:40]
    page = page_of(
        make_run(metrics=f"{whole}{torn}\n{lines([train_record(4)])}{torn}", summary=None)
    )
    assert "so far, step 4" in page


def test_values_that_are_not_finite_are_left_out_and_counted(make_run):
    """A diverged run logs NaN, or null where its writer rejects NaN."""
    records = [train_record(step) for step in range(1, 10)]
    records += [
        train_record(10, loss=math.nan),
        train_record(11, loss=None),
        train_record(12, loss=math.inf),
    ]
    summary = json.dumps(SUMMARY | {"val_bits_per_byte": math.nan, "mfu": None})
    page = page_of(make_run(metrics=lines(records), summary=summary))
    assert page.count("3 not finite, left out") == 1
    assert ">nan<" not in page
    # neither the summary nor a validation has a value
    assert "bits per byte of validation text" not in page


def test_samples_cannot_become_markup_or_break_the_file(make_run):
    hostile = (
        '</pre><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}&lt;\ud800\u202e'
    )
    page = page_of(make_run(samples=json.dumps([{"prompt": hostile, "text": hostile}])))
    tags = {tag for tag, _ in Elements(page).found}
    assert not tags & {"script", "img", "iframe", "link", "object", "base"}
    assert "{{ 7 * 7 }}" in page
    assert "&amp;lt;" in page


def test_the_name_of_a_run_is_escaped_too(make_run):
    run = make_run()
    renamed = run.rename(run.with_name("<b>&llama"))
    assert "<h1>&lt;b&gt;&amp;llama</h1>" in page_of(renamed)


def test_the_page_refers_to_nothing_outside_itself_and_its_ids_are_unique(make_run):
    page = page_of(make_run())
    assert "://" not in page
    found = Elements(page).found
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0
    targets = [
        attributes[key] for _, attributes in found for key in ("src", "href") if key in attributes
    ]
    targets += re.findall(r"url\((.*?)\)", page)
    assert all(target.removeprefix("#") in ids for target in targets)
    policy = next(
        attributes for tag, attributes in found if tag == "meta" and "http-equiv" in attributes
    )
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_colour_variable_of_the_charts_is_defined_by_the_page_in_light_dark_and_print(
    make_run,
):
    page = page_of(make_run())
    for variable in set(re.findall(r"var\((--[\w-]+)\)", page)):
        assert page.count(f"{variable}: #") == 3, variable


def test_every_chart_is_named_for_those_who_do_not_see_it(make_run):
    drawings = [
        attributes for tag, attributes in Elements(page_of(make_run())).found if tag == "svg"
    ]
    assert all(
        drawing["role"] == "img" and " step 300" in drawing["aria-label"] for drawing in drawings
    )


def test_equal_folders_give_equal_pages(make_run):
    run = make_run()
    assert page_of(run) == page_of(run)


def test_a_run_of_100_000_records_stays_below_half_a_mebibyte(make_run):
    records = [train_record(step, loss=3 + math.sin(step * step)) for step in range(1, 100_001)]
    records += [validation_record(step) for step in range(100, 100_001, 100)]
    page = page_of(make_run(metrics=lines(records)))
    assert len(page.encode()) < 512 * 1024


def test_a_folder_without_a_run_and_damaged_files_are_rejected_with_their_names(make_run, tmp_path):
    with pytest.raises(PunaError, match=r"is no run folder: .* metrics\.jsonl"):
        write_run_report(tmp_path / "nowhere")
    run = make_run(summary="[1]")
    with pytest.raises(PunaError, match=r"summary\.json holds a list"):
        write_run_report(run)
    (run / "summary.json").write_text('{"tokens": ')
    with pytest.raises(PunaError, match=r"summary\.json is not valid JSON"):
        write_run_report(run)
    (run / "summary.json").write_text("{}")
    (run / "samples.json").write_text('[{"prompt": "x"}]')
    with pytest.raises(PunaError, match="each sample is an object with `prompt` and `text`"):
        write_run_report(run)
    assert not (run / "report.html").exists()


def test_a_metric_that_was_never_logged_has_no_chart():
    records = [
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "train", "step": 2, "loss": None, "mfu": None},
    ]
    (loss,) = run_charts(records, [])
    assert loss.name == "loss"
    assert loss.left_out == 1
