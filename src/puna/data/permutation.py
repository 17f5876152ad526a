"""A keyed permutation of [0, n) that stores nothing: every image is computed, whatever n is.

A Feistel network over pairs (left, right), left < a and right < b with a*b just above n: each round
adds a keyed hash of one half to the other, modulo its size, which is undone by subtracting and so
loses nothing. A result of n or more is sent through again ("cycle walking") until it falls below n;
fewer than one in sqrt(n) needs it. Luby and Rackoff 1988 for the network; Black and Rogaway 2002,
section 3, for the walk and the mixed radix.

What it is not: secret. Its output only has to be well mixed.

Cost: 0.4 us an index in batches of a thousand or more, 0.3 ms for a batch of a few (numpy's
overhead).
"""

import hashlib
import math

import numpy as np
import numpy.typing as npt

_ROUNDS = 6
# SplitMix64's finaliser (Steele et al. 2014)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def permute(positions: npt.NDArray[np.int64], n: int, key: str) -> npt.NDArray[np.int64]:
    """The images of positions [N] under the permutation of [0, n) that `key` names.

    The same key and n give the same permutation on every machine. Positions must be in [0, n).
    """
    # two halves of nearly equal size: a = ceil(sqrt(n)), b = ceil(n / a), so a*b - n < a
    left_size = math.isqrt(n - 1) + 1
    right_size = -(-n // left_size)
    digest = hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest()
    keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    images = _network(positions.astype(np.uint64), left_size, right_size, keys)
    # cycle walking ends: the network permutes [0, a*b), and each walk started below n
    while (outside := images >= n).any():
        images[outside] = _network(images[outside], left_size, right_size, keys)
    return images.astype(np.int64)


def _network(
    values: npt.NDArray[np.uint64], left_size: int, right_size: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    a, b = np.uint64(left_size), np.uint64(right_size)
    left, right = np.divmod(values, b)
    # sums below 2^33 for halves below 2^32: uint64 cannot overflow before the modulo
    for number in range(0, _ROUNDS, 2):
        left = (left + _mix(right ^ keys[number]) % a) % a
        right = (right + _mix(left ^ keys[number + 1]) % b) % b
    return left * b + right


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))
