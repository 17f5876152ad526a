"""Norms and activations by themselves: time, beside the time that memory alone would take. `make
bench`, or

    python benchmarks/parts.py
    python benchmarks/parts.py --device cuda --json FILE

These parts do little arithmetic and much reading and writing, so what counts is how near they come
to the machine's bandwidth. Each row of `PARTS` names what its forward and backward pass must read
and write at the least: the inputs, the gradients, the weights, each once. EngineStats of a row are
not counted, since they can be computed again from the row; nor are bits that an implementation
might keep instead of x, as ReLU could. All of a part, weights too, is in one number format.
`reached` is those bytes / the median time / the bandwidth.

The bandwidth is the best rate in this run of y = x (2 tensors move) and z = x + y (3 tensors), each
tensor 256 MiB. A processor that reads a cache line before it writes it moves more, in the parts as
in these two.

`kernels` and `traffic` are counted, not measured: the calls that eager PyTorch makes, and what
these read and write as a multiple of what must move. A fused kernel has 1 and 1.0. Compiled code is
timed only.

All variants take turns, round by round, because a machine's speed drifts; a large read before each
timing empties the cache of what the one before left. Shown are medians, and half the distance of
the quartiles as spread. A ratio is the median of the rounds' ratios; a verdict needs both quartiles
on one side of 1, farther off than the ratios of LayerNorm to torch's, which are one kernel. The
time is that of training, with gradients recorded. On Linux freed memory is kept and used again, as
CUDA's allocator does: where glibc maps every large tensor anew, ReLU of 64 MiB took 41 ms on one
core, without that 7 to 10 (2026-11-21), and all parts would seem alike.

A run beside other programs is worthless: the compiled backward pass of a norm took 780 ms instead
of 27 (2026-11-21, two cores, another program of two threads beside it). So the cores that others
took meanwhile are counted, and more than a tenth of one is told.
"""

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from machine import RESULTS, machine, today, write_results
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from puna.device import choose_device, synchronise, watch_others
from puna.nn import LayerNorm, PartialRMSNorm, RMSNorm, Swish


class Gate(nn.Module):
    """silu(gate) * up: what stands between the matrix products of SwiGLU."""

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up


@dataclass(frozen=True)
class Part:
    """A row: the part of a width, and what its two passes read -> write, at the least."""

    make: Callable[[int], nn.Module]
    forward: str
    backward: str


CENTRED = ("x weight bias -> y", "x dy weight -> dx dweight dbias")
SCALED = ("x weight -> y", "x dy weight -> dx dweight")
POINTWISE = ("x -> y", "x dy -> dx")
PARTS = {
    "LayerNorm": Part(LayerNorm, *CENTRED),
    "torch LayerNorm": Part(nn.LayerNorm, *CENTRED),
    "RMSNorm": Part(RMSNorm, *SCALED),
    "torch RMSNorm": Part(lambda width: nn.RMSNorm(width, eps=1e-5), *SCALED),
    "pRMSNorm": Part(PartialRMSNorm, *SCALED),
    "ReLU": Part(lambda _: nn.ReLU(), *POINTWISE),
    "GELU (erf)": Part(lambda _: nn.GELU(), *POINTWISE),
    "GELU (tanh)": Part(lambda _: nn.GELU("tanh"), *POINTWISE),
    "Swish": Part(lambda _: Swish(), *POINTWISE),
    "SwiGLU's gate": Part(lambda _: Gate(), "gate up -> y", "gate up dy -> dgate dup"),
}
# Time of the first / time of the second
CLAIMS = (
    ("LayerNorm", "RMSNorm"),
    ("LayerNorm", "pRMSNorm"),
    ("GELU (erf)", "Swish"),
    ("GELU (tanh)", "Swish"),
)
SAME = ("torch LayerNorm", "LayerNorm")  # one kernel
PEERS = (SAME, ("torch RMSNorm", "RMSNorm"))
DTYPES = (torch.float32, torch.bfloat16)
WAYS = ("eager", "compiled")
PASSES = ("forward", "backward")
Key = tuple[str, str, str, str]  # dtype, way, part, pass


def least_bytes(traffic: str, rows: int, width: int, itemsize: int) -> int:
    """Bytes of the tensors that `traffic` names: a weight, a bias or the gradient of one is
    [width], all others are [rows, width].
    """
    names = traffic.replace("->", "").split()
    return itemsize * sum(
        width if name.removeprefix("d") in ("weight", "bias") else rows * width for name in names
    )


