"""The shipped tasks without the harness: their documents say what they ask for, and their figures
are those of closed forms.
"""

import math
import re
from pathlib import Path

import pytest
from said import said

from puna.errors import ConfigError, DataError
from puna.eval.judges import judge_continuation, judge_python, judge_text
from puna.eval.shipped_tasks import check_text, choose_tasks, run_task, shipped_tasks
from puna.eval.task_documents import documents
from puna.eval.task_result import Estimate
from puna.inference.language_model import LanguageModel

GENERATED = [name for name, task in shipped_tasks().items() if not task.scores_text]


@pytest.mark.parametrize("name", GENERATED)
def test_equal_seeds_give_equal_documents(name: str) -> None:
    task = shipped_tasks()[name]
    rows = task.documents(None, (), None)
    assert len(rows) == task.n
    assert rows == task.documents(task.seed, (), None)
    assert rows[:7] == task.documents(None, (), 7)
    assert rows != task.documents(task.seed + 1, (), None)
    assert len({str(row) for row in rows}) > 0.8 * len(rows)


@pytest.mark.parametrize("name", GENERATED)
def test_levels_take_turns_and_have_a_metric(name: str) -> None:
    task = shipped_tasks()[name]
    levels = [row.get("level") for row in task.documents(None, (), None)]
    period = len(set(levels))
    assert levels == levels[:period] * (len(levels) // period)
    told = {metric["metric"] for metric in task.fields["metric_list"]}
    assert {f"acc_{level}" for level in levels if level} <= told


def test_sums_are_right() -> None:
    for row in documents("sums", 40, 3):
        digits = int(row["level"][0])
        lines = (row["context"] + row["target"]).splitlines()
        assert len(lines) == 4
        for line in lines:
            a, b, total = map(int, re.fullmatch(r"(\d+)\+(\d+)=(\d+)", line).groups())  # type: ignore[union-attr]
            assert a + b == total
            assert len(str(a)) == len(str(b)) == digits


@pytest.mark.parametrize("kind", ["copy", "induction"])
def test_the_answer_stands_at_the_distance(kind: str) -> None:
    for row in documents(kind, 30, 1):
        words = (row["context"] + row["target"]).split()
        distance = int(row["level"].split("_")[0])
        answer = words[-1]
        assert words.count(answer) == 2
        assert words.index(words[-2]) == words.index(answer) - 1
        gap = len(words) - 1 - words.index(answer)
        assert gap == (distance if kind == "copy" else distance + 1)


def test_the_last_word_was_told() -> None:
    for row in documents("last_word", 50, 2):
        thing = re.search(r"for the (\w+) in the$", row["context"])[1]  # type: ignore[index]
        place = re.search(rf"took the {thing} to the (\w+)\.", row["context"])[1]  # type: ignore[index]
        assert row["target"] == f" {place}"
        assert row["choices"][row["answer"]] == place


def test_a_text_is_its_documents(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    rows = documents("text", None, 0, [str(tmp_path)])
    assert rows == [{"text": f"text {number}"} for number in range(3)]
    assert documents("text", 2, 0, [str(tmp_path)]) == rows[:2]


def test_figures_of_a_model_that_knows_nothing(
    uniform_llama: LanguageModel, tmp_path: Path
) -> None:
    """log2 V bits a token; begin tokens are neither loss nor bytes, in however many windows."""
    text = "word 12 + 24 = 36 über\n" * 20
    (tmp_path / "text").write_text(text, encoding="utf-8")
    tokens = len(uniform_llama.tokenizer.encode(text))
    assert tokens > uniform_llama.model.config.context_length
    bits = math.log2(uniform_llama.model.config.vocab_size)
    (task,) = choose_tasks(["puna_bits_per_byte"])
    rows = task.documents(None, [str(tmp_path / "text")], None)
    result = run_task(uniform_llama, task, rows)
    found = result.metrics["bits_per_byte"].value
    assert found == pytest.approx(bits * tokens / len(text.encode()))
    assert (result.seed, result.cut) == (None, 0)


def test_figures_of_known_logits(unigram_llama: LanguageModel) -> None:
    """Sums in closed form, each metric over its own documents."""
    (task,) = choose_tasks(["puna_sums"])
    rows = task.documents(5, (), 8)
    size = unigram_llama.model.config.vocab_size
    normaliser = math.log(sum(math.exp(-(id_ % 7)) for id_ in range(size)))
    encode = unigram_llama.tokenizer.encode
    nats, total = 0.0, 0
    for row in rows:
        ids = encode(row["context"] + row["target"])[len(encode(row["context"])) :]
        nats += sum(id_ % 7 + normaliser for id_ in ids)
        total += len(row["target"])
    result = run_task(unigram_llama, task, rows, seed=5)
    assert result.metrics["bits_per_byte"].value == pytest.approx(
        nats / math.log(2) / total, rel=1e-5
    )
    assert result.metrics["acc"] == Estimate.of([0.0] * 8)
    assert (result.seed, result.version) == (5, "1.0")
    assert {name: found.n for name, found in result.metrics.items()} == {
        "bits_per_byte": 8,
        "acc": 8,
    } | {f"acc_{digits}_digits": 2 for digits in (1, 2, 3, 4)}


@pytest.mark.parametrize("name", GENERATED)
def test_every_task_runs(name: str, tiny_llama: LanguageModel) -> None:
    """Also where a context does not hold the prompt, which is counted."""
    (task,) = choose_tasks([name])
    result = run_task(tiny_llama, task, task.documents(None, (), 6))
    told = {metric["metric"] for metric in task.fields["metric_list"]}
    assert set(result.metrics) - {"acc_answer"} <= told
    assert all(math.isfinite(found.value) for found in result.metrics.values())
    if name == "puna_copy":
        assert result.cut is not None
        assert result.cut >= 2  # those of 64 words


def test_all_names_those_with_documents_of_their_own() -> None:
    assert [task.name for task in choose_tasks(["all", "puna_sums"])] == GENERATED


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose_tasks(["puna_sum"]), "no task 'puna_sum' ... did you mean puna_sums"),
        (lambda: choose_tasks(["xyzzy"]), "no task 'xyzzy' ... puna_copy, puna_induction"),
        (lambda: check_text(["puna_sums"], ["a"]), "puna_sums ... --text out ... puna_bits_per_b"),
        (lambda: documents("text", None, 0), "none is given ... --text"),
        (lambda: documents("sums", 0, 0), "n is 0 ... at least 1"),
        (lambda: documents("poems", 1, 0), "kind 'poems' ... copy"),
    ],
)
def test_a_task_that_cannot_be(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=said(message)):
        call()  # type: ignore[operator]


