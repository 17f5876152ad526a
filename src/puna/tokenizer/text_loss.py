"""A sentence on the texts that a vocabulary does not give back, found by trying.

Each probe is encoded and decoded, since normalizers, pre-tokenizers and decoders lose text in more
ways than can be read from their settings.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from puna.errors import TokenizerError

PROBES: Mapping[str, str] = MappingProxyType(
    {
        "the beginning of a text": "a",
        "a space at the beginning": " a",
        "a space at the end": "a ",
        "several spaces": "a    a",
        "line breaks and tabs": "a\r\n\n\ta",
        "control characters": "a\x01\x7fa",
        "capital letters": "aAa",
        "an accent as a character of its own": "ae\u0301",
        "compatibility characters such as the ligature U+FB01": "a\ufb01a",
        "the character U+2581": "a\u2581a",
        "Chinese characters": "a\u6771\u9f98a",
        "emoji": "a\U0001f999a",
    }
)
"""A property of texts, and a text that has it; the letter a alone comes first."""


def describe_loss(round_trip: Callable[[str], str], missing: bytes, proven: bool) -> str | None:
    """The losses of `round_trip` (encode, then decode) as a sentence, or None.

    missing: bytes without a token, whose text is rejected. proven: True where nothing else can be
    lost, so that nothing need be tried.
    """
    found = []
    if missing:
        shown = ", ".join(f"0x{byte:02X}" for byte in missing[:10])
        more = f" and {len(missing) - 10} others" if len(missing) > 10 else ""
        found.append(f"it rejects text with the bytes {shown}{more}, which have no token")
    if not proven:
        lost = [name for name, text in PROBES.items() if not _comes_back(round_trip, text)]
        if lost:
            found.append(f"decoding does not give back {', '.join(lost)}")
    return f"this tokenizer loses text: {'; '.join(found)}" if found else None


def _comes_back(round_trip: Callable[[str], str], text: str) -> bool:
    """True also for a text that is rejected, which is no silent loss."""
    try:
        return round_trip(text) == text
    except TokenizerError:
        return True
