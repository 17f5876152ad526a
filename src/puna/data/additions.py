"""The source `additions`: sums of two numbers, one a line, generated; and the sums that are kept
out of it, to ask a model for.

    57+8=65

Operands have 1 to `DIGITS` digits, each number of digits as often as the others. One pair in
`HELD_OUT` is in no document, whichever seed or order: a model that answers it has not read it.
"""

import random
from collections.abc import Iterator

ADDITIONS = "additions"
DIGITS = 2
HELD_OUT = 10
DOCUMENTS, LINES = 6_000, 25  # 150 thousand sums, 1.2 MB


def documents() -> Iterator[str]:
    """The texts of the source, the same each time."""
    generator = random.Random(ADDITIONS)
    for _ in range(DOCUMENTS):
        sums: list[str] = []
        while len(sums) < LINES:
            a, b = _operand(generator), _operand(generator)
            if not is_held_out(a, b):
                sums.append(f"{a}+{b}={a + b}\n")
        yield "".join(sums)


def held_out_pairs() -> list[tuple[int, int]]:
    """All pairs of operands that no document holds: about a thousand."""
    operands = range(10**DIGITS)
    return [(a, b) for a in operands for b in operands if is_held_out(a, b)]


def is_held_out(a: int, b: int) -> bool:
    """True where a + b is kept out of the documents. A pair and its mirror image go together, or
    b + a would tell a + b.
    """
    return random.Random(min(a, b) * 10**DIGITS + max(a, b)).randrange(HELD_OUT) == 0


def _operand(generator: random.Random) -> int:
    digits = generator.randint(1, DIGITS)
    return generator.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