def test_a_text_that_is_missing() -> None:
    with pytest.raises(DataError, match="gone"):
        documents("text", None, 0, ["gone.txt"])


@pytest.mark.parametrize(
    ("completion", "parses"),
    [
        ("    return 1", True),
        ("    return 1\n    x = (", True),  # cut off inside its last line
        ("    pass\n\n", True),
        ('    return "\\d"', True),
        ("", False),
        ("return 1 +", False),
        ("    # nothing", False),
        ("    x = (", False),
        ("    x = (\n    y", False),
        ("    \0", False),
        ("    return " + "(" * 5000, False),
        ("    return " + "-" * 200_000 + "1", False),
    ],
)
def test_python_is_what_the_parser_takes(completion: str, parses: bool) -> None:
    for docstring in ("", '    """Find a."""\n'):
        found = judge_python({"prompt": f"def f(a):\n{docstring}"}, [completion])
        assert found == {"parses": float(parses)}


def test_values_of_a_continuation_and_a_text() -> None:
    doc = {"target": " ü", "level": "4_words", "text": "üa"}
    assert judge_continuation(doc, [(-2.5, True)]) == {
        "bits_per_byte": (-2.5, 3.0),
        "acc": 1.0,
        "acc_4_words": 1.0,
    }
    assert judge_text(doc, [-4.0]) == {"bits_per_byte": (-4.0, 3.0)}


def test_estimates_in_closed_form() -> None:
    """A share has the standard error of its mean; one document has none; all alike have Wilson's
    interval, which for 0 of 20 ends at z^2 / (n + z^2).
    """
    found = Estimate.of([1.0, 0.0, 0.0, 0.0] * 50)
    assert found.value == 0.25
    assert found.stderr == pytest.approx(math.sqrt(0.25 * 0.75 / 200), rel=0.05)
    assert found.low is not None
    assert found.low < 0.25 < (found.high or 0)
    pairs = Estimate.of([(-8 * math.log(2), 4.0), (-8 * math.log(2), 12.0)])
    assert pairs.value == pytest.approx(1.0)
    assert Estimate.of([(-math.log(2), 2.0)]) == Estimate(pytest.approx(0.5), 1)
    none_right = Estimate.of([0.0] * 20)
    assert none_right.high == pytest.approx(1.96**2 / (20 + 1.96**2), rel=1e-3)
