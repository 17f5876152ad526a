"""The text of a report, against numbers worked out by hand, and what it says of studies that went
wrong.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_study import make_study
from scipy import optimize, stats

from puna.report.differences import learning_curve
from puna.report.inside_models import by_layer
from puna.report.section import StudyResults, code, plain
from puna.report.study_report import report_sections, report_text
from puna.study.arms import resolve_arms
from puna.study.definition import read_study
from puna.study.results import complete_runs, read_results
from puna.study.step_times import read_step_times

SMALL = {(0, 0): 3.0, (0, 1): 3.2, (1, 0): 2.9, (1, 1): 3.06}  # differences -0.10 and -0.14


def text_of(folder: Path, change: Callable[[list[Any]], None] | None = None) -> str:
    study, records = read_study(folder), read_results(folder)
    if change:
        change(records)
    runs, times = complete_runs(study, records), read_step_times(folder)
    results = StudyResults(study, resolve_arms(study, folder), runs, times)
    return report_text(study, report_sections(results))


def row(text: str, section: str, first: str) -> list[str]:
    """The cells of the first row of a section's tables that begins with `first`."""
    lines = text.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    found = next(line for line in lines if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def small(folder: Path, **keys: Any) -> Path:
    return make_study(
        folder, ["old", "new"], truth=lambda arm, seed: SMALL[arm, seed], seeds=[0, 1], **keys
    )


def test_differences_intervals_and_p_values_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    """d = -0.10, -0.14: mean -0.12, s = 0.04 / sqrt 2, SE = 0.02; t(0.975, 1) = 12.7062; p = 1 - 2
    arctan(6) / pi.
    """
    text = text_of(small(tmp_path))
    assert row(text, "Differences", "old (baseline)") == [
        "old (baseline)",
        "3.1000",
        "",
        "",
        "",
        "",
        "",
    ]
    power = optimize.brentq(lambda effect: stats.nct.sf(12.7062, 1, effect * 2**0.5) - 0.8, 1, 100)
    assert row(text, "Differences", "new") == [
        "new",
        "2.9800",
        "-0.1200",
        "-0.3741 to +0.1341",
        "0.105",
        f"{power * 0.04 / 2**0.5:.4f}",
        "undecided",
    ]
    # 0.2 / sqrt 2
    assert "the 2 runs of old have a standard deviation of 0.1414 bits per byte" in text
    # 2 (0.1414 / 0.0283)^2
    assert (
        "Pairing by seed helped: unpaired groups would need about 50.0 times as many seeds" in text
    )
    assert (
        "1 arm is compared, so the smallest p-value has to be below 0.05 before adjustment, and 2"
        " seeds leave 1 degree of freedom" in text
    )


def test_the_difference_that_can_be_found_is_the_effect_times_the_spread(tmp_path: Path) -> None:
    text = text_of(make_study(tmp_path, [f"arm{n}" for n in range(9)]))
    effect = float(text.split("true difference is ")[1].split()[0])
    # 4 seeds, alpha 0.05 / 8: Cohen's tables go no further; statistics.py is tested by itself
    assert effect == pytest.approx(4.4)
    assert (
        "8 arms are compared, so the smallest p-value has to be below 0.0063 before adjustment"
        in text
    )


def test_where_more_is_better_the_highest_stands_first_and_is_better(tmp_path: Path) -> None:
    folder = make_study(
        tmp_path,
        ["one", "two", "three"],
        truth=lambda arm, seed: 0.3 + 0.1 * arm + 0.001 * (arm * seed),
        metric="addition_exact_match",
        also=["loss"],
    )
    text = text_of(folder)
    lines = [
        line.split(" | ")
        for line in text.split("## Differences")[1].splitlines()
        if line.startswith("| t")
    ]
    assert [(line[0], line[-1]) for line in lines[:2]] == [
        ("| three", "better |"),
        ("| two", "better |"),
    ]
    assert "more is better, the best arm stands first" in text
    assert "A share is not normal near 0 and 1" in text
    other = [
        line for line in text.split("## Other measures")[1].splitlines() if line.startswith("| t")
    ]
    # of a loss the lowest
    assert [line.split(" | ")[0] for line in other[:2]] == ["| two", "| three"]


def test_other_measures_have_no_verdict_and_no_smallest_difference(tmp_path: Path) -> None:
    text = text_of(small(tmp_path, also=["loss"], rule={"smallest_difference": 1.0}))
    section = text.split("## Other measures")[1].split("\n## ")[0]
    assert "No verdict of the study rests on it" in section
    assert (
        "| arm | nats per token | paired difference | 95% interval | p, Holm-adjusted |\n"
        in section
    )
    assert row(text, "Other measures", "new")[2:] == ["-0.1200", "-0.3741 to +0.1341", "0.105"]


def test_a_diverged_arm_is_counted_and_not_averaged(tmp_path: Path) -> None:
    folder = make_study(tmp_path, ["a", "b", "c"], diverged={"b": [1, 2]}, probes=["dead_units"])
    text = text_of(folder)
    assert row(text, "Differences", "b") == [
        "b",
        "2 of 4 diverged",
        "not tested",
        "",
        "",
        "",
        "diverged",
    ]
    assert row(text, "Cost", "b")[-1] == "2 of 4 diverged"
    assert row(text, "Inside the models", "b (2 of 4 runs reached the end)")[1].count("→") == 1
    section = text.split("## Differences")[1]
    assert section.index("| c |") < section.index("| b |")


def test_an_arm_of_which_every_run_diverged_has_no_end(tmp_path: Path) -> None:
    text = text_of(
        make_study(tmp_path, ["a", "b"], diverged={"b": [0, 1, 2, 3]}, probes=["dead_units"])
    )
    assert row(text, "Inside the models", "b (none of 4 runs reached the end)")[1].endswith(
        "→ diverged"
    )
    assert "Every other arm diverged, so there are no differences to speak of." in text


def test_a_diverged_baseline_leaves_nothing_tested_and_says_so(tmp_path: Path) -> None:
    text = text_of(make_study(tmp_path, ["a", "b"], diverged={"a": [1]}))
    assert (
        "1 of 4 runs of the baseline a diverged, so there is no noise floor, nothing to pair with,"
        " and no arm was tested." in text
    )
    assert row(text, "Differences", "b")[2] == "not tested"


def test_step_times_are_medians_and_the_ratio_is_of_the_same_round(tmp_path: Path) -> None:
    """Ratios 1.1, 1.1 and 1.25: median 1.1, middle half 1.1 to 1.175; memory 400 + 3 + (0, 1)."""
    folder = small(tmp_path)
    times = json.loads((folder / "step_times.json").read_text())
    del times["compiled"]
    times |= {"eager": {"old": [100.0, 110.0, 120.0], "new": [110.0, 121.0, 150.0]}, "rounds": 3}
    (folder / "step_times.json").write_text(json.dumps(times))
    text = text_of(folder)
    assert row(text, "Cost", "new")[1:3] == ["121.0", "1.100 (1.100 to 1.175)"]
    assert row(text, "Cost", "new")[4] == "404"  # 403.5 to even
    assert "medians of 3 rounds" in text
    assert (
        "Made-up 1, 2 cores, 1 thread, PyTorch 2.13.0, 2026-11-21. Other programs took 0.02 cores"
        " meanwhile: a quiet machine." in text
    )
    assert "compiled" not in text


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (0.6, "took 0.60 cores meanwhile, so the machine was not quiet"),
        (None, "How busy other programs kept the machine meanwhile is not known"),
    ],
)
def test_a_busy_machine_is_named(others: float | None, said: str, tmp_path: Path) -> None:
    assert said in text_of(small(tmp_path, others=others))


