"""Masks against listed languages, end tokens, rewinding, regexes, grammars, threads.

What a schema may say stands in `test_json_schema.py`, what a constraint may cost in
`test_constraint_limits.py`; `test_random_schemas.py` holds drawn texts against drawn schemas.
"""

import json
import random
import re
import subprocess
import sys
import threading

import pytest
import tokenizers
from constraints import (
    BY_BYTES,
    BY_PIECES,
    BYTES,
    EXTRA,
    PIECES,
    accepts,
    allowed_ids,
    drawn,
    grammar,
    regex,
    schema,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from puna.errors import RequestError
from puna.inference.constrain import ConstraintCompiler, check
from puna.inference.request import Constraint
from puna.tokenizer.tokenizer import Tokenizer

ARITHMETIC = r"""
# a comment with "quotes" and <|end_of_text|>
start: sum
sum: sum "+" product | sum "-" product | product  // left-recursive
product: product "*" atom | atom
atom: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]{0,3}/
"""


# What is allowed


@pytest.mark.parametrize(
    ("constraint", "language"),
    [
        (regex("a|ab|abc"), ["a", "ab", "abc"]),
        (regex("(ab)?c{0,2}"), ["", "ab", "c", "cc", "abc", "abcc"]),
        (regex("é|日本|🦙"), ["é", "日本", "🦙"]),
        (
            schema({"enum": ["a", "é", 1, 12, None, True, [], {"k": 2}]}),
            ['"a"', '"é"', "1", "12", "null", "true", "[]", '{"k":2}', '{"k": 2}'],
        ),
        (schema({"const": 'say "\\"\n'}), [r'"say \"\\\"\n"']),
        (
            schema({"type": "integer", "minimum": -1, "maximum": 12}),
            [str(n) for n in range(-1, 13)] + ["-0"],
        ),
        (
            schema({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}),
            [
                "[]",
                *(f"[{a}]" for a in "12"),
                *(f"[{a}{c}{b}]" for a in "12" for b in "12" for c in (",", ", ")),
            ],
        ),
        (grammar('start: "a" tail?\ntail: "b" | "c" "d"'), ["a", "ab", "acd"]),
        (
            grammar('start: x{2,3}\nx: "a" | /b/'),
            [
                first + second + third
                for first in "ab"
                for second in "ab"
                for third in ("", "a", "b")
            ],
        ),
    ],
)
def test_exactly_the_bytes_that_go_on_are_allowed_and_the_ends_where_the_text_may_end(
    constraint: Constraint, language: list[str]
) -> None:
    """Every prefix of a listed language: the mask is the set of next bytes, and the end tokens
    where a word is whole.
    """
    words = {word.encode() for word in language}
    ids = {BYTES.token_bytes(id_)[0]: id_ for id_ in range(256)}
    for word in words:
        matcher = BY_BYTES.compile(constraint)
        for length in range(len(word) + 1):
            prefix = word[:length]
            expected = {
                ids[other[length]]
                for other in words
                if other.startswith(prefix) and len(other) > length
            }
            assert allowed_ids(matcher) == expected | (
                BYTES.end_ids if prefix in words else set()
            ), prefix
            assert matcher.finished == (not expected)
            if length < len(word):
                assert matcher.accept(ids[word[length]])


def test_the_rest_of_the_vocabulary_is_never_allowed() -> None:
    """Special tokens that end nothing, and the model's ids beyond the tokenizer's, under a
    constraint that lets every text through.
    """
    matcher = BY_PIECES.compile(regex("(?s).*"))
    assert matcher.allowed().shape == (PIECES.vocab_size + EXTRA,)
    text = {id_ for id_ in range(PIECES.vocab_size) if PIECES.token_bytes(id_)}
    # of UTF-8
    starts = {
        id_
        for id_ in text
        if PIECES.token_bytes(id_)[0] < 0x80 or 0xC2 <= PIECES.token_bytes(id_)[0] <= 0xF4
    }
    assert allowed_ids(matcher) == starts | PIECES.end_ids


def test_whoever_compiles_says_what_ends_a_text() -> None:
    matcher = BY_PIECES.compile(regex("a"), ends=[7])
    assert allowed_ids(matcher) == set(PIECES.encode("a"))
    assert matcher.accept(*PIECES.encode("a"))
    assert matcher.finished
    assert allowed_ids(matcher) == {7}
    matcher = BY_PIECES.compile(regex("a"), ends=[])
    matcher.accept(*PIECES.encode("a"))
    assert matcher.finished
    assert not allowed_ids(matcher)


def test_a_copy_goes_its_own_way() -> None:
    """The n sequences of a request share one compilation."""
    one = BY_BYTES.compile(regex("ab|cd"))
    other = one.copy()
    a, b, c, d = BYTES.encode("abcd")
    assert one.accept(a)
    assert allowed_ids(one) == {b}
    assert allowed_ids(other) == {a, c}
    assert other.accept(c)
    assert allowed_ids(other) == {d}
    assert one.accept(b)
    assert one.accept(BYTES.eos_id)
    assert other.accept(d)
    assert other.accept(BYTES.eos_id)


def test_a_text_that_may_be_empty_may_end_at_once() -> None:
    matcher = BY_PIECES.compile(regex(""))
    assert matcher.finished
    assert allowed_ids(matcher) == PIECES.end_ids


def test_after_an_end_token_only_end_tokens_follow_and_it_can_be_taken_back() -> None:
    matcher = BY_PIECES.compile(regex("a*"))
    before = allowed_ids(matcher)
    assert not matcher.finished
    assert matcher.accept(PIECES.eos_id)
    assert matcher.finished
    assert allowed_ids(matcher) == PIECES.end_ids
    matcher.rewind(1)
    assert not matcher.finished
    assert allowed_ids(matcher) == before


def test_a_token_that_is_not_allowed_changes_nothing() -> None:
    matcher = BY_PIECES.compile(schema({"type": "boolean"}))
    before = allowed_ids(matcher)
    for token in (*set(range(PIECES.vocab_size + EXTRA)) - before, -1, 10**6):
        assert not matcher.accept(token)
    assert allowed_ids(matcher) == before


def test_where_there_is_no_choice_the_text_is_cut_as_the_tokenizer_cuts_it() -> None:
    """The model has seen the usual spelling of a text, so a forced one is spelled so."""
    text = '"item 12345"'
    matcher = BY_PIECES.compile(schema({"const": "item 12345"}))
    ids = []
    while not matcher.finished:
        ids += allowed_ids(matcher)
        assert matcher.accept(ids[-1])
    assert ids == PIECES.encode(text)


def test_a_text_that_a_normalizer_would_change_is_forced_as_it_is() -> None:
    """Qwen's tokenizer composes accents. A constant with a bare accent must come out as it is
    written.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the café, the the café"], trainer)
    backend.add_tokens(["<think>"])
    tokenizer = Tokenizer.from_json(backend.to_str())
    matcher = ConstraintCompiler(tokenizer, tokenizer.vocab_size).compile(
        schema({"const": "cafe\u0301<think>"})
    )
    ids = list(drawn(matcher, random.Random(0), 50))
    assert tokenizer.decode_bytes(ids).decode() == '"cafe\u0301<think>"'
    assert allowed_ids(matcher) == {tokenizer.eos_id}


def test_a_space_that_a_vocabulary_puts_before_texts_is_not_forced() -> None:
    """LLaMA 2's kind. Forced text is spelled in its pieces, not in single bytes."""
    pieces = ["a", "b", "\u2581", '"', "ab", "abab"]
    content = {
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "vocab": {
                piece: id_
                for id_, piece in enumerate([*pieces, *(f"<0x{byte:02X}>" for byte in range(256))])
            },
            "merges": [["a", "b"], ["ab", "ab"]],
        },
    }
    tokenizer = Tokenizer(json.dumps(content), end_ids=[200])
    matcher = ConstraintCompiler(tokenizer, tokenizer.vocab_size).compile(
        schema({"const": "abab a\u00e9"})
    )
    ids = list(drawn(matcher, random.Random(0), 50))
    assert ids[:4] == [3, 5, 2, 0]
    assert tokenizer.decode(ids, inside_text=True) == '"abab a\u00e9"'


