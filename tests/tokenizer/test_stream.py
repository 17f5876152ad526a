"""Streamed text: never half a character, and all of it in the end."""

from hypothesis import given
from hypothesis import strategies as st

from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_pieces_of_a_text_join_to_it_without_replacement(tokenizer: Tokenizer, text: str) -> None:
    stream = StreamDecoder(tokenizer)
    pieces = [stream.feed(id_) for id_ in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert stream.flush() == ""


@given(ids=st.lists(st.integers(0, 999), max_size=60), skip_special=st.booleans())
def test_pieces_of_any_ids_join_to_the_decoded_whole(
    tokenizer: Tokenizer, ids: list[int], skip_special: bool
) -> None:
    stream = StreamDecoder(tokenizer, skip_special)
    pieces = [stream.feed(id_) for id_ in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids, skip_special)


def test_half_a_character_is_held_back_and_flushed_as_a_replacement(tokenizer: Tokenizer) -> None:
    single = {tokenizer.token_bytes(id_): id_ for id_ in range(256)}
    euro = [single[bytes([byte])] for byte in "€".encode()]
    stream = StreamDecoder(tokenizer)
    assert [stream.feed(id_) for id_ in euro] == ["", "", "€"]
    assert stream.feed(euro[0]) == ""
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"
    assert stream.feed(single[b"a"]) == "a"