def test_without_step_times_a_sentence_says_so(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / "step_times.json").unlink()
    text = text_of(folder)
    assert "Step times were not measured: `puna study time` does it" in text
    assert "taken in turns" not in text
    assert "`study.yaml` asks for none" in text_of(small(tmp_path / "none", timed=[]))


def test_an_arm_that_was_not_timed_says_so(tmp_path: Path) -> None:
    folder = small(tmp_path)
    times = json.loads((folder / "step_times.json").read_text())
    del times["eager"]["new"]
    (folder / "step_times.json").write_text(json.dumps(times))
    assert row(text_of(folder), "Cost", "new")[1:3] == ["not timed", ""]


def test_probes_are_the_mean_over_the_seeds_by_layer(tmp_path: Path) -> None:
    folder = small(tmp_path, probes=["activation_norms", "attention_entropy"])

    def change(records: list[Any]) -> None:
        for record in records:
            for when, base in (("start", 1.0), ("end", 100.0)):
                record["probes"][when]["activation_norms"] = {
                    "residual": [base + record["seed"], 2 * base]
                }

    study, records = read_study(folder), read_results(folder)
    change(records)
    runs = complete_runs(study, records)
    assert by_layer(runs, "old", "activation_norms", "residual", "end") == ([100.5, 200.0], 2)
    text = text_of(folder, change)
    assert row(text, "Inside the models", "old")[1:] == ["1.50 → 100", "2.00 → 200"]
    assert "The series `residual`." in text
    assert "The series `normalised`." in text
    assert "Recorded too, in `results.jsonl`: `entropy`, `heads_of_layer_…`." in text


