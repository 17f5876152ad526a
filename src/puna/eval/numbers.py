"""Which part of a text is about numbers: what a tokenizer's treatment of digits is judged on."""

import numpy as np
from numpy.typing import NDArray

from puna.tokenizer.tokenizer import Tokenizer

_DIGITS = np.frombuffer(b"0123456789", dtype=np.uint8)
_LINE_END = ord("\n")


def on_lines_with_digits(ids: NDArray[np.int64], tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """For each id [N] of a text, whether the line in which its first byte lies holds an ASCII
    digit; False for special tokens.

    A token that spans a line's end belongs to the line that it ends, in every tokenizer, so that
    different ones are judged on the same lines up to the indentation that follows them.
    """
    lengths = tokenizer.token_lengths()[ids]
    text = np.frombuffer(tokenizer.decode_bytes(ids.tolist(), skip_special=True), dtype=np.uint8)
    line = (
        np.concatenate(([0], np.cumsum(text == _LINE_END)[:-1]))
        if len(text)
        else np.zeros(0, dtype=np.int64)
    )
    numeric = np.zeros(int(line[-1]) + 1 if len(line) else 0, dtype=bool)
    numeric[line[np.isin(text, _DIGITS)]] = True
    first_byte = np.cumsum(lengths) - lengths
    found = np.zeros(len(ids), dtype=bool)
    found[lengths > 0] = numeric[line[first_byte[lengths > 0]]]
    return found