# Going back


@given(data=st.data())
@settings(max_examples=150)
def test_after_going_back_everything_is_as_if_one_had_never_gone_on(data: st.DataObject) -> None:
    """k tokens on, j back, and on again: the masks are those of a fresh matcher with the same
    text.
    """
    constraint = data.draw(
        st.sampled_from(
            [
                schema({}),
                schema(
                    {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "maxLength": 5},
                            "values": {"type": "array"},
                        },
                    }
                ),
                schema({"enum": ["item 1", "item 2", "item 21", 7]}),
                regex("(ab|cd)*e?"),
                grammar(ARITHMETIC),
                grammar('start: head "name" NUMBER\nhead[lazy]: /(?s:.*)item/\nNUMBER: /[0-9]+/'),
                grammar('start: head %json {"type": "integer"}\nhead[suffix=":"]: /[a-z]*/'),
            ]
        )
    )
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    matcher = BY_PIECES.compile(constraint)
    tokens: list[int] = []
    for _ in range(3):
        tokens += drawn(matcher, rng, rng.randint(0, 12))
        back = rng.randint(0, len(tokens))
        matcher.rewind(back)
        tokens = tokens[: len(tokens) - back]
        fresh = BY_PIECES.compile(constraint)
        assert all(fresh.accept(token) for token in tokens)
        assert allowed_ids(matcher) == allowed_ids(fresh)
        assert matcher.finished == fresh.finished
        assert len(PIECES.end_ids & allowed_ids(matcher)) in (0, 3)


