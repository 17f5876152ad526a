"""A model that a reader gives: number formats, and weights that do not fit."""

from collections.abc import Iterator

import pytest
import torch
from said import said
from small_llama import build_llama
from torch import Tensor

from puna.errors import ModelFolderError
from puna.formats.foreign_model import ForeignModel
from puna.model.weights import named_tensors


def found(*changes: tuple[str, Tensor | None], dtype: torch.dtype = torch.float32) -> ForeignModel:
    """The small model with tensors replaced, or left out for None."""
    model = build_llama()

    def tensors() -> Iterator[tuple[str, Tensor]]:
        other = dict(changes)
        for name, tensor in named_tensors(model):
            given = other.pop(name, tensor.detach().to(dtype))
            if given is not None:
                yield name, given
        yield from ((name, t) for name, t in other.items() if t is not None)

    return ForeignModel(model.config, tensors, None, None, ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_number_format_stays(dtype: torch.dtype) -> None:
    model = found(dtype=dtype).build()
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not model.training
    assert found(dtype=dtype).build(dtype=torch.float32).output_weight.dtype == torch.float32


def test_a_mixture_becomes_float32_without_loss() -> None:
    norm = 1 + torch.rand(32)
    model = found(("model.norm.weight", norm), dtype=torch.float16).build()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.norm.weight, norm)
    first = build_llama().embed_tokens.weight.half().float()
    assert torch.equal(model.embed_tokens.weight, first)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.norm.weight", None, "lacks the weight model.norm.weight"),
        ("model.norm.weight", torch.ones(31), "model.norm.weight has shape [31] instead of [32]"),
        ("extra", torch.ones(1), "extra is unexpected"),
    ],
)
def test_weights_that_do_not_fit(name: str, tensor: Tensor | None, message: str) -> None:
    with pytest.raises(ModelFolderError, match=said(message)):
        found((name, tensor)).build()
