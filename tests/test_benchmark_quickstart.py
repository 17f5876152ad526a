"""benchmarks/quickstart: every variant is a recipe in which its overrides are in effect, a run has
the steps that its cost leaves it, and the report's figures are those of the paired test.
"""

import argparse
import importlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from scipy import stats

from puna.cli.quickstart import quickstart_recipe

FOLDER = Path(__file__).parents[1] / "benchmarks" / "quickstart"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """A file of the folder as a module, with its neighbours on the path as when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def variants(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("variants")


def test_every_variant_is_a_recipe_with_its_overrides_in_effect(
    variants: ModuleType, tmp_path: Path
) -> None:
    recipes = {
        name: variants.variant_recipe(name, corpus="cpp", seed=4, steps=300, folder=tmp_path)
        for name in variants.VARIANTS
    }
    default = recipes[variants.DEFAULT]
    assert (default.seed, default.train.steps, default.train.validate_every) == (4, 300, 300)
    assert default.tokenizer.path == str(tmp_path / "cpp" / "2048" / "tokenizer")
    assert default.optimizer.warmup_steps == 15
    for name in variants.LATER:
        later = variants.variant_recipe(
            name, corpus="cpp", seed=4, steps=300, folder=tmp_path, later=True
        )
        assert later.model == recipes[name].model
        assert later.train.batch_size != recipes[name].train.batch_size
    changing = variants.LATER.keys()
    hashes = {recipe.fingerprint() for name, recipe in recipes.items() if name not in changing}
    assert len(hashes) == len(recipes) - len(changing), "two variants are one recipe"
    for recipe in recipes.values():
        assert recipe.model.head_width * recipe.model.num_heads == recipe.model.width
        assert recipe.model.vocab_size == recipe.tokenizer.vocab_size


def test_the_quickstart_is_what_was_kept(variants: ModuleType, tmp_path: Path) -> None:
    kept = variants.variant_recipe(
        variants.KEPT, corpus="python", seed=0, steps=300, folder=tmp_path
    )
    now = quickstart_recipe(tmp_path / "run", {"sources": ["python-stdlib"]}, 300)
    assert (kept.model, kept.optimizer) == (now.model, now.optimizer)
    assert kept.tokenizer.vocab_size == now.tokenizer.vocab_size
    for key in ("batch_size", "context_length", "steps", "precision", "minutes"):
        assert getattr(kept.train, key) == getattr(now.train, key), key


def test_an_override_that_other_choices_ignore_is_refused(
    variants: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of WSD's decay under the default's linear schedule."""
    monkeypatch.setattr(variants, "VARIANTS", {"idle": ("optimizer.decay_share=0.5",)})
    with pytest.raises(ValueError, match=r"'idle' sets optimizer\.decay_share=0\.5, which"):
        variants.variant_recipe("idle", corpus="cpp", seed=0, steps=9, folder=tmp_path)


def options(tmp_path: Path, **others: object) -> argparse.Namespace:
    """Options of `run`, with costs of a machine that takes 0.5 s for the default's step."""
    costs = tmp_path / "costs.json"
    costs.write_text(
        json.dumps({"seconds": 0.5, "costs": {"default": 1.0, "batch 4 x 256": 0.6}}),
        encoding="utf-8",
    )
    values = {"variants": ["default", "batch 4 x 256"], "seeds": [0, 1], "corpus": "python"}
    return argparse.Namespace(costs=costs, minutes=2.5, steps=None, **(values | others))


