"""Low-rank updates, row by row: the formula, who is left alone, and what a linear layer keeps when
it gets adapters.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from puna.nn.lora import LoRALinear, LowRankUpdate, Selection

IN, OUT = 12, 20


def update(rank: int, scale: float, seed: int = 0) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(seed)
    return LowRankUpdate(
        torch.randn(rank, IN, generator=generator),
        torch.randn(OUT, rank, generator=generator),
        scale,
    )


UPDATES = {"sums": update(1, 2.0, 1), "tales.v2": update(4, 0.5, 2), "wide": update(16, -0.25, 3)}


def layer_with(
    updates: dict[str, LowRankUpdate], *, bias: bool = False
) -> tuple[nn.Linear, LoRALinear, Selection]:
    """A linear layer, the same with adapters, and what chooses among them."""
    torch.manual_seed(0)
    base, selection = nn.Linear(IN, OUT, bias=bias), Selection()
    layer = LoRALinear(base, selection)
    for name, each in updates.items():
        layer.add(name, each)
    return base, layer, selection


def by_the_formula(base: nn.Linear, x: Tensor, names: list[str | None]) -> Tensor:
    """W x + b + scale B (A x), one row after the other, in float64."""
    rows = []
    for row, name in zip(x.double(), names, strict=True):
        y = base.weight.double() @ row + (0 if base.bias is None else base.bias.double())
        if name is not None:
            each = UPDATES[name]
            y = y + each.scale * (each.b.double() @ (each.a.double() @ row))
        rows.append(y)
    return torch.stack(rows)


@settings(max_examples=60)
@given(
    runs=st.lists(
        st.tuples(st.sampled_from([None, *UPDATES]), st.integers(1, 5)), min_size=1, max_size=8
    ),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_each_row_goes_through_its_own_adapter(
    runs: list[tuple[str | None, int]], bias: bool, seed: int
) -> None:
    base, layer, selection = layer_with(UPDATES, bias=bias)
    names = [name for name, count in runs for _ in range(count)]
    stops = torch.tensor([count for _, count in runs]).cumsum(0).tolist()
    selection.segments = tuple(
        (name, stop - count, stop)
        for (name, count), stop in zip(runs, stops, strict=True)
        if name is not None
    )
    x = torch.randn(len(names), IN, generator=torch.Generator().manual_seed(seed))
    y = layer(x[None])[0]
    torch.testing.assert_close(y.double(), by_the_formula(base, x, names), rtol=1e-5, atol=1e-5)
    untouched = torch.tensor([name is None for name in names])
    assert torch.equal(y[untouched], base(x[None])[0][untouched]), (
        "rows without an adapter have the bits of the base layer"
    )


@pytest.mark.parametrize("shape", [(6, IN), (1, 6, IN), (2, 3, IN), (3, 1, 2, IN)])
def test_rows_are_counted_over_the_flattened_batch(shape: tuple[int, ...]) -> None:
    base, layer, selection = layer_with(UPDATES)
    selection.segments = (("sums", 1, 3), ("wide", 3, 5))
    x = torch.randn(shape)
    expected = by_the_formula(base, x.reshape(-1, IN), [None, "sums", "sums", "wide", "wide", None])
    torch.testing.assert_close(layer(x).reshape(-1, OUT).double(), expected, rtol=1e-5, atol=1e-5)


def test_an_input_that_is_not_contiguous() -> None:
    base, layer, selection = layer_with(UPDATES)
    selection.segments = (("sums", 0, 4),)
    x = torch.randn(IN, 3, 4).permute(1, 2, 0)
    expected = by_the_formula(base, x.reshape(-1, IN), ["sums"] * 4 + [None] * 8)
    torch.testing.assert_close(layer(x).reshape(-1, OUT).double(), expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_other_layers_leaves_this_one_alone() -> None:
    base, layer, selection = layer_with(UPDATES)
    selection.segments = (("elsewhere", 0, 5),)
    x = torch.randn(5, IN)
    assert torch.equal(layer(x), base(x))


class _Operations(TorchDispatchMode):
    """The names of the operations that reach PyTorch while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_without_a_selection_nothing_is_computed_that_the_base_layer_does_not() -> None:
    base, layer, _ = layer_with(UPDATES)
    x = torch.randn(1, 5, IN)
    with _Operations() as expected:
        base(x)
    with _Operations() as found:
        layer(x)
    assert found.names == expected.names


@pytest.mark.parametrize("bias", [False, True])
def test_a_state_dict_does_not_change(bias: bool) -> None:
    base, layer, _ = layer_with(UPDATES, bias=bias)
    before, after = base.state_dict(keep_vars=True), layer.state_dict(keep_vars=True)
    assert before.keys() == after.keys()
    assert all(after[name] is before[name] for name in before), "the very parameters, not copies"
    assert not LoRALinear(base.eval(), Selection()).training


def test_adapters_move_with_the_layer() -> None:
    _, layer, selection = layer_with(UPDATES)
    selection.segments = (("wide", 0, 2),)
    assert layer.double()(torch.randn(2, IN, dtype=torch.float64)).dtype == torch.float64
    assert (
        layer.to("meta")(torch.empty(2, IN, dtype=torch.float64, device="meta")).device.type
        == "meta"
    )


def test_arithmetic_is_in_the_dtype_of_the_weight() -> None:
    torch.manual_seed(0)
    base, selection = nn.Linear(IN, OUT, bias=False).bfloat16(), Selection()
    layer = LoRALinear(base, selection)
    layer.add("wide", UPDATES["wide"])
    assert {factor.dtype for factor in layer.factors["wide"]} == {torch.bfloat16}
    selection.segments = (("wide", 0, 30),)
    x = torch.randn(30, IN).bfloat16()
    y, expected = layer(x), by_the_formula(base, x, ["wide"] * 30)
    assert y.dtype == torch.bfloat16
    assert (y.double() - expected).norm() < 0.01 * expected.norm()


def test_delta_is_computed_in_float32_from_any_dtype() -> None:
    a, b = torch.randn(4, IN).bfloat16(), torch.randn(OUT, 4).bfloat16()
    delta = LowRankUpdate(a, b, 0.3).delta()
    assert delta.dtype == torch.float32
    torch.testing.assert_close(
        delta.double(), 0.3 * (b.double() @ a.double()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("a", "b"), [((4, IN + 1), (OUT, 4)), ((4, IN), (OUT - 1, 4))])
def test_matrices_that_do_not_fit_are_rejected(a: tuple[int, int], b: tuple[int, int]) -> None:
    _, layer, _ = layer_with({})
    with pytest.raises(
        ValueError, match=r"do not fit W \[20, 12\]: A must be \[r, I\] and B \[O, r\]"
    ):
        layer.add("misfit", LowRankUpdate(torch.zeros(a), torch.zeros(b), 1.0))


def test_a_segment_past_the_end_is_a_bug() -> None:
    _, layer, selection = layer_with(UPDATES)
    selection.segments = (("sums", 3, 6),)
    with pytest.raises(AssertionError, match="rows 3 to 6 of sums do not exist"):
        layer(torch.randn(5, IN))


def test_the_layer_shows_its_adapters() -> None:
    assert (
        "in_features=12, out_features=20, bias=False, adapters=['sums', 'tales.v2', 'wide']"
        in repr(layer_with(UPDATES)[1])
    )
