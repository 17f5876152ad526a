"""Numbers as a reader wants them: `33.7M`, `1 h 12 min`, `2025-11-21 00:11 UTC`. English, no
locale, no HTML.
"""

from datetime import UTC, datetime

SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def quantity(value: float, digits: int = 3, *, letters_from: float = 1e4) -> str:
    """That many significant digits with k, M, B (10^9) or T between `letters_from` and 10^15; else
    the number, `5,100`, `5e-5`.
    """
    if letters_from <= round(abs(value)) < 1e15:
        # 999,950 would round to 1000k: the scale is chosen from the rounded value.
        rounded = float(f"{value:.{digits}g}")
        scale, letter = next((scale, letter) for scale, letter in SCALES if abs(rounded) >= scale)
        return f"{rounded / scale:.{digits}g}{letter}"
    return (
        f"{value:,.0f}" if 100 <= abs(value) < 1e15 else f"{value:.{digits}g}".replace("e-0", "e-")
    )


def amount(value: float) -> str:
    """Four significant digits with M, B (10^9) or T from a million on, `203.8B`; below it the whole
    number, `82,432`.
    """
    return quantity(value, digits=4, letters_from=1e6)


def gigabytes(value: float) -> str:
    """Bytes in GB of 10^9, to three decimals: `26.954 GB`."""
    return f"{value / 1e9:,.3f} GB"


def part_in_megabytes(part: float, whole: float) -> str:
    """Bytes of a text in MB of 10^6, three significant digits: `all 11.7 MB`, `12 of 905 MB`."""
    read, everything = (quantity(value / 1e6, letters_from=1e15) for value in (part, whole))
    return f"all {read} MB" if part >= whole else f"{read} of {everything} MB"


def duration(seconds: float) -> str:
    """The two largest units that matter: `48 s`, `12 min 5 s`, `1 h 12 min`, `2 d 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def moment(text: str) -> str:
    """An ISO 8601 time to the minute, in UTC where it names a zone; any other text as it stands."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    if len(text) == len("2025-11-21"):
        return text
    if time.tzinfo is None:
        return f"{time:%Y-%m-%d %H:%M}"
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
