"""JSON from outside, read strictly: no key twice, no NaN, no number beyond a double, no half of
a surrogate pair.

Python's `json` accepts all of these, and the last of two equal keys silently replaces the first.
Not here: size, nesting, and the remedy, which the callers know.
"""

import json
import math
import re
from typing import Any

_SHOWN = 60
_HALF_OF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""Spelling that every text with a lone surrogate holds, and few others."""


class LoneSurrogateError(ValueError):
    """A text holds half of a surrogate pair, which is no character."""


def parse(text: str, *, whole_numbers: bool = False, max_keys: int | None = None) -> Any:
    """The value of a JSON text. Raises ValueError with the reason, RecursionError for too deep a
    nesting.

    whole_numbers: a number such as 2.0 is read as 2, the same in JSON. max_keys: of one object.
    """

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if max_keys is not None and len(pairs) > max_keys:
            raise ValueError(f"an object has {len(pairs)} keys, more than {max_keys}")
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key[:_SHOWN]!r} stands twice in an object")
            found[key] = value
        return found

    def read_number(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            raise ValueError(f"{digits[:_SHOWN]} is more than a double holds")
        is_whole = whole_numbers and number.is_integer() and abs(number) < 2**53
        return int(number) if is_whole else number

    value = json.loads(
        text,
        object_pairs_hook=read_object,
        parse_constant=_reject_constant,
        parse_float=read_number,
    )
    if _HALF_OF_A_PAIR.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise LoneSurrogateError("a text holds half of a surrogate pair") from None
    return value


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")