def test_several_series_have_a_row_each_for_every_arm(tmp_path: Path) -> None:
    text = text_of(small(tmp_path, probes=["activation_norms"]))
    rows = [
        line.split(" | ")[:2]
        for line in text.split("## Inside")[1].splitlines()
        if line.startswith("| `")
    ]
    assert rows == [
        [f"| `{name}`", arm]
        for name in ("residual", "attention", "feed_forward")
        for arm in ("old", "new")
    ]


def test_a_curve_ends_with_the_last_look_that_all_runs_have(tmp_path: Path) -> None:
    folder = make_study(tmp_path, ["a", "b"], diverged={"b": [0]})
    runs = complete_runs(read_study(folder), read_results(folder))
    whole, cut = learning_curve(runs, "a"), learning_curve(runs, "b")
    assert (len(whole.mean), whole.diverged) == (8, 0)
    assert (len(cut.mean), cut.diverged) == (4, 1)
    styles = [run["curve"][3][1] for run in runs.by_arm["b"]]
    assert cut.mean[3] == pytest.approx(sum(styles) / 4)
    assert (cut.low[3], cut.high[3]) == (min(styles), max(styles))


def test_published_differences_stand_beside_ours(tmp_path: Path) -> None:
    figures = [
        {"source": "A, B & C", "column": "loss", "values": {"old": 1.997, "new": 1.942}},
        {"source": "D", "column": "loss", "values": {"new": 1.5}},
        {
            "source": "E",
            "column": "accuracy",
            "values": {"old": 60, "new": 62.5},
            "lower_is_better": False,
        },
        {
            "source": "F",
            "column": "accuracy",
            "values": {"old": 60, "new": 58},
            "lower_is_better": False,
        },
    ]
    text = text_of(small(tmp_path, published=figures))
    ours = ["2.9800", "-0.1200 (-0.3741 to +0.1341)"]
    assert row(text, r"Beside A, B \& C", "new") == [
        "new",
        "1.942",
        "-0.055",
        *ours,
        "yes, but our interval holds 0",
    ]
    assert row(text, r"Beside A, B \& C", "old") == ["old", "1.997", "", "3.1000", "", ""]
    assert row(text, "Beside D", "new")[2] == ""
    assert (
        "There is no published figure of the baseline old, so nothing to compare the others with."
        in text
    )
    assert row(text, "Beside E", "new") == [
        "new",
        "62.5",
        "+2.5",
        *ours,
        "yes, but our interval holds 0",
    ]
    assert row(text, "Beside F", "new") == [
        "new",
        "58",
        "-2",
        *ours,
        "no, but our interval holds 0",
    ]


def test_published_times_stand_beside_our_step_times(tmp_path: Path) -> None:
    figures = [
        {"source": name, "column": "s", "values": {"old": 200, "new": 150}, "beside": "step_times"}
        for name in "GG"
    ]
    folder = small(tmp_path, published=figures, timed=["eager", "compiled"])
    text, times = text_of(folder), read_step_times(folder)
    assert times is not None
    ours = [times.ratio(mode, "new", "old") for mode in ("eager", "compiled")]
    assert row(text, "Beside G", "new") == [
        "new",
        "150",
        "0.750",
        *(f"{r.median:.3f} ({r.low:.3f} to {r.high:.3f})" for r in ours if r),
    ]
    assert text.count("## Beside G\n") == 2
    (folder / "step_times.json").unlink()
    assert "there is nothing of ours to stand beside these" in text_of(folder)


def test_tokens_are_a_column_only_where_they_differ(tmp_path: Path) -> None:
    assert "MFLOPs a token, training |\n" in text_of(small(tmp_path))
    text = text_of(
        small(
            tmp_path / "longer",
            overrides={"new": ["train.steps=976", "optimizer.learning_rate=0.02"]},
        )
    )
    assert row(text, "Protocol", "new")[-1] == "499,712"  # 976 steps of 8 x 64
    assert "with the learning rates that the arms name" in text


def test_runs_that_the_study_no_longer_names_are_counted(tmp_path: Path) -> None:
    text = text_of(small(tmp_path), lambda records: records.append({**records[0], "seed": 9}))
    assert "- Left out: 1 runs in `results.jsonl` of arms or seeds" in text
    assert row(text, "Differences", "new")[2] == "-0.1200"


def test_equal_inputs_give_equal_text_in_whichever_order_the_runs_ended(tmp_path: Path) -> None:
    folder = make_study(tmp_path, ["a", "b", "c"], probes=["dead_units"], also=["loss"])
    assert text_of(folder) == text_of(folder, lambda records: records.reverse())


def test_names_show_as_they_are() -> None:
    assert plain("<b> a|b *c* [d] _e f_g `h` $i$") == r"\<b\> a\|b \*c\* \[d\] \_e f_g \`h\` \$i\$"
    assert plain("two\n lines") == "two lines"
    assert code("a=[1|2]") == r"`a=[1\|2]`"
    assert code("a`b") == "``a`b``"
