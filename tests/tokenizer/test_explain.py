"""`puna tokenizer explain`: every merge with its count, in both modes; plain in a pipe; one line
for each mistake.
"""

import re
import shlex
import sys
from collections.abc import Sequence

import pytest
from pages import read_page
from rich.cells import cell_len
from typer.testing import CliRunner

from puna.cli.explain import MAX_CHARACTERS
from puna.cli.main import main
from puna.cli.tokenizer import app

TOY = "low:5 lower:2 newest:6 widest:3"
SEPARATE = (
    "es 9, est 9, est</w> 9, lo 7, low 7, ne 6, new 6, newest</w> 6, low</w> 5, wi 3, wid 3,"
    " widest</w> 3, lowe 2, lower 2, lower</w> 2"
)
ATTACHED = (
    "es 9, est</w> 9, lo 7, ne 6, new 6, newest</w> 6, low</w> 5, wi 3, wid 3, widest</w> 3, low 2,"
    " lowe 2, lower</w> 2"
)


def explain(
    *arguments: str, stdin: bytes = b"", environment: dict[str, str | None] | None = None
) -> str:
    result = CliRunner().invoke(
        app, ["explain", *arguments], input=stdin, env=environment, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def shown_merges(page: str) -> str:
    """The symbols and counts of the page's merges, written as the constants above."""
    rows = re.findall(r"^ *(\d+) +([\d,]+)  \S+ \+ \S+ → (\S+)", page, re.MULTILINE)
    assert [int(step) for step, _, _ in rows] == list(range(1, len(rows) + 1))
    return ", ".join(f"{symbol} {count}" for _, count, symbol in rows)


@pytest.mark.parametrize(("end", "published"), [("separate", SEPARATE), ("attached", ATTACHED)])
def test_the_toy_corpus_shows_the_published_merges(end: str, published: str) -> None:
    page = explain("--words", TOY, "--end", end)
    assert shown_merges(page) == published
    assert "No pair is left." in page


def test_a_separate_end_is_the_default_and_a_text_is_counted_like_a_list_of_words() -> None:
    page = explain("--words", TOY)
    assert shown_merges(page) == SEPARATE
    assert (
        explain(" ".join(["low "] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest\n"] * 3)) == page
    )


def test_each_merge_shows_its_rivals_and_the_words_that_it_changed() -> None:
    lines = explain("--words", TOY, "--merges", "4").splitlines()
    index = next(number for number, line in enumerate(lines) if "l + o → lo" in line)
    assert " ".join(lines[index].split()) == "4 7 l + o → lo o + w 7, n + e 6, e + w 6"
    assert lines[index + 1].strip() == "lo w </w> (5)   lo w e r </w> (2)"


def test_the_page_opens_and_closes_with_the_words_and_the_size_of_the_vocabulary() -> None:
    page = explain("--words", TOY, "--merges", "3")
    assert page.startswith(
        "words    16, of which 4 different\nsymbols  11: </w> d e i l n o r s t w\n"
    )
    assert "l o w e r </w> (2)" in page.partition("merge")[0]
    assert "symbols  14: 11 to begin with, 3 merged. Stopped by the number of merges." in page
    assert "w i d est</w> (3)" in page.splitlines()[-1]


def test_the_vocabulary_size_stops_it_too() -> None:
    page = explain("--words", TOY, "--vocab-size", "13", "--merges", "5")
    assert shown_merges(page) == "es 9, est 9"
    assert "Stopped by the size of the vocabulary." in page


def test_without_marks_and_with_the_oldest_first_the_encyclopedia_example_is_shown() -> None:
    page = explain("aaabdaaabac", "--end", "none", "--ties", "oldest", "--merges", "3")
    assert shown_merges(page) == "aa 4, ab 2, aaab 2"
    assert page.splitlines()[-1].strip() == "aaab d aaab a c (1)"


def test_standard_input_is_read_when_no_text_is_given() -> None:
    assert explain(stdin="über über\n".encode()) == explain("über über")


def test_many_words_and_long_words_are_shortened() -> None:
    page = explain(
        " ".join(f"{letter}q" for letter in "abcdefghij") + " " + "xyz" * 30, "--merges", "1"
    )
    assert "and 5 more" in page
    assert "x y z x … (1)\n" in explain("xyz" * 30, "--merges", "0")


def test_control_characters_reach_no_terminal() -> None:
    page = explain("a\x1b[31m \u202eb")
    assert "\\x1b [ 3 1 m </w>" in page
    assert "\\u202e b </w>" in page
    assert not {"\x1b", "\u202e"} & set(page)


def test_colour_is_for_terminals_and_a_pipe_gets_plain_text() -> None:
    terminal = {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm", "NO_COLOR": None}
    assert "\x1b[1;32mes\x1b[0m" in explain("--words", TOY, "--merges", "1", environment=terminal)
    plain = explain("--words", TOY, "--merges", "1", environment=dict.fromkeys(terminal))
    assert "\x1b" not in plain
    assert not [line for line in plain.splitlines() if line != line.rstrip()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "there are no words to learn from"),
        ([" \n"], "there are no words to learn from"),
        (["--words", ""], "there are no words to learn from"),
        (["x </w>"], "the word '</w>' holds </w>"),
        (["a b", "--merges", "-1"], "the number of merges is -1; it must be 0 or more"),
        (["a b", "--vocab-size", "2"], "vocab_size is 2; it must be at least 3"),
        (
            ["a" * (MAX_CHARACTERS + 1)],
            "the text has 50,001 characters, and explain takes at most 50,000",
        ),
        (["a", "--words", "a:1"], "give one of the two"),
        (["--words", "low:5 lower"], "--words holds 'lower'"),
        (["--words", "low:many"], "--words holds 'low:many'"),
        (["--words", "low:" + "9" * 5000], "--words holds 'low:9999"),
        (["--words", "low:0"], "the word 'low' has the count 0"),
        (["--words", ":3"], "the word '' has the count 3"),
        (["a\udcff"], "lone surrogate"),
    ],
)
def test_a_mistake_is_one_line_and_a_failure(
    arguments: Sequence[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["puna", "tokenizer", "explain", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    assert isinstance(exited.value.code, str)  # Python prints it on standard error and exits with 1
    assert exited.value.code.startswith("error: ")
    assert message in exited.value.code
    assert "\n" not in exited.value.code
    assert len(exited.value.code) < 250


@pytest.mark.parametrize(
    "text",
    [
        "天地玄黄 天地玄 天地 玄黄",
        "\u0065\u0301te\u0301 \u0065\u0301te\u0301 ete\u0301s",
        "🦙🐪 🦙🐪🦙 🐪🦙 🐪🦙🐪",
    ],
    ids=["Chinese", "combining marks", "emoji"],
)
def test_columns_stand_below_their_headings_whatever_the_width_of_characters(text: str) -> None:
    """A terminal gives a wide character two cells and a combining mark none."""
    lines = explain(text, "--end", "none").splitlines()
    header = next(line for line in lines if line.startswith("merge  count"))
    rows = [line for line in lines if re.match(r" +\d+ +\d+  .* → \S+ +\S", line)]
    assert rows, "the first merge has rivals"
    column = header.index("next in line")
    for row in rows:
        joined = re.match(r"(.* → \S+ +)\S", row)
        assert joined is not None
        assert cell_len(joined[1]) == column


@pytest.mark.parametrize("option", ["--end", "--ties"])
def test_an_unknown_mode_is_rejected_by_the_command_line(option: str) -> None:
    assert CliRunner().invoke(app, ["explain", "a", option, "both"]).exit_code == 2


def test_its_help_has_examples_that_run() -> None:
    page = CliRunner().invoke(app, ["explain", "--help"], env={"COLUMNS": "120"}).output
    examples = re.findall(r"^ +puna tokenizer (explain .*?) *$", page, re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        command, _, file = example.partition("<")
        assert shown_merges(
            explain(*shlex.split(command)[1:], stdin=b"a small poem, " * 3 if file else b"")
        )


def test_the_documentation_shows_what_the_command_prints() -> None:
    shown = [
        (shlex.split(command)[3:], page)
        for command, page in read_page("docs/tokenizer.md").shown_with_output("sh", "text")
        if command.startswith("puna tokenizer explain ")
    ]
    assert len(shown) == 2
    for arguments, page in shown:
        assert explain(*arguments) == page
