"""From events to text: whole characters, ends that are no text, stop texts that are never let
out.
"""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.inference.detokenizer import Detokenizer
from puna.inference.language_model import LanguageModel
from puna.inference.request import Event, Finish
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: LanguageModel) -> Tokenizer:
    return tiny_llama.tokenizer


def event(ids: list[int], finish: Finish | None = None) -> Event:
    return Event("r", ids=tuple(ids), finish=finish)


def test_text_is_let_out_when_it_is_certain(tokenizer: Tokenizer) -> None:
    detokenizer, ids = Detokenizer(tokenizer), tokenizer.encode("a🦙b")
    pieces = [detokenizer.feed(event([id_])) for id_ in ids] + [
        detokenizer.feed(event([], "length"))
    ]
    assert "".join(pieces) == detokenizer.text == "a🦙b"
    assert all(piece in ("", "a", "🦙", "🦙b", "b", "a🦙b") for piece in pieces), (
        "never half a llama"
    )
    assert (detokenizer.ids, detokenizer.finish) == (ids, "length")


def test_an_answer_keeps_the_space_in_front_of_it() -> None:
    """A vocabulary such as LLaMA 2's drops the space in front of a text, and an answer is none."""
    content = {
        "added_tokens": [],
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {"type": "BPE", "vocab": {"▁a": 0, "b": 1}, "merges": []},
    }
    tokenizer = Tokenizer(json.dumps(content))
    assert Detokenizer(tokenizer).feed(event([0, 1, 0])) == " ab a"
    assert Detokenizer(tokenizer, opens_text=True).feed(event([0, 1, 0])) == "ab a"


def test_an_end_token_is_an_id_and_no_text(tokenizer: Tokenizer) -> None:
    detokenizer, ids = Detokenizer(tokenizer), tokenizer.encode("the llama")
    assert detokenizer.feed(event([*ids, ids[0]], "stop")) == "the llama"
    assert (detokenizer.ids, detokenizer.finish) == ([*ids, ids[0]], "stop")


def test_half_a_character_at_the_end_shows(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    half = next(id_ for id_ in range(tokenizer.vocab_size) if tokenizer.token_bytes(id_) == b"\xf0")
    assert detokenizer.feed(event([half])) == ""
    assert detokenizer.feed(event([], "length")) == "�"


def test_what_only_began_like_a_stop_text_is_given_in_the_end(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, ["river flows"])
    assert detokenizer.feed(event(tokenizer.encode("old river"))) == "old "
    assert detokenizer.feed(event([], "length")) == "river"


def test_a_stop_text_that_half_a_character_completes(tokenizer: Tokenizer) -> None:
    half = next(id_ for id_ in range(tokenizer.vocab_size) if tokenizer.token_bytes(id_) == b"\xf0")
    detokenizer = Detokenizer(tokenizer, ["�"])
    detokenizer.feed(event([*tokenizer.encode("is"), half]))
    assert detokenizer.finish is None
    detokenizer.feed(event([], "length"))
    assert (detokenizer.text, detokenizer.finish) == ("is", "stop")


@given(data=st.data())
def test_cuts_change_nothing(data: st.DataObject, tiny_llama: LanguageModel) -> None:
    """However tokens are dealt out to events, the text is the one before the first stop text to be
    complete.
    """
    tokenizer = tiny_llama.tokenizer
    text = data.draw(st.text("ab llamériver🦙", max_size=30))
    stops = data.draw(st.lists(st.text("ab lé🦙", min_size=1, max_size=3), max_size=3))
    ids = tokenizer.encode(text)
    one_by_one, detokenizer = Detokenizer(tokenizer, stops), Detokenizer(tokenizer, stops)
    pieces, given = [], 0
    while given < len(ids):
        count = data.draw(st.integers(1, len(ids) - given))
        pieces.append(detokenizer.feed(event(ids[given : given + count])))
        given += count
    pieces.append(detokenizer.feed(event([], "length")))
    for id_ in ids:
        one_by_one.feed(event([id_]))
    one_by_one.feed(event([], "length"))
    assert (detokenizer.text, detokenizer.ids, detokenizer.finish) == (
        one_by_one.text,
        one_by_one.ids,
        one_by_one.finish,
    )
    assert "".join(pieces) == detokenizer.text
    assert text.startswith(detokenizer.text)
    assert not any(stop in detokenizer.text for stop in stops)
    assert (detokenizer.finish == "stop") == any(stop in text for stop in stops)
    if detokenizer.finish == "length":
        assert detokenizer.text == text


@given(text=st.text(alphabet="ab é🦙", max_size=12), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_offsets_are_those_of_decoding_alone(
    tokenizer: Tokenizer, text: str, cuts: list[int]
) -> None:
    """However the ids come, and whatever is held back for a stop text; an end token has none."""
    ids = tokenizer.encode(text)
    decoder, expected, characters = StreamDecoder(tokenizer), [], 0
    for id_ in ids:
        expected.append(characters)
        characters += len(decoder.feed(id_))
    detokenizer = Detokenizer(tokenizer, ["a🦙 never"])
    ends = sorted({0, len(ids), *(cut % (len(ids) + 1) for cut in cuts)})
    for begin, end in pairwise(ends):
        detokenizer.feed(event(ids[begin:end]))
    detokenizer.feed(event([tokenizer.eos_id], "stop"))
    assert detokenizer.offsets == expected
    assert len(detokenizer.ids) == len(ids) + 1
