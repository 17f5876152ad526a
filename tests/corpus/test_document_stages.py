"""Each stage that looks at one document: the rule, its border, its count."""

from collections.abc import Sequence
from typing import Any

import pytest
from small_corpora import PROSE

from puna.corpus.c4_rules import C4Options, c4
from puna.corpus.code_rules import CodeOptions, code
from puna.corpus.filter_task import sample
from puna.corpus.gopher_rules import GopherOptions, RepetitionOptions, gopher, repetition
from puna.corpus.normalization import NormalizeOptions, normalize
from puna.corpus.personal_data import PersonalDataOptions, personal_data
from puna.corpus.stages import CorpusDocument, Stage, StageResult
from puna.corpus.tally import SAMPLES, StageCount, summed

GOOD = " ".join(PROSE * 2)


def run(stage: Stage, options: Any, *texts: str) -> StageResult:
    return stage([CorpusDocument(text, f"#{n}") for n, text in enumerate(texts)], options)


def reasons(stage: Stage, options: Any, text: str) -> list[str]:
    return [dropped.reason for dropped in run(stage, options, text).dropped]


def only(stage: Stage, options: Any, text: str) -> str:
    (kept,) = run(stage, options, text).kept
    return kept.text


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("a\r\nb\rc\u2028d\u0085e", "a\nb\nc\nd\ne"),
        ("a\x00b\x1b\x9fc\td\n", "abc\td\n"),
        ("x\u00b2 \ufb01", "x\u00b2 \ufb01"),  # NFC keeps what NFKC would lose
        ("\ufeffa\ufffe", "a"),
    ],
)
def test_normalize(text: str, becomes: str) -> None:
    result = run(normalize, NormalizeOptions(), text)
    assert [document.text for document in result.kept] == [becomes]
    assert bool(result.changed) == (text != becomes)


def test_normalize_leaves_out_each_step() -> None:
    options = NormalizeOptions(form="none", line_ends=False, control_characters=False)
    assert only(normalize, options, "e\u0301\r\n\x01") == "e\u0301\r\n\x01"
    assert reasons(normalize, NormalizeOptions(), "\x01\x02") == ["nothing left"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the of " * 24 + "one", "fewer than 50 words"),
        ("the of a b c d e f g h " * 10, "words shorter than 3 on average"),
        ("the of " + "incomprehensibilities " * 60, "words longer than 10 on average"),
        (GOOD + " #" * 12, "hashes a word"),
        (GOOD + " more..." * 14, "ellipses a word"),
        ("\n".join(f"- {line}" for line in PROSE * 4), "begin with a bullet"),
        (GOOD + "\nand so on…\nand so on…", "end with an ellipsis"),
        (GOOD + " 123456" * 30, "of words have a letter"),
        ("some words that name nothing " * 20, "stop words"),
    ],
)
def test_gopher_names_the_rule(text: str, reason: str) -> None:
    found = reasons(gopher, GopherOptions(), text)
    assert len(found) == 1
    assert reason in found[0]


def test_gopher_keeps_prose_and_takes_other_thresholds() -> None:
    assert reasons(gopher, GopherOptions(), GOOD) == []
    words = len(GOOD.split())
    assert reasons(gopher, GopherOptions(min_words=words), GOOD) == []
    assert reasons(gopher, GopherOptions(min_words=words + 1), GOOD)
    assert reasons(gopher, GopherOptions(max_words=words - 1), GOOD)


def unlike(count: int) -> list[str]:
    """Lines in which no run of words occurs twice."""
    return [" ".join(f"w{line}x{word}" for word in range(8)) for line in range(count)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(["ab cd", *unlike(4), "ab cd", "ab cd", "ab cd"]), "30% of lines repeated"),
        ("\n".join(["a", "b", "c", "d", *unlike(2)[:1] * 2]), "characters in repeated lines"),
        ("\n\n".join(["a", "a", "a", "b\n" + "\n".join(unlike(6))]), "paragraphs repeated"),
        (" ".join(unlike(2)) + " buy now" * 20, "run of 2 words"),
        (" ".join([*unlike(6), "a b c d e f g h i j k l m n"] * 2), "repeated runs"),
    ],
)
def test_repetition_names_the_rule(text: str, reason: str) -> None:
    found = reasons(repetition, RepetitionOptions(), text)
    assert len(found) == 1
    assert reason in found[0]


def test_repetition_keeps_what_repeats_nothing() -> None:
    assert reasons(repetition, RepetitionOptions(), "\n\n".join(unlike(9))) == []


