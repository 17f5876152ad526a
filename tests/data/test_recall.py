"""The lines to recall from: every question can be answered from its line, at the distance that it
says, and no document has a key that is to be asked.
"""

import itertools
import re
from collections import Counter

import pytest

from puna.data.recall import DISTANCES, QUESTIONS, RECALL, documents, questions
from puna.data.sources import find_sources, read_texts

LINE = re.compile(
    r"(?:[a-z]{4,7} )+(?P<key>[a-z]{3})=(?P<value> [a-z]{3})(?P<between>(?: [a-z]{4,7})+ )"
    r"(?P=key)\?(?P=value)\n"
)


def matched(line: str) -> re.Match[str]:
    found = LINE.fullmatch(line)
    assert found is not None, line
    return found


def keys(lines: list[str]) -> set[str]:
    return {matched(line)["key"] for line in lines}


def test_every_document_is_a_line_whose_question_its_own_pair_answers() -> None:
    lines = list(itertools.islice(read_texts([RECALL]), 5000))
    found = Counter(len(matched(line)["between"]) for line in lines)
    assert set(found) == set(DISTANCES)
    assert all(0.23 < count / len(lines) < 0.27 for count in found.values())
    assert all(line.count("=") == line.count("?") == 1 for line in lines)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_question_is_a_line_without_its_answer(distance: int) -> None:
    asked = questions(distance)
    assert asked == questions(distance)
    assert len(set(asked)) == QUESTIONS
    for question, answer in asked:
        assert question.endswith("?")
        assert len(matched(question + answer)["between"]) == distance


def test_keys_that_are_asked_are_in_no_document() -> None:
    told = keys(list(itertools.islice(documents(), 30_000)))
    asked = keys([a + b for distance in DISTANCES for a, b in questions(distance)])
    assert len(told) > 0.7 * 26**3
    assert len(asked) > 600
    assert not told & asked


def test_the_source_is_the_same_each_time() -> None:
    assert list(itertools.islice(documents(), 50)) == list(itertools.islice(documents(), 50))
    (source,) = find_sources([RECALL])
    assert source.fingerprint == find_sources([RECALL])[0].fingerprint