def test_steps_follow_from_the_costs_and_not_from_the_load(
    program: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    search = program("search")
    runs = search.planned(options(tmp_path))
    assert [(run.variant, run.seed, run.steps) for run in runs] == [
        ("default", 0, 300),
        ("batch 4 x 256", 0, 500),
        ("default", 1, 300),
        ("batch 4 x 256", 1, 500),
    ]
    with pytest.raises(SystemExit, match=r"no cost of cosine, to 0: run calibrate"):
        search.planned(options(tmp_path, variants=["cosine, to 0"]))


def test_costs_measured_again_leave_those_of_other_variants(
    program: Callable[[str], ModuleType],
) -> None:
    search = program("search")
    machine = {"processor": "one", "threads": 2, "isa": "avx2"}
    known = {**machine, "seconds": 0.5, "costs": {"default": 1.0, "a": 0.6, "b": 2.0}}
    found = {**machine, "seconds": 0.4, "costs": {"default": 1.0, "b": 1.5}}
    expected = {**machine, "seconds": 0.5, "costs": {"default": 1.0, "a": 0.6, "b": 1.5}}
    assert search.with_known(known, found) == expected
    elsewhere = found | {"isa": "avx512"}
    assert search.with_known(known, elsewhere) == elsewhere


def test_a_variant_that_changes_on_the_way_goes_on_from_where_it_was(
    program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other windows from the fifth of seven steps on: one schedule, one optimizer state. With the
    same windows as before it is the run that does not change.
    """
    search, variants = program("search"), program("variants")
    shutil.copy(argparse.__file__, tmp_path / "text.txt")
    small = (
        *("model.width=32", "model.head_width=16", "model.num_heads=2", "model.num_kv_heads=2"),
        *("model.num_layers=1", "model.vocab_size=300", "tokenizer.vocab_size=300"),
        *("train.batch_size=4", "train.context_length=16"),
    )
    changes = {
        "to 2 x 32": ("train.batch_size=2", "train.context_length=32"),
        "to 8 x 16": ("train.batch_size=8",),
        "to the same": (),
    }
    for module in (search, variants):
        monkeypatch.setattr(module, "VARIANTS", {"plain": small, **dict.fromkeys(changes, small)})
        monkeypatch.setattr(module, "LATER", {name: (0.6, to) for name, to in changes.items()})
        monkeypatch.setattr(module, "CORPORA", {"python": (str(tmp_path / "text.txt"),)})
    monkeypatch.setattr(search, "FOLDER", tmp_path)
    runs = [search.Run(name, "python", 0, 7, 7) for name in ("plain", *changes)]
    search.prepare(runs)
    plain, changed, grown, same = (search.execute(run, "code", nice=0) for run in runs)
    assert [step for step, _ in changed["curve"]] == [step for step, _ in plain["curve"]]
    for other in (changed, grown):
        assert other["curve"][:4] == plain["curve"][:4]
        assert other["curve"][4:] != plain["curve"][4:]
    assert changed["tokens"] == plain["tokens"] == same["tokens"] == 7 * 64
    assert grown["tokens"] == 4 * 64 + 3 * 128
    assert (same["curve"], same["bits_per_byte"]) == (plain["curve"], plain["bits_per_byte"])


def test_a_result_is_found_again_and_a_line_that_a_kill_cut_off_is_not(
    program: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    search = program("search")
    run, *_ = search.planned(options(tmp_path, variants=["batch 4 x 256"]))
    result = {**vars(run), "overrides": search.VARIANTS[run.variant], "bits_per_byte": 1.5}
    path = tmp_path / "results.jsonl"
    line = json.dumps(result)
    path.write_text(f"{line}\n{line[:40]}", encoding="utf-8")
    assert [search.key_of(found) for found in program("report").read_results(path)] == [run.key]
    assert program("report").read_results(tmp_path / "none") == []


def test_the_report_has_the_paired_interval_and_says_what_diverged(
    program: Callable[[str], ModuleType],
) -> None:
    report = program("report")
    default, better = [1.50, 1.52, 1.49], [1.46, 1.49, 1.44]
    bits = {
        "default": dict(enumerate(default)),
        "better": dict(enumerate(better)),
        "screened": {0: 1.6},
        "lost": {0: 1.4, 1: None, 2: 1.4},
    }
    header, rule, *rows = report.lines(bits)
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ")[1:] for row in rows}
    differences = [b - d for b, d in zip(better, default, strict=True)]
    low, high = stats.t.interval(0.95, 2, sum(differences) / 3, stats.sem(differences))
    p = stats.ttest_rel(better, default).pvalue
    assert cells["better"] == ["3", "1.4633", "-0.0400", f"{low:+.4f} to {high:+.4f}", f"{p:.3f} |"]
    assert cells["screened"][:3] == ["1", "1.6000", "+0.1000"]
    assert "to" not in cells["screened"][3]
    assert cells["lost"][1] == "diverged"
    assert next(iter(cells)) == "better"
    assert math.isfinite(p)
    assert len(header.split("|")) == len(rule.split("|")) == 8


def test_the_page_has_the_tables_of_the_results(program: Callable[[str], ModuleType]) -> None:
    report = program("report")
    page = (FOLDER.parents[1] / "docs" / "quickstart.md").read_text(encoding="utf-8")
    tables = report.by_table(report.read_results(FOLDER / "results.jsonl"))
    assert len(tables) >= 3
    for (corpus, budget), bits in tables.items():
        assert "\n".join(report.lines(bits)) in page, f"{corpus}, {budget} steps: run report.py"
