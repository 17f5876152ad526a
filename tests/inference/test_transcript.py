"""From events to text: whole characters, ends that are no text, stop texts that are never let
out.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.inference.language_model import LanguageModel
from puna.inference.request import Event, Finish
from puna.inference.transcript import Transcript
from puna.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: LanguageModel) -> Tokenizer:
    return tiny_llama.tokenizer


def event(ids: list[int], finish: Finish | None = None) -> Event:
    return Event("r", ids=tuple(ids), finish=finish)


def test_text_is_let_out_when_it_is_certain(tokenizer: Tokenizer) -> None:
    transcript, ids = Transcript(tokenizer), tokenizer.encode("a🦙b")
    pieces = [transcript.feed(event([id_])) for id_ in ids] + [transcript.feed(event([], "length"))]
    assert "".join(pieces) == transcript.text == "a🦙b"
    assert all(piece in ("", "a", "🦙", "🦙b", "b", "a🦙b") for piece in pieces), (
        "never half a llama"
    )
    assert (transcript.ids, transcript.finish) == (ids, "length")


def test_an_end_token_is_an_id_and_no_text(tokenizer: Tokenizer) -> None:
    transcript, ids = Transcript(tokenizer), tokenizer.encode("the llama")
    assert transcript.feed(event([*ids, ids[0]], "stop")) == "the llama"
    assert (transcript.ids, transcript.finish) == ([*ids, ids[0]], "stop")


def test_half_a_character_at_the_end_shows(tokenizer: Tokenizer) -> None:
    transcript = Transcript(tokenizer)
    half = next(id_ for id_ in range(tokenizer.vocab_size) if tokenizer.token_bytes(id_) == b"\xf0")
    assert transcript.feed(event([half])) == ""
    assert transcript.feed(event([], "length")) == "�"


def test_what_only_began_like_a_stop_text_is_given_in_the_end(tokenizer: Tokenizer) -> None:
    transcript = Transcript(tokenizer, ["river flows"])
    assert transcript.feed(event(tokenizer.encode("old river"))) == "old "
    assert transcript.feed(event([], "length")) == "river"


def test_a_stop_text_that_half_a_character_completes(tokenizer: Tokenizer) -> None:
    half = next(id_ for id_ in range(tokenizer.vocab_size) if tokenizer.token_bytes(id_) == b"\xf0")
    transcript = Transcript(tokenizer, ["�"])
    transcript.feed(event([*tokenizer.encode("is"), half]))
    assert transcript.finish is None
    transcript.feed(event([], "length"))
    assert (transcript.text, transcript.finish) == ("is", "stop")


@given(data=st.data())
def test_cuts_change_nothing(data: st.DataObject, tiny_llama: LanguageModel) -> None:
    """However tokens are dealt out to events, the text is the one before the first stop text to be
    complete.
    """
    tokenizer = tiny_llama.tokenizer
    text = data.draw(st.text("ab llamériver🦙", max_size=30))
    stops = data.draw(st.lists(st.text("ab lé🦙", min_size=1, max_size=3), max_size=3))
    ids = tokenizer.encode(text)
    one_by_one, transcript = Transcript(tokenizer, stops), Transcript(tokenizer, stops)
    pieces, given = [], 0
    while given < len(ids):
        count = data.draw(st.integers(1, len(ids) - given))
        pieces.append(transcript.feed(event(ids[given : given + count])))
        given += count
    pieces.append(transcript.feed(event([], "length")))
    for id_ in ids:
        one_by_one.feed(event([id_]))
    one_by_one.feed(event([], "length"))
    assert (transcript.text, transcript.ids, transcript.finish) == (
        one_by_one.text,
        one_by_one.ids,
        one_by_one.finish,
    )
    assert "".join(pieces) == transcript.text
    assert text.startswith(transcript.text)
    assert not any(stop in transcript.text for stop in stops)
    assert (transcript.finish == "stop") == any(stop in text for stop in stops)
    if transcript.finish == "length":
        assert transcript.text == text
