"""Copies of documents: only the first of each is kept."""

from puna.data.dedup import drop_copies


def test_copies_are_dropped_and_the_order_is_kept() -> None:
    texts = iter(["b", "a", "b", "", "a ", "a", ""])
    assert list(drop_copies(texts)) == ["b", "a", "", "a "]
