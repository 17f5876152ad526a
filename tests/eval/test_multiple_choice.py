"""The three normalisations in closed form, with a model whose logits are known, and files that are
no questions.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.errors import DataError
from puna.eval.multiple_choice import Question, answer_questions, read_questions
from puna.inference.language_model import LanguageModel


def logprob(llama: LanguageModel, text: str) -> float:
    """Of a text's tokens, each by itself: ln p of id v is -(v % 7) less the normaliser."""
    size = llama.model.config.vocab_size
    normaliser = math.log(sum(math.exp(-(id_ % 7)) for id_ in range(size)))
    return sum(-(id_ % 7) - normaliser for id_ in llama.tokenizer.encode(text))


def test_the_normalisations_in_closed_form(unigram_llama: LanguageModel) -> None:
    """Over many pairs of choices each normalisation names the right one just where its formula
    does; and the sum and the characters disagree somewhere.
    """
    words = ["word", "12 + 7", "a much longer choice of words", "word word", "x", "300", "= 5"]
    questions = [
        Question("word 1 + 2", (one, other), 0) for one in words for other in words if one != other
    ]
    values, cut = answer_questions(unigram_llama, questions)
    assert cut == 0
    for question, found in zip(questions, values, strict=True):
        sums = [logprob(unigram_llama, f" {choice}") for choice in question.choices]
        per_character = [
            total / len(choice) for total, choice in zip(sums, question.choices, strict=True)
        ]
        assert found["acc"] == float(sums[0] >= sums[1])
        assert found["acc_norm"] == float(per_character[0] >= per_character[1])
        # the context says nothing here, so all differences are 0, and the first counts
        assert found["acc_answer"] in (0.0, 1.0)
    assert any(found["acc"] != found["acc_norm"] for found in values)


def test_an_unconditional_likelihood_is_taken_off(tiny_llama: LanguageModel) -> None:
    """By hand from log-likelihoods of the two contexts."""
    from puna.eval.continuations import encode_pair, score_continuations

    choices = ("old pages", "the river", "stone")
    (found,), _ = answer_questions(tiny_llama, [Question("the llama reads", choices, 1)])
    given, neutral = (
        [
            score.logprob
            for score in score_continuations(
                tiny_llama, [encode_pair(tiny_llama.tokenizer, context, f" {c}") for c in choices]
            )
        ]
        for context in ("the llama reads", "Answer:")
    )
    gains = [one - other for one, other in zip(given, neutral, strict=True)]
    assert found["acc_answer"] == float(gains.index(max(gains)) == 1)
    assert found["acc"] == float(given.index(max(given)) == 1)


def test_white_space_joins_once(uniform_llama: LanguageModel) -> None:
    """With equal logits the choice of the fewest tokens wins, so a second space would show."""
    tokenizer = uniform_llama.tokenizer
    one, two = Question("word", (" 12", "word"), 0), Question("word ", ("12", "word"), 0)
    counts = [len(tokenizer.encode(text)) for text in (" 12", " word")]
    expected = float(counts[0] <= counts[1])
    for question in (one, two):
        assert answer_questions(uniform_llama, [question]).values[0]["acc"] == expected


def test_a_file_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    lines = [{"context": "über", "choices": ["a", "b"], "answer": 1}] * 2
    path.write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    assert read_questions(path) == [Question("über", ("a", "b"), 1)] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no question ... one JSON object a line"),
        ("{", "line 1 is no JSON object"),
        ("[1]", "line 1 holds list ... ['answer', 'choices', 'context']"),
        ('{"context": "a", "choices": ["b", "c"]}', "['choices', 'context'] ... 'answer'"),
        ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "answer is 2 ... 2 choices"),
        ('{"context": "a", "choices": ["b", "c"], "answer": true}', "answer is True"),
        ('{"context": "a", "choices": ["b", "c"], "answer": NaN}', "line 1 is no JSON object"),
        ('{"context": "a", "choices": ["b"], "answer": 0}', "two texts or more"),
        ('{"context": "a", "choices": ["b", ""], "answer": 0}', "two texts or more"),
        ('{"context": "a", "choices": "bc", "answer": 0}', "two texts or more"),
        ('{"context": 1, "choices": ["b", "c"], "answer": 0}', "context is 1, not a text"),
        ("[" * 100_000, "line 1 is no JSON object"),
        ("x" * (1 << 20), "line 1 has ... characters or more"),
        (b"\xff\xfe", "cannot be read as UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_question(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=said(f"questions.jsonl ... {message}")):
        read_questions(path)
