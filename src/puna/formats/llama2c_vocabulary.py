"""llama2.c's `tokenizer.bin`: the longest length, then a score, a length and the bytes of each
token.

The file knows neither its own size nor roles: ids 0, 1 and 2 are <unk>, <s> and </s>, the next 256
are the bytes. It holds SentencePiece's BPE only, whose merging `run.c` has; a byte-level vocabulary
cannot be written.

Source: github.com/karpathy/llama2.c, tokenizer.py and run.c.
"""

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from puna.errors import TokenizerError
from puna.formats.sentencepiece_pieces import (
    SPACE,
    Piece,
    model_file,
    normal_piece,
    special_pieces,
)
from puna.tokenizer.tokenizer import Tokenizer

_MAX_PIECE = 512


def read_vocabulary(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a `tokenizer.bin` of this many tokens. Raises TokenizerError for a file of
    another size or form.
    """
    pieces = list(read_pieces(path, vocab_size))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.model"
        file.write_bytes(model_file(pieces))
        return Tokenizer.load(file)


def read_pieces(path: Path, vocab_size: int) -> Iterator[Piece]:
    """The pieces of a file, each checked against its end. Raises TokenizerError."""
    data, offset = path.read_bytes(), 4
    first = special_pieces()
    for id_ in range(vocab_size):
        score, length = (
            struct.unpack_from("<fi", data, offset) if offset + 8 <= len(data) else (0, -1)
        )
        offset += 8
        if not 0 < length <= min(_MAX_PIECE, len(data) - offset) or score != score:
            raise TokenizerError(
                f"{path} is no whole tokenizer.bin of {vocab_size} tokens: token {id_} has the"
                f" length {length} at byte {offset} of {len(data)}; copy it again"
            )
        try:
            text = data[offset : offset + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path}: token {id_} is no UTF-8 ({error})") from error
        offset += length
        if id_ < len(first):
            if text.strip() not in (first[id_].text, "<unk>"):
                raise TokenizerError(
                    f"{path}: token {id_} is {text!r} instead of {first[id_].text}; the file is of"
                    " another vocabulary than LLaMA's"
                )
            yield first[id_]
        else:
            yield normal_piece(text.replace(" ", SPACE), score)
    if offset != len(data):
        raise TokenizerError(
            f"{path} goes on for {len(data) - offset} bytes behind its {vocab_size} tokens: it"
            " belongs to another model"
        )


def write_pieces(path: Path, pieces: list[Piece]) -> None:
    """Write a `tokenizer.bin`; begin and end stand between line breaks, as run.c expects them."""
    texts = [piece.text.replace(SPACE, " ").encode("utf-8") for piece in pieces]
    texts[1:3] = [b"\n<s>\n", b"\n</s>\n"]
    with path.open("wb") as file:
        file.write(struct.pack("<I", max(map(len, texts))))
        for piece, text in zip(pieces, texts, strict=True):
            file.write(struct.pack("<fI", piece.score, len(text)) + text)
