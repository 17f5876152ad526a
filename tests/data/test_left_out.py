"""The report of what was left out: ten names and a count, and the share that ends a source."""

import pytest
from said import said

from puna.data.left_out import LeftOut, printable
from puna.errors import DataError


def test_ten_are_named_and_the_others_counted() -> None:
    left_out = LeftOut()
    for number in range(13):
        left_out.add("damaged", f"{number}.txt broke off")
    left_out.add("links", "a link")
    left_out.add("empty", "nothing.txt")
    counts, damaged, links = left_out.lines()
    assert counts == "left out: 0 copies, 1 empty, 0 not UTF-8, 13 damaged, 1 links not followed"
    assert damaged.startswith("  damaged: 0.txt broke off; 1.txt")
    assert damaged.endswith("9.txt broke off; and 3 more")
    assert links == "  links not followed: a link"


def test_ten_bad_ones_or_the_share_of_a_source_are_passed_over() -> None:
    left_out = LeftOut(bad_share=0.1)
    for documents, bad in ((1, 10), (90, 10), (900, 100)):
        for number in range(bad):
            left_out.add("not_utf8", f"{documents}/{number}")
        left_out.finish_source("notes", documents, files=9)
    for number in range(11):
        left_out.add("damaged", f"{number}.gz")
    with pytest.raises(
        DataError, match=said("11 of 100 ... notes ... share of 0.1 ... 0.gz; 1.gz ... --bad-share")
    ):
        left_out.finish_source("notes", 89, files=100)


def test_what_is_left_out_on_purpose_is_not_bad() -> None:
    left_out = LeftOut(strict=True, bad_share=0)
    for number in range(50):
        left_out.add("binary", f"{number}.png")
        left_out.add("duplicates", f"{number}.txt")
    left_out.finish_source("notes", 1, files=101)


@pytest.mark.parametrize("kind", ["damaged", "not_utf8"])
def test_strict_stops_at_the_first(kind: str) -> None:
    with pytest.raises(DataError, match=said("a.jsonl line 3 ... strict ... --strict")):
        LeftOut(strict=True).add(kind, "a.jsonl line 3")  # type: ignore[arg-type]


def test_a_source_without_text_says_why() -> None:
    left_out = LeftOut()
    left_out.add("damaged", "a.gz cannot be read")
    with pytest.raises(DataError, match=said("notes gives no text: a.gz cannot ... mend that or")):
        left_out.finish_source("notes", 0, files=1)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(DataError, match=said(f"{share} ... 0 to 1")):
        LeftOut(bad_share=share)


def test_a_name_that_is_not_utf8_can_be_printed() -> None:
    assert printable(b"a\xff\xc3\xbc.txt".decode("utf-8", "surrogateescape")) == r"a\xffü.txt"
