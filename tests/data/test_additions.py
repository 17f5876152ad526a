"""The generated sums: right, the same each time, and never one that is to be asked."""

from puna.data.additions import ADDITIONS, DIGITS, documents, held_out_pairs, is_held_out
from puna.data.sources import find_sources, read_texts


def test_every_line_is_a_right_sum_that_is_not_held_out() -> None:
    lines = 0
    for text in read_texts([ADDITIONS]):
        for line in text.splitlines():
            question, total = line.split("=")
            a, b = map(int, question.split("+"))
            assert int(total) == a + b
            assert not is_held_out(a, b)
            assert not is_held_out(b, a)
            assert max(a, b) < 10**DIGITS
            lines += 1
    assert lines == 150_000


def test_the_texts_are_the_same_each_time() -> None:
    assert list(documents()) == list(documents())
    (source,) = find_sources([ADDITIONS])
    assert source.name == ADDITIONS
    assert source.fingerprint == find_sources([ADDITIONS])[0].fingerprint


def test_a_tenth_of_all_pairs_is_held_out_and_all_others_are_told() -> None:
    held_out = set(held_out_pairs())
    assert 0.08 < len(held_out) / 100**2 < 0.12
    assert {(b, a) for a, b in held_out} == held_out
    told = {
        tuple(map(int, line.split("=")[0].split("+")))
        for text in documents()
        for line in text.splitlines()
    }
    assert not told & held_out
    assert len(told | held_out) > 0.99 * 100**2
