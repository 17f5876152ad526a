"""Honest yardsticks: what general-purpose compressors make of the same bytes.

A model's size is not counted against it here, and a compressor learns from the held-out bytes as it
goes; neither is quite fair, both are what one has.
"""

import gzip
import lzma


def gzip_bits_per_byte(text: bytes) -> float:
    """gzip -9 of all the bytes in one piece."""
    return 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / len(text)


def xz_bits_per_byte(text: bytes) -> float:
    """xz -9 of all the bytes in one piece."""
    return 8 * len(lzma.compress(text, preset=9)) / len(text)
