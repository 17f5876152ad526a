"""Causal attention in training on a CPU, forward and backward: the softmax definition, PyTorch's
kernel, blocks of queries.

    python benchmarks/attention.py

Prints the median of interleaved runs for several shapes. bfloat16 is left out where the CPU only
emulates it. `puna.nn.attention.trains_in_blocks` holds the choice.
"""

import statistics
import time

import torch
from torch.nn import functional as F

from puna.device import has_bfloat16_arithmetic
from puna.nn.attention import blocked_attention, softmax_attention

WAYS = {
    "softmax": softmax_attention,
    "sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "blocked": blocked_attention,
}
# emulated, it takes minutes a step
formats = [torch.float32] + [torch.bfloat16] * has_bfloat16_arithmetic(torch.device("cpu"))
for dtype in formats:
    for batch, heads, steps, width in (
        (8, 4, 256, 64),
        (8, 8, 512, 64),
        (4, 8, 1024, 64),
        (1, 8, 2048, 64),
    ):
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(6):
            for name, attention in WAYS.items():
                q, k, v = (
                    torch.randn(batch, heads, steps, width, dtype=dtype, requires_grad=True)
                    for _ in range(3)
                )
                start = time.perf_counter()
                attention(q, k, v).sum().backward()
                seconds[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
        figures = "  ".join(f"{name} {1000 * value:7.1f} ms" for name, value in medians.items())
        print(
            f"{dtype} B={batch} H={heads} T={steps} C={width}:  {figures}  sdpa/blocked"
            f" {medians['sdpa'] / medians['blocked']:.2f}"
        )