# Regexes and grammars


@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Z][a-z]{2,5}( [0-9]+)?",
        r"(foo|bar){1,3}\.",
        r"^[^\n\"]{3}$",
        r"[0-9]{4}-[0-9]{2}",
        r"a/b\/c",
        "é+x",
        "(?i:yes|no)",
    ],
)
def test_drawn_texts_match_the_regex(pattern: str) -> None:
    for seed in range(20):
        matcher = BY_PIECES.compile(regex(pattern))
        text = PIECES.decode(drawn(matcher, random.Random(seed), 40), skip_special=True)
        if matcher.finished:
            assert re.fullmatch(pattern, text), text


def test_drawn_texts_follow_the_grammar() -> None:
    """Sums as Python reads them too."""
    finished = 0
    for seed in range(40):
        matcher = BY_PIECES.compile(grammar(ARITHMETIC))
        text = PIECES.decode(drawn(matcher, random.Random(seed), 60), skip_special=True)
        if matcher.finished:
            assert isinstance(eval(text), int)
            finished += 1
    assert finished > 10


def test_a_schema_inside_a_grammar_is_read_like_any_other() -> None:
    constraint = grammar('start: "x=" value\nvalue: %json {"type": "integer", "title": "n"} ";"')
    assert accepts(constraint, "x=12;")
    assert not accepts(constraint, "x=1.5;")
    with pytest.raises(RequestError, match="`not` is not enforced"):
        check(grammar('start: %json {"not": {}}'))


# Where it runs


def test_checking_and_compiling_import_no_torch() -> None:
    program = """
import sys
from puna.inference.constrain import ConstraintCompiler, check
from puna.inference.request import Constraint
from puna.tokenizer.tokenizer import Tokenizer
constraint = Constraint(kind="json_schema", text='{"type": "null"}')
check(constraint)
ConstraintCompiler(Tokenizer.train(["a"], 264), 264).compile(constraint).accept(0)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0


def test_threads_may_share_a_compiler() -> None:
    texts: dict[int, list[int]] = {}

    def draw(number: int) -> None:
        matcher = BY_PIECES.compile(
            schema({"type": "array", "items": {"const": "item 12"}, "minItems": 3, "maxItems": 3})
        )
        texts[number] = list(drawn(matcher, random.Random(7), 60))

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8
    assert all(text == texts[0] for text in texts.values())
    assert json.loads(PIECES.decode(texts[0], skip_special=True)) == ["item 12"] * 3
