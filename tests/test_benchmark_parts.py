"""benchmarks/parts.py: the bytes that a part must move are those that its definition reads and
writes, and verdicts follow from times.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.func import functional_call, vjp
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

ROWS, WIDTH = 48, 32
NAMES = (
    "LayerNorm",
    "torch LayerNorm",
    "RMSNorm",
    "torch RMSNorm",
    "pRMSNorm",
    "ReLU",
    "GELU (erf)",
    "GELU (tanh)",
    "Swish",
    "SwiGLU's gate",
)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module, with the folder of its neighbours on the path as when it is run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("parts")


def bytes_at_the_border(function: Callable[..., Any], *arguments: Tensor) -> int:
    """Bytes of the arguments that the results depend on, and of the results, of a function taken
    apart into basic operations.
    """
    basic = {**core_aten_decompositions(), **get_decompositions([torch.ops.aten.native_layer_norm])}
    graph = make_fx(function, decomposition_table=basic)(*arguments).graph
    graph.eliminate_dead_code()
    read = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    written: list[Node] = next(node for node in graph.nodes if node.op == "output").all_input_nodes
    return sum(
        node.meta["tensor_meta"].shape.numel() * node.meta["tensor_meta"].dtype.itemsize
        for node in [*read, *written]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_must_move_are_those_that_the_definition_reads_and_writes(
    parts: ModuleType, name: str, dtype: torch.dtype
) -> None:
    part = parts.PARTS[name]
    module: nn.Module = part.make(WIDTH).to(dtype)
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    dy, *inputs = (
        torch.randn(ROWS, WIDTH, dtype=dtype) for _ in range(3 if name == "SwiGLU's gate" else 2)
    )

    def forward(*tensors: Tensor) -> Tensor:
        output: Tensor = functional_call(
            module, dict(zip(weights, tensors, strict=False)), tensors[len(weights) :]
        )
        return output

    def backward(dy: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        gradients: tuple[Tensor, ...] = vjp(forward, *tensors)[1](dy)
        return gradients

    tensors = [*weights.values(), *inputs]
    assert parts.least_bytes(part.forward, ROWS, WIDTH, dtype.itemsize) == bytes_at_the_border(
        forward, *tensors
    )
    assert parts.least_bytes(part.backward, ROWS, WIDTH, dtype.itemsize) == bytes_at_the_border(
        backward, dy, *tensors
    )


def test_every_part_is_counted_by_the_test_above(parts: ModuleType) -> None:
    assert tuple(parts.PARTS) == NAMES


def test_traffic_of_eager_kernels_is_the_least_for_one_kernel_and_more_for_several(
    parts: ModuleType,
) -> None:
    x = torch.randn(ROWS, WIDTH)
    with parts.CountTraffic() as one:
        torch.nn.functional.relu(x)
    assert (one.kernels, one.bytes) == (1, parts.least_bytes("x -> y", ROWS, WIDTH, 4))
    # silu reads and writes, the product reads twice and writes; the views are free
    with parts.CountTraffic() as several:
        parts.PARTS["SwiGLU's gate"].make(WIDTH)(x[:, :], x.view(ROWS, WIDTH))
    assert (several.kernels, several.bytes) == (2, 5 * x.nbytes)


def seconds_of(parts: ModuleType, factors: dict[str, float]) -> dict[Any, list[float]]:
    """Five rounds in which a part takes its factor times the milliseconds of the round, which
    drift.
    """
    rounds = (1.0, 1.1, 1.3, 1.2, 1.4)
    keys = [
        (dtype, way, name, one)
        for dtype in ("float32", "bfloat16")
        for way in parts.WAYS
        for name in parts.PARTS
        for one in parts.PASSES
    ]
    return {key: [factors.get(key[2], 1.0) * value / 1e3 for value in rounds] for key in keys}


def test_verdicts_follow_from_the_ratios_of_the_rounds_and_not_from_the_drift(
    parts: ModuleType,
) -> None:
    factors = {
        "LayerNorm": 2.0,
        "torch LayerNorm": 2.06,
        "RMSNorm": 1.0,
        "pRMSNorm": 2.02,
        "GELU (erf)": 0.5,
    }
    figures = parts.summary(
        {}, seconds_of(parts, factors), {"y = x": 1e9, "z = x + y": 2e9}, 1000, 500
    )
    assert figures["error"] == pytest.approx(0.03)
    found = {
        (row["first"], row["second"]): (row["ratio"], row["costs_less"])
        for row in figures["ratios"]
    }
    assert found["LayerNorm", "RMSNorm"] == (2.0, "RMSNorm")
    assert found["GELU (erf)", "Swish"] == (0.5, "GELU (erf)")
    assert found["LayerNorm", "pRMSNorm"] == (0.99, None)  # within the error
    relu = next(
        row
        for row in figures["timings"]
        if row["part"] == "ReLU" and row["pass"] == "forward" and row["dtype"] == "float32"
    )
    assert (relu["must_move_bytes"], relu["milliseconds"]) == (4_000_000, 1.2)
    assert relu["reached"] == pytest.approx(4e6 / 1.2e-3 / 2e9, abs=1e-3)


def test_a_ratio_that_crosses_one_between_rounds_decides_nothing(parts: ModuleType) -> None:
    seconds = seconds_of(parts, {})
    for key, values in seconds.items():
        if key[2] == "RMSNorm":
            seconds[key] = [
                value * factor
                for value, factor in zip(values, (0.5, 0.6, 0.8, 1.4, 1.5), strict=True)
            ]
    figures = parts.summary({}, seconds, {"y = x": 1e9}, 1000, 500)
    row = next(
        row
        for row in figures["ratios"]
        if (row["first"], row["second"]) == ("LayerNorm", "RMSNorm")
    )
    assert row["ratio"] == 1.25
    assert row["costs_less"] is None
    assert "no difference beyond the error" in parts.verdict(row)
