"""Evaluation texts kept out of a corpus."""

from pathlib import Path

import pytest
from small_corpora import MakeRecipe, numbered_texts

from puna.corpus.decontamination import DecontaminateOptions, decontaminate, evaluation_runs
from puna.corpus.local_processes import local_processes
from puna.corpus.pipeline import prepare_corpus
from puna.corpus.stages import CorpusDocument
from puna.corpus.words import words_of
from puna.errors import DataError

QUESTION = "Which of these rivers flows through more than ten capitals: the Danube or the Nile?"


@pytest.fixture
def options(tmp_path: Path) -> DecontaminateOptions:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        f'{{"question": "{QUESTION}", "answer": "Neither."}}\n'
        '{"question": "Why?", "answer": ""}\n'
    )
    return DecontaminateOptions(texts=(str(path),), text_field="question,answer")


@pytest.mark.parametrize(
    ("text", "is_dropped"),
    [
        (f"Seen in a quiz: {QUESTION}", True),
        (QUESTION.upper().replace(" ", "\n").replace("?", "..."), True),  # form does not matter
        (" ".join(QUESTION.split()[:12]), True),
        (" ".join(QUESTION.split()[:11]), False),
        (QUESTION.replace("more", "less"), False),  # 7 and 8 words on either side
        ("Why?", False),
        ("", False),
    ],
)
def test_a_run_of_twelve_words(options: DecontaminateOptions, text: str, is_dropped: bool) -> None:
    result = decontaminate([CorpusDocument(text, "here")], options)
    assert bool(result.dropped) == is_dropped
    assert bool(result.kept) != is_dropped
    for dropped in result.dropped:
        assert dropped.reason == "12 words of an evaluation text"
        assert dropped.detail.split() == words_of(QUESTION)[:12]


def test_texts_that_are_too_short_are_counted(options: DecontaminateOptions) -> None:
    runs = evaluation_runs(options)
    assert (runs.texts, runs.too_short, len(runs.hashes)) == (2, 1, 16 - 12 + 1)


def test_texts_that_are_not_looked_for_are_said(
    make_recipe: MakeRecipe, options: DecontaminateOptions, caplog: pytest.LogCaptureFixture
) -> None:
    stages = {"decontaminate": options.model_dump()}
    prepare_corpus(make_recipe({"web": numbered_texts(3)}, stages), local_processes(1))
    assert "1 of 2 evaluation texts have fewer than 12 words" in caplog.text
    caplog.clear()
    enough = {"decontaminate": options.model_dump() | {"words": 1}}
    prepare_corpus(make_recipe({"web": numbered_texts(3)}, enough, "enough"), local_processes(1))
    assert not caplog.text


def test_no_evaluation_texts_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a file, a folder nor a glob"):
        decontaminate([], DecontaminateOptions(texts=(str(tmp_path / "none"),)))