class CountTraffic(TorchDispatchMode):
    """Counts the kernels that run under it and the bytes of what they take and give; views move
    nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.kernels += 1
            tensors = {
                id(leaf): leaf
                for leaf in tree_leaves((args, kwargs, given))
                if isinstance(leaf, Tensor)
            }
            self.bytes += sum(
                min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in tensors.values()
            )
        return given


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--rows",
        type=int,
        help="left out: 32768 on a CPU, 262144 elsewhere; they should outgrow the cache",
    )
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--json",
        type=Path,
        help="where the figures go, with a table beside them; left out: benchmarks/results",
    )
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds {options.rounds} has no quartiles: give 2 or more")
    device = choose_device(options.device)
    rows = options.rows or (32768 if device.type == "cpu" else 262144)
    if device.type == "cpu":
        keep_freed_memory(16 * 4 * rows * options.width)
    others = watch_others()
    counted, seconds, bandwidth = measure(device, rows, options.width, options.rounds)
    figures = {
        "others_cores": others(),
        **summary(counted, seconds, bandwidth, rows, options.width),
    }
    path = (
        options.json
        or RESULTS / f"{today()}-parts{'' if device.type == 'cpu' else f'-{device.type}'}.json"
    )
    text = report(figures)
    print(text)
    path.with_suffix(".txt").write_text(text + "\n")
    write_results(path, machine(device), **figures)


def keep_freed_memory(size: int) -> None:
    """Have glibc keep what is freed, and give it `size` bytes to begin with; elsewhere nothing
    happens.
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no tensor has a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink
        torch.ones(size, dtype=torch.uint8)


