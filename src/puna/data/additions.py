"""The source `additions`: sums of two numbers, one a line, generated; and the sums that are kept
out of it, to ask a model for.

    additions               57+8=65           operands of 1 or 2 digits
    additions:4             5790+83=5873      operands of 1 to 4 digits
    additions:4:reversed    5790+83=3785      the same, the answer's lowest digit first

Each number of digits is as often as the others. The held-out sums are in no document, whichever
seed or order, and neither are their mirror images b + a: a model that answers one has not read it.

Source of the reversed form: Lee et al. 2023, Teaching Arithmetic to Small Transformers, section 3:
a digit of the sum depends on those below it, which come first there.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from puna.errors import DataError

ADDITIONS = "additions"
SHORT = 2
"""Digits of the operands where the source says no number."""
HELD_OUT = 10
"""Of the pairs of short operands one in so many is held out."""
SAMPLE = 1_000
"""Held-out pairs where operands may be longer."""
LINES = 25


@dataclass(frozen=True)
class Additions:
    """One form of the source. digits: of an operand at most; reversed: the answer is written with
    its lowest digit first.
    """

    digits: int = SHORT
    reversed: bool = False

    def __str__(self) -> str:
        """The source, as a recipe names it."""
        digits = "" if self.digits == SHORT else f":{self.digits}"
        return f"{ADDITIONS}{digits}{':reversed' if self.reversed else ''}"

    def documents(self) -> Iterator[str]:
        """The texts of the source, the same each time: 150 thousand sums (1.2 MB) of short
        operands, a million (13 MB with 4 digits) of longer ones.
        """
        generator = random.Random(ADDITIONS if self._short else f"{ADDITIONS}:{self.digits}")
        for _ in range(6_000 if self._short else 40_000):
            sums: list[str] = []
            while len(sums) < LINES:
                a, b = self._pair(generator)
                if not self.is_held_out(a, b):
                    sums.append(f"{a}+{b}={self.answer(a, b)}\n")
            yield "".join(sums)

    def answer(self, a: int, b: int) -> str:
        """The sum of a and b as the documents write it."""
        return str(a + b)[:: -1 if self.reversed else 1]

    def questions(self) -> list[tuple[str, str]]:
        """Each held-out sum as a document's beginning, and how the line goes on."""
        return [(f"{a}+{b}=", f"{self.answer(a, b)}\n") for a, b in self.held_out_pairs]

    @cached_property
    def held_out_pairs(self) -> list[tuple[int, int]]:
        """The pairs of operands to ask for: of short ones all that no document holds, about a
        thousand; else `SAMPLE` with a longer operand, drawn as the documents' are.
        """
        if self._short:
            operands = range(10**self.digits)
            return [(a, b) for a in operands for b in operands if self.is_held_out(a, b)]
        generator = random.Random(f"{ADDITIONS}:{self.digits} held out")
        pairs: dict[tuple[int, int], tuple[int, int]] = {}  # by the smaller and the larger
        while len(pairs) < SAMPLE:
            a, b = self._pair(generator)
            if max(a, b) >= 10**SHORT:
                pairs.setdefault((min(a, b), max(a, b)), (a, b))
        return list(pairs.values())

    def is_held_out(self, a: int, b: int) -> bool:
        """True where a + b is kept out of the documents. A pair and its mirror image go together,
        or b + a would tell a + b.
        """
        small, large = min(a, b), max(a, b)
        if self._short:
            return random.Random(small * 10**self.digits + large).randrange(HELD_OUT) == 0
        return (small, large) in self._kept_out

    @cached_property
    def _kept_out(self) -> frozenset[tuple[int, int]]:
        return frozenset((min(pair), max(pair)) for pair in self.held_out_pairs)

    @property
    def _short(self) -> bool:
        return self.digits <= SHORT

    def _pair(self, generator: random.Random) -> tuple[int, int]:
        return self._operand(generator), self._operand(generator)

    def _operand(self, generator: random.Random) -> int:
        digits = generator.randint(1, self.digits)
        return generator.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def read_additions(source: str) -> Additions | None:
    """The form that a source names; None for another source.

    Raises DataError for a form that does not exist.
    """
    if source != ADDITIONS and not source.startswith(f"{ADDITIONS}:"):
        return None
    found = re.fullmatch(rf"{ADDITIONS}(?::([2-9]))?(:reversed)?", source)
    if found is None:
        raise DataError(
            f"the source {source} is no form of {ADDITIONS}: write {ADDITIONS}, {ADDITIONS}:4 for"
            f" operands of up to 4 digits (2 to 9), or {ADDITIONS}:4:reversed for answers with"
            " their lowest digit first"
        )
    return Additions(int(found[1] or SHORT), found[2] is not None)
