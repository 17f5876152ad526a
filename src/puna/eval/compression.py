"""Compression baselines: bits per byte of general-purpose compressors on the same text.

They flatter neither side: a model's size is not counted against it, and a compressor adapts to the
validation text as it goes.
"""

import gzip
import lzma


def gzip_bits_per_byte(text: bytes) -> float:
    """gzip -9 of all the bytes in one piece."""
    return 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / len(text)


def xz_bits_per_byte(text: bytes) -> float:
    """xz -9 of all the bytes in one piece."""
    return 8 * len(lzma.compress(text, preset=9)) / len(text)