def measure(
    device: torch.device, rows: int, width: int, rounds: int
) -> tuple[dict[Key, Any], dict[Key, list[float]], dict[str, float]]:
    """Kernels and bytes of each eager pass, seconds of every pass in every round, bytes a second of
    the two references at their best.
    """
    torch._dynamo.config.recompile_limit = 64  # one wrapper of torch's stands for all its modules
    # rather than eager times under the name of compiled ones
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch.manual_seed(0)
    x, y, z = (torch.ones(2**26, device=device) for _ in range(3))
    references: dict[str, Callable[[], Any]] = {
        "y = x": lambda: y.copy_(x),
        "z = x + y": lambda: torch.add(x, y, out=z),
    }
    moved = {"y = x": 2 * x.nbytes, "z = x + y": 3 * x.nbytes}
    bandwidth = dict.fromkeys(references, 0.0)
    counted: dict[Key, Any] = {}
    seconds: dict[Key, list[float]] = {}
    variants = []
    for dtype in DTYPES:
        dy, *inputs = (torch.randn(rows, width, device=device, dtype=dtype) for _ in range(3))
        for name, part in PARTS.items():
            module = part.make(width).to(device, dtype)
            arguments = [
                each.requires_grad_() for each in inputs[: 2 if "up" in part.forward else 1]
            ]
            for way in WAYS:
                forward = torch.compile(module, dynamic=False) if way == "compiled" else module
                key = (str(dtype).removeprefix("torch."), way, name)
                variants.append((key, forward, arguments, [*arguments, *module.parameters()], dy))
    for number in range(-1, rounds):  # the first compiles and counts
        for name, move in references.items():
            bandwidth[name] = max(bandwidth[name], moved[name] / timed(device, move)[0])
        for key, forward, arguments, wanted, dy in variants:
            passes: dict[str, Callable[[], Any]] = {"forward": lambda: forward(*arguments)}  # noqa: B023  (called at once)
            passes["backward"] = lambda: torch.autograd.grad(out, wanted, dy)  # noqa: B023
            for name in PASSES:
                if number < 0 and key[1] == "eager":
                    with CountTraffic() as count:
                        out = passes[name]()
                    counted[*key, name] = count
                else:
                    x.sum()
                    taken, out = timed(device, passes[name])
                    if number >= 0:
                        seconds.setdefault((*key, name), []).append(taken)
            del out
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return counted, seconds, bandwidth


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that the work takes on the device, and what it gives."""
    if device.type == "cuda":  # events leave out the time that a call takes to reach an idle device
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(torch.cuda.current_stream(device))
        given = work()
        end.record(torch.cuda.current_stream(device))
        end.synchronize()
        return start.elapsed_time(end) / 1e3, given
    synchronise(device)
    begin = time.perf_counter()
    given = work()
    synchronise(device)
    return time.perf_counter() - begin, given


def summary(
    counted: dict[Key, Any],
    seconds: dict[Key, list[float]],
    bandwidth: dict[str, float],
    rows: int,
    width: int,
) -> dict[str, Any]:
    """The figures: bandwidth, one row a pass, one ratio a comparison."""
    best = max(bandwidth.values())
    timings: list[dict[str, Any]] = []
    for key, values in seconds.items():
        dtype, way, name, direction = key
        least = least_bytes(
            getattr(PARTS[name], direction), rows, width, getattr(torch, dtype).itemsize
        )
        low, median, high = statistics.quantiles(values, method="inclusive")
        row = {
            "dtype": dtype,
            "way": way,
            "part": name,
            "pass": direction,
            "must_move_bytes": least,
        }
        row |= {
            "milliseconds": round(1e3 * median, 3),
            "spread": round((high - low) / 2 / median, 3),
        }
        row["reached"] = round(least / median / best, 3)
        if key in counted:
            row |= {
                "kernels": counted[key].kernels,
                "traffic": round(counted[key].bytes / least, 2),
            }
        timings.append(row)
    ratios: list[dict[str, Any]] = []
    for first, second in (*CLAIMS, *PEERS):
        for dtype, way, name, direction in [key for key in seconds if key[2] == first]:
            pairs = zip(
                seconds[dtype, way, name, direction],
                seconds[dtype, way, second, direction],
                strict=True,
            )
            low, median, high = statistics.quantiles(
                [one / other for one, other in pairs], method="inclusive"
            )
            row = {"first": first, "second": second, "dtype": dtype, "way": way, "pass": direction}
            ratios.append(
                row | {"ratio": round(median, 3), "quartiles": [round(low, 3), round(high, 3)]}
            )
    error = max(abs(row["ratio"] - 1) for row in ratios if (row["first"], row["second"]) == SAME)
    for each in ratios:
        low, high = each["quartiles"]
        decided = low > 1 + error or high < 1 - error
        each["costs_less"] = (each["second"] if low > 1 else each["first"]) if decided else None
    rates = {name: round(rate / 1e9, 2) for name, rate in bandwidth.items()}
    shape = {"rows": rows, "width": width, "rounds": len(values)}
    return {
        **shape,
        "bandwidth_gb_per_second": rates,
        "error": round(error, 3),
        "timings": timings,
        "ratios": ratios,
    }


def report(figures: dict[str, Any]) -> str:
    """The figures as text; the verdicts last."""
    rates = figures["bandwidth_gb_per_second"]
    lines = [
        f"{figures['rows']} x {figures['width']}; bandwidth: "
        + ", ".join(f"{rate} GB/s ({name})" for name, rate in rates.items())
    ]
    if (figures["others_cores"] or 0) > 0.1:
        lines.append(
            f"NOT TO BE TRUSTED: meanwhile other programs took {figures['others_cores']:.2f} cores;"
            " measure again alone"
        )
    for dtype, way in dict.fromkeys((row["dtype"], row["way"]) for row in figures["timings"]):
        lines += [
            "",
            f"{dtype + ', ' + way:26} must move       time  spread  reached"
            + "  kernels  traffic" * (way == "eager"),
        ]
        for row in figures["timings"]:
            if (row["dtype"], row["way"]) == (dtype, way):
                line = (
                    f"{row['part']:17} {row['pass']:8} {row['must_move_bytes'] / 2**20:6.1f} MiB"
                    f" {row['milliseconds']:7.2f} ms"
                )
                line += f" {row['spread']:6.0%}  {row['reached']:7.0%}"
                lines.append(
                    line
                    + (f"  {row['kernels']:7}  {row['traffic']:6.1f}x" if way == "eager" else "")
                )
    groups = (
        (
            CLAIMS,
            "Which costs less? Time of the first / time of the second (quartiles of the rounds)",
        ),
        (
            PEERS,
            (
                "Peers. Both LayerNorms are one kernel: their ratios, off 1 by up to"
                f" {figures['error']:.0%}, are the error"
            ),
        ),
    )
    for pairs, title in groups:
        lines += [
            "",
            title,
            *(verdict(row) for row in figures["ratios"] if (row["first"], row["second"]) in pairs),
        ]
    return "\n".join(lines)


def verdict(row: dict[str, Any]) -> str:
    """One comparison in words."""
    low, high = row["quartiles"]
    found = (
        f"{row['costs_less']} costs less" if row["costs_less"] else "no difference beyond the error"
    )
    pair = f"{row['first']} / {row['second']}"
    return (
        f"{pair:27} {row['dtype']:8} {row['way']:8} {row['pass']:8} {row['ratio']:5.2f} ({low:.2f}"
        f" to {high:.2f})  {found}"
    )


if __name__ == "__main__":
    main()
