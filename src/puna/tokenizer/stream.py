"""Text from token ids one at a time, never half a character.

A byte-level token may end inside a character ("é" is two bytes, an emoji four), so decoding ids one
by one shows U+FFFD where the whole would read well. `StreamDecoder` holds the unfinished bytes back
until the rest arrives. It does not stop at an end token and knows no requests; the engine does.
"""

import codecs

from puna.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Ids in, text out: the pieces of `feed`, and then `flush`, join to exactly `tokenizer.decode`
    of all ids.

    At most three bytes are held back. One decoder serves one stream; the usual mistake is to share
    one between requests.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """Take one id and return the text that is now certain, often "" inside a character; unknown
        ids raise TokenizerError.
        """
        return self._utf8.decode(self._tokenizer.decode_bytes([token_id], self._skip_special))

    def flush(self) -> str:
        """Return what is held back, as U+FFFD since it never became a character, and be ready for a
        new stream.
        """
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
