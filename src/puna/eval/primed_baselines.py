"""Baselines that are primed: they have read the training text before the text that they are scored
on, as a model has. Three general-purpose compressors and an n-gram model.

    bits per byte = 8 * (size of both texts together - size of the training text) / text's bytes

Sizes are those of the compressed texts. A compressor learns from the text as it goes, too; the
n-gram model's counts come from the training text alone. The size of what was learnt is counted of
none of them, as it is not of a model.

Not here: the compressors that have read nothing, in compression.py. Costs about 1.3 s of one core
of an AMD EPYC and 40 MB of memory for each MB of both texts, on two threads.
"""

import lzma
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyppmd
import zstandard
from numpy.typing import NDArray

from puna.errors import DataError
from puna.eval.ngram import ngram_bits_per_byte
from puna.eval.training_text import TrainingText
from puna.tokenizer.tokenizer import Tokenizer

_NGRAM_ORDER = 5
_PPM_ORDER = 16  # the highest of variant I
_PPM_MEMORY = 2**29  # bytes, taken as the model grows: 240 MB for 12 MB of Python
_WORKERS = 2  # each holds up to 300 MB


@dataclass(frozen=True)
class PrimedBaselines:
    """Bits per byte of one text by baselines that have read training text first.

    bits_per_byte: by the baseline's name. read_bytes, all_bytes: UTF-8 bytes of the training text
    that they have read, and that there are. scored_bytes: UTF-8 bytes of the text.
    """

    bits_per_byte: dict[str, float]
    read_bytes: int
    all_bytes: int
    scored_bytes: int


def measure_primed_baselines(
    training: TrainingText, ids: NDArray[np.int64], tokenizer: Tokenizer
) -> PrimedBaselines:
    """The baselines' bits per byte on the text that ids [N] stand for, all but the first of them,
    which the n-gram model predicts from.

    Raises DataError for a text or a training text without bytes.
    """
    text = tokenizer.decode_bytes(ids[1:].tolist(), skip_special=True)
    for name, content in (("training text", training.content), ("text", text)):
        if not content:
            raise DataError(f"the {name} has 0 bytes, but baselines take 1 or more; give some")
    sizes: dict[str, Callable[[bytes, bytes], int]] = {
        "xz -9e": primed_xz_bytes,
        "zstd -22": primed_zstd_bytes,
        "PPMd": primed_ppm_bytes,
    }
    pool = ThreadPoolExecutor(_WORKERS)  # the compressors release the interpreter's lock
    try:
        found = {name: pool.submit(size, training.content, text) for name, size in sizes.items()}
        ngram = pool.submit(
            ngram_bits_per_byte, training.ids, ids, tokenizer.token_lengths(), _NGRAM_ORDER
        )
        levels = {name: 8 * size.result() / len(text) for name, size in found.items()}
        levels[f"{_NGRAM_ORDER}-gram"] = ngram.result()
    finally:  # an interruption waits for those at work alone
        pool.shutdown(cancel_futures=True)
    return PrimedBaselines(levels, len(training.content), training.all_bytes, len(text))


def primed_xz_bytes(training: bytes, text: bytes) -> int:
    """Bytes that LZMA with the settings of xz -9e, and a dictionary that holds both texts, adds for
    the text.

    Of both texts compressed as one, it is the part behind the point where a decoder has given back
    the training text: the difference of the sizes to within a few bytes (of a long training text, a
    few bytes in 256 KiB of it compressed), in half the time.
    """
    settings = {
        "id": lzma.FILTER_LZMA1,  # without LZMA2's chunks, which a decoder takes whole
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": max(2**12, len(training) + len(text)),
    }
    both = lzma.compress(training + text, format=lzma.FORMAT_RAW, filters=[settings])
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[settings])
    stride = 1 + len(both) // 2**18
    given = taken = 0
    while given < len(training):
        given += len(decoder.decompress(both[taken : taken + stride]))
        taken += stride
    return len(both) - min(taken, len(both))


def primed_zstd_bytes(training: bytes, text: bytes) -> int:
    """Bytes of `zstd --ultra -22` for the text, with the training text as a dictionary of raw
    content and a window that reaches all of it.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(
        22,
        source_size=len(text),
        dict_size=len(training),
        hash_log=22,  # the level's 25 gives equal bytes of 12 MB for 220 MB more of memory
    )
    dictionary = zstandard.ZstdCompressionDict(training, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    return len(compressor.compress(text))


def primed_ppm_bytes(training: bytes, text: bytes) -> int:
    """Bytes that PPMd var. I adds for the text: prediction by partial matching of order 16. Where
    its memory is full, it prunes its contexts (cut off).

    Source: Shkarin 2002, PPM: one step to practicality.
    """
    encoder = pyppmd.Ppmd8Encoder(_PPM_ORDER, _PPM_MEMORY, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    encoder.encode(training)
    return len(encoder.encode(text)) + len(encoder.flush(endmark=False))
