"""Q4_K and Q6_K: float32 rows to blocks of 256 values, which the `gguf` package can read but not
write.

    Q4_K   x ~ d s q - m t     q of 4 bits; s, t of 6 bits each for 32 values; d, m float16 for 256
    Q6_K   x ~ d s (q - 32)    q of 6 bits; s of 8 bits for 16 values; d float16 for 256

Each group's scale is sought among some twenty, and given by least squares for the q that it
rounds to; errors count more where values are large. About 10 MB of float32 a second and core.

Source: ggml's ggml-quants.c (quantize_row_q4_K_ref, quantize_row_q6_K_ref) for the search and the
layout of the bits, here in numpy over all blocks at once.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK = 256
_BLOCKS_AT_ONCE = 1 << 12  # blocks of a step: 4 MB, and a dozen times as much beside it


def quantize_q4_k(rows: Floats) -> Bytes:
    """Rows [n, m] with m a multiple of 256 as uint8 [n, m / 256 * 144]."""
    return _in_steps(rows, _q4_k_blocks)


def quantize_q6_k(rows: Floats) -> Bytes:
    """Rows [n, m] with m a multiple of 256 as uint8 [n, m / 256 * 210]."""
    return _in_steps(rows, _q6_k_blocks)


def _in_steps(rows: Floats, quantize: Callable[[Floats], Bytes]) -> Bytes:
    blocks = rows.reshape(-1, BLOCK)
    parts = [
        quantize(blocks[start : start + _BLOCKS_AT_ONCE])
        for start in range(0, len(blocks), _BLOCKS_AT_ONCE)
    ]
    return np.concatenate(parts).reshape(len(rows), -1)


def _rounded(x: Floats, low: int, high: int) -> Floats:
    return np.clip(np.rint(x), low, high).astype(np.float32, copy=False)


def _inverse(x: Floats) -> Floats:
    """1 / x, and 0 for 0."""
    return np.divide(1, x, out=np.zeros_like(x), where=x != 0)


def _q4_k_blocks(blocks: Floats) -> Bytes:
    x = blocks.reshape(-1, 8, 32)
    scales, minima = _scales_and_minima(x)
    d = (scales.max(-1, keepdims=True) / 63).astype(np.float16)
    m = (minima.max(-1, keepdims=True) / 63).astype(np.float16)
    # the six bits count in the rounded float16, as the reader's do
    s = _rounded(scales * _inverse(d.astype(np.float32)), 0, 63)
    t = _rounded(minima * _inverse(m.astype(np.float32)), 0, 63)
    step, below = (d * s)[..., None], (m * t)[..., None]
    q = _rounded((x + below) * _inverse(step), 0, 15).astype(np.uint8)
    packed = np.concatenate([q[:, 0::2] | q[:, 1::2] << 4], axis=1).reshape(len(x), 128)
    return np.concatenate(
        [d.view(np.uint8), m.view(np.uint8), _packed_six_bits(s, t), packed], axis=1
    )


def _packed_six_bits(s: Floats, t: Floats) -> Bytes:
    """Eight scales and eight minima in 12 bytes: the first four of each whole, of the others the
    low four bits together and the high two above the first ones.
    """
    a, b = s.astype(np.uint8), t.astype(np.uint8)
    return np.concatenate(
        [
            a[:, :4] | a[:, 4:] >> 4 << 6,
            b[:, :4] | b[:, 4:] >> 4 << 6,
            a[:, 4:] & 15 | b[:, 4:] << 4,
        ],
        axis=1,
    )


def _scales_and_minima(x: Floats) -> tuple[Floats, Floats]:
    """Scale and minus minimum of each group [..., 32] for q from 0 to 15; both at least 0."""
    weights = np.sqrt((x**2).mean(-1, keepdims=True)) + np.abs(x)
    lowest = np.minimum(x.min(-1), 0)
    span = x.max(-1) - lowest
    scale, minimum = span / 15, lowest
    best = np.full(span.shape, np.inf, np.float32)
    sum_w, sum_x = weights.sum(-1), (weights * x).sum(-1)
    # the first candidate is the whole span in 15 steps, as it stands
    for grown in (0.0, *(-1 + 0.1 * step for step in range(21))):
        q = _rounded((x - lowest[..., None]) * ((15 + grown) * _inverse(span))[..., None], 0, 15)
        wq = weights * q
        sum_q, sum_qq, sum_xq = wq.sum(-1), (wq * q).sum(-1), (wq * x).sum(-1)
        inverse = _inverse(np.maximum(sum_w * sum_qq - sum_q**2, 0))
        new_scale = (sum_w * sum_xq - sum_x * sum_q) * inverse
        new_minimum = (sum_qq * sum_x - sum_q * sum_xq) * inverse
        above = new_minimum > 0
        new_scale = np.where(above, sum_xq * _inverse(sum_qq), new_scale)
        new_minimum = np.minimum(new_minimum, 0)
        error = (weights * (new_scale[..., None] * q + new_minimum[..., None] - x) ** 2).sum(-1)
        better = (error < best) & (inverse > 0) & (new_scale > 0)
        best = np.where(better, error, best)
        scale = np.where(better, new_scale, scale)
        minimum = np.where(better, new_minimum, minimum)
    return scale, -minimum


def _q6_k_blocks(blocks: Floats) -> Bytes:
    x = blocks.reshape(-1, 16, 16)
    scales = _symmetric_scales(x)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(-1, keepdims=True), -1)
    d = (largest / -128).astype(np.float16)
    s = _rounded(scales * _inverse(d.astype(np.float32)), -128, 127)
    step = (d * s)[..., None]
    q = (_rounded(x * _inverse(step), -32, 31) + 32).astype(np.uint8)
    # two halves of 128 values, each of four rows of 32
    q = q.reshape(-1, 2, 4, 32)
    low = np.concatenate([q[:, :, :2] & 15 | q[:, :, 2:] << 4], axis=2).reshape(len(x), 128)
    high = q >> 4
    high = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    parts = [low, high.reshape(len(x), 64), s.astype(np.int8).view(np.uint8), d.view(np.uint8)]
    return np.concatenate(parts, axis=1)


def _symmetric_scales(x: Floats) -> Floats:
    """The scale of each group [..., 16] for q from -32 to 31; its sign is minus that of the value
    of the largest amount, which takes -32.
    """
    largest = np.take_along_axis(x, np.abs(x).argmax(-1, keepdims=True), -1)
    weights = x**2
    scale = np.zeros(x.shape[:-1], np.float32)
    best = np.zeros(x.shape[:-1], np.float32)
    for grown in (0, *range(-9, 0), *range(1, 10)):
        q = _rounded(x * (-(32 + 0.1 * grown) * _inverse(largest)), -32, 31)
        wq = weights * q
        sum_xq, sum_qq = (wq * x).sum(-1), (wq * q).sum(-1)
        new_scale = sum_xq * _inverse(sum_qq)
        better = new_scale * sum_xq > best
        best = np.where(better, new_scale * sum_xq, best)
        scale = np.where(better, new_scale, scale)
    return scale
