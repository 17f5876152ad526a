"""The texts that models are scored on, as ids."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.data.shards import open_split
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer


def held_out_tokens(folder: Path, tokenizer: Tokenizer, limit: int) -> NDArray[np.int64]:
    """Up to `limit` ids of the validation split of a prepared folder. Raises DataError when another
    tokenizer made it.
    """
    stream = open_split(folder, "validation")
    if stream.manifest.inputs.tokenizer_hash != tokenizer.hash:
        raise DataError(
            f"{folder} was prepared with another tokenizer than the model's: prepare it again with"
            " --tokenizer MODEL, or score --text"
        )
    return stream.read(0, min(limit, stream.num_tokens))


def text_tokens(path: Path, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """A text file as one document: the begin token, then its ids."""
    try:
        text = path.read_bytes().decode("utf-8")  # not read_text, which turns \r\n into \n
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it first"
        ) from error
    if not text:
        raise DataError(f"{path} is empty")
    return np.array(tokenizer.encode_document(text), dtype=np.int64)
