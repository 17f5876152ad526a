"""The generated sums: right, the same each time, and never one that is to be asked."""

import hashlib
import itertools

import pytest
from said import said

from puna.data.additions import ADDITIONS, SAMPLE, Additions, read_additions
from puna.data.sources import find_sources, read_texts
from puna.errors import DataError

FORMS = (Additions(), Additions(2, reversed=True), Additions(3), Additions(4, reversed=True))
# of all texts of `additions`, as the studies before its other forms read them
DIGEST = "7141500b7ab3f37b5194edf3c5c04da8b0203bf9babfc5d528da250f322973d8"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_line_is_a_right_sum_that_is_not_held_out(form: Additions) -> None:
    for text in itertools.islice(read_texts([str(form)]), 2000):
        for line in text.splitlines():
            question, total = line.split("=")
            a, b = map(int, question.split("+"))
            assert int(total[::-1] if form.reversed else total) == a + b
            assert len(total) == len(str(a + b))
            assert not form.is_held_out(a, b)
            assert not form.is_held_out(b, a)
            assert max(a, b) < 10**form.digits


def test_the_short_sums_are_those_of_the_first_studies() -> None:
    """150 thousand, to the byte."""
    texts = list(Additions().documents())
    assert sum(text.count("\n") for text in texts) == 150_000
    assert hashlib.sha256("".join(texts).encode()).hexdigest() == DIGEST


def test_the_texts_are_the_same_each_time() -> None:
    once, again = (list(itertools.islice(Additions(4).documents(), 200)) for _ in range(2))
    assert once == again
    sources = find_sources([ADDITIONS, "additions:4"])
    assert [source.name for source in sources] == [ADDITIONS, "additions:4"]
    assert sources[0].fingerprint == find_sources([ADDITIONS])[0].fingerprint


def test_reversed_are_the_same_sums() -> None:
    plain, reversed_ = (
        "".join(itertools.islice(form.documents(), 40))
        for form in (Additions(4), Additions(4, reversed=True))
    )
    assert plain != reversed_
    assert [line.split("=")[0] for line in plain.splitlines()] == [
        line.split("=")[0] for line in reversed_.splitlines()
    ]
    assert Additions(4).held_out_pairs == Additions(4, reversed=True).held_out_pairs
    assert Additions(4, reversed=True).answer(57, 8) == "56"
    assert Additions(4, reversed=True).answer(10, 90) == "001"


def test_a_tenth_of_all_short_pairs_is_held_out_and_all_others_are_told() -> None:
    form = Additions()
    held_out = set(form.held_out_pairs)
    assert 0.08 < len(held_out) / 100**2 < 0.12
    assert {(b, a) for a, b in held_out} == held_out
    told = {
        tuple(map(int, line.split("=")[0].split("+")))
        for text in form.documents()
        for line in text.splitlines()
    }
    assert not told & held_out
    assert len(told | held_out) > 0.99 * 100**2


def test_of_longer_pairs_a_thousand_are_held_out_either_way_round() -> None:
    form = Additions(4)
    pairs = form.held_out_pairs
    assert len(pairs) == SAMPLE == len({frozenset(pair) for pair in pairs})
    assert all(form.is_held_out(a, b) and form.is_held_out(b, a) for a, b in pairs)
    assert all(99 < max(pair) < 10**4 for pair in pairs)
    assert not form.is_held_out(12, 34)
    # of the 12 pairs of lengths that reach 3 digits, one in twelve is 4 + 4
    longest = sum(min(pair) > 999 for pair in pairs)
    assert 0.05 < longest / SAMPLE < 0.12


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_has_one_name(form: Additions) -> None:
    assert read_additions(str(form)) == form
    question, answer = form.questions()[0]
    a, b = form.held_out_pairs[0]
    assert (question, answer) == (f"{a}+{b}=", form.answer(a, b) + "\n")


def test_other_sources_are_none_of_its_forms() -> None:
    assert read_additions("python-stdlib") is None
    assert read_additions("additions.txt") is None


@pytest.mark.parametrize("source", ["additions:", "additions:1", "additions:12", "additions:4:x"])
def test_a_form_that_does_not_exist_is_rejected_with_those_that_do(source: str) -> None:
    with pytest.raises(DataError, match=said(f"{source} is no form ... additions:4:reversed")):
        find_sources([source])
