"""Text from token ids one at a time, never half a character.

A token may end inside a character ("é" is two bytes, an emoji four), so decoding ids one by one
shows U+FFFD where the whole would read well. `StreamDecoder` holds the unfinished bytes back until
the rest arrives. It does not stop at an end token and knows no requests; the engine does.
"""

from puna.tokenizer.decoding import unknown_id
from puna.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Ids in, text out: the pieces of `feed`, and then `flush`, join to exactly `tokenizer.decode`
    of all ids.

    At most three bytes are held back in a byte-level vocabulary; in one with byte fallback a run of
    byte tokens, since one wrong byte makes U+FFFD of all of it. One decoder serves one stream; the
    usual mistake is to share one between requests.
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_special: bool = False, *, inside_text: bool = False
    ) -> None:
        """inside_text: the ids continue other text, so that a space in front of them is one; the
        pieces then join to `tokenizer.decode(ids, inside_text=True)`.
        """
        self._joiner = tokenizer.joiner(skip_special, inside_text=inside_text)
        self._vocab_size = tokenizer.vocab_size

    def feed(self, token_id: int) -> str:
        """Take one id and return the text that is now certain, often "" inside a character; unknown
        ids raise TokenizerError.
        """
        if not 0 <= token_id < self._vocab_size:
            raise unknown_id(token_id, self._vocab_size)
        return self._joiner.feed(token_id)

    def flush(self) -> str:
        """Return what is held back, as U+FFFD where it never became a character, and be ready for a
        new stream.
        """
        return self._joiner.flush()