def test_c4_keeps_sentences_and_counts_the_lines_that_go() -> None:
    menu = "Home\nLogin\n"
    policy = "We use cookies to make this site work for you and for us.\n"
    script = "Please enable Javascript in your browser to see this page.\n"
    text = menu + PROSE[0] + "[12]\nShort one.\n" + policy + script + PROSE[1] + "\n" + PROSE[2]
    # a citation mark behind the sentence's end is taken away before the end is looked at
    result = run(c4, C4Options(), text)
    assert [document.text for document in result.kept] == ["\n".join(PROSE)]
    assert result.changed == {
        "lines without a mark at their end": 2,
        "lines of fewer than 5 words": 1,
        "lines about policies": 1,
        "lines about JavaScript": 1,
        "citation marks": 1,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(PROSE) + "\nLorem Ipsum dolor.", "lorem ipsum"),
        ("\n".join(PROSE) + "\n{ x }", "curly bracket"),
        (PROSE[0], "fewer than 3 sentences"),
    ],
)
def test_c4_drops_pages(text: str, reason: str) -> None:
    (found,) = reasons(c4, C4Options(), text)
    assert reason in found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n" + "a" * 1001 + "\n" * 40, "a line of more than"),
        (("a" * 101 + "\n") * 3, "on average"),
        ("+-*/" * 20, "letters and digits"),
        ("# Code generated by x. DO NOT EDIT.\nx = 1\n", "generated by a program"),
    ],
)
def test_code_names_the_rule(text: str, reason: str) -> None:
    (found,) = reasons(code, CodeOptions(), text)
    assert reason in found


def test_code_keeps_what_people_write() -> None:
    assert reasons(code, CodeOptions(), "def double(x):\n    return 2 * x\n") == []


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("write to jane.doe+x@mail.example.co.uk.", "write to email@example.com."),
        ("not@mail, a@b, @name", "not@mail, a@b, @name"),
        ("from 8.8.8.8:53, and 8.8.4.4.", "from 192.0.2.1:53, and 192.0.2.1."),
        ("10.0.0.1 192.168.1.1 999.8.8.8 1.2.3.4.5", "10.0.0.1 192.168.1.1 999.8.8.8 1.2.3.4.5"),
        ("at 2606:4700:4700::1111 now", "at 2001:db8::1 now"),
        ("at 12:30:45, x::y, fe80::1", "at 12:30:45, x::y, fe80::1"),
        ("call +49 30 1234-5678 today", "call +1 202-555-0100 today"),
        ("call (212) 555-2368 or 212-555-2368.", "call +1 202-555-0100 or +1 202-555-0100."),
        ("2024-01-15, 1234567890, 3.14159", "2024-01-15, 1234567890, 3.14159"),
    ],
)
def test_personal_data(text: str, becomes: str) -> None:
    assert only(personal_data, PersonalDataOptions(), text) == becomes


def test_personal_data_counts_and_keeps_what_it_is_told_to() -> None:
    options = PersonalDataOptions(phone=None, email=r"\g<0>")
    result = run(personal_data, options, "a@example.org b@example.org 1.1.1.1 +49 30 12345678")
    assert result.kept[0].text == r"\g<0> \g<0> 192.0.2.1 +49 30 12345678"
    assert result.changed == {"addresses of mail": 2, "network addresses": 1}


def test_a_sample_has_the_share_and_grows_with_it() -> None:
    documents = [CorpusDocument(f"text {n}", "") for n in range(4000)]
    quarter, half = (set(sample(documents, share).kept) for share in (0.25, 0.5))
    # three standard deviations
    assert abs(len(quarter) - 1000) < 3 * (4000 * 0.25 * 0.75) ** 0.5
    assert quarter < half
    assert set(sample(documents, 1.0).kept) == set(documents)


def count_of(documents: Sequence[CorpusDocument]) -> StageCount:
    return StageCount.of(documents, gopher(documents, GopherOptions()))


def test_counts_and_samples_do_not_depend_on_the_batches() -> None:
    documents = [CorpusDocument(f"{n} é", f"file {n}") for n in range(40)]
    whole = count_of(documents)
    (drop,) = whole.dropped.values()
    assert len(drop.samples) == SAMPLES
    assert whole.bytes_in == sum(len(document.text.encode()) for document in documents)
    for size in (1, 7, 39):
        cut = [documents[at : at + size] for at in range(0, 40, size)]
        assert summed({"x": count_of(batch)} for batch in reversed(cut)) == {"x": whole}
