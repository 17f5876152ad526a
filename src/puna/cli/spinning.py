"""Waiting threads of torch: the number of polls after which one gives up its core.

The threads of an operation meet at barriers, and one that is early polls until the last one is
there. Where another program has the core of that last one, polling keeps a core busy for nothing,
for up to a whole time slice at each of a step's hundreds of barriers. No torch here: the OpenMP
library reads its settings once, when torch is imported.

Fewer threads beside busy programs would help further, and are not chosen by load: sums are split by
threads, so results depend in their last digits on how many there are (with 3 in place of 2, 36 of
the 38 tensors of `puna-2m` differ after six steps), and a resumed run would not be exact.
"""

from collections.abc import MutableMapping

SPIN_COUNT = "1000"
"""Polls of a thread that waits for the others (libgomp's GOMP_SPINCOUNT, which is 300,000 by
default) before it sleeps until it is woken; `benchmarks/busy.py` compares values.
"""

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how threads wait, to libgomp and to Intel's and LLVM's OpenMP."""


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Set `SPIN_COUNT` in the environment of this process, which those that it starts inherit;
    where a user has said how threads wait (`SETTINGS`), nothing is changed. To be called before
    torch is imported.
    """
    if not any(name in environment for name in SETTINGS):
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT
