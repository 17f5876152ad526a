"""A folder that transformers wrote, opened by Puna."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from puna.model.config import ModelConfig
from puna.model.huggingface import to_huggingface
from puna.model.weights import read_model


def random_model(shape: dict[str, Any], seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    theirs = LlamaForCausalLM(
        LlamaConfig.from_dict(to_huggingface(ModelConfig.model_validate(shape)))
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            (
                parameter.add_(0.2 * torch.randn_like(parameter))
                if "norm" in name
                else parameter.normal_(0, 0.12)
            )
    return theirs


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_same_logits_and_same_text(
    data: st.DataObject,
    seed: int,
    any_shape: st.SearchStrategy[dict[str, Any]],
    assert_agree: Callable,
) -> None:
    theirs = random_model(data.draw(any_shape), seed)
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = read_model(Path(folder))
    assert_agree(ours, theirs)


SHAPE = {
    "vocab_size": 60,
    "width": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "context_length": 64,
}


def test_shards_of_theirs(tmp_path: Path, assert_agree: Callable) -> None:
    theirs = random_model(SHAPE, 0)
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_agree(read_model(tmp_path), theirs)


@pytest.mark.parametrize("tied", [False, True])
def test_a_bfloat16_folder_stays_bfloat16(tied: bool, tmp_path: Path) -> None:
    theirs = random_model({**SHAPE, "tie_embeddings": tied}, 0).bfloat16()
    theirs.save_pretrained(tmp_path)
    ours = read_model(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    assert torch.equal(ours.embed_tokens.weight, theirs.model.embed_tokens.weight)


def test_gradients_agree(tmp_path: Path) -> None:
    """The same loss, the same gradient in every tensor: what trains here trains the same model."""
    theirs = random_model(SHAPE, 0)
    theirs.save_pretrained(tmp_path)
    ours, ids = (
        read_model(tmp_path),
        torch.randint(0, 60, (2, 21), generator=torch.Generator().manual_seed(0)),
    )
    theirs(ids, labels=ids).loss.backward()
    logits = ours(ids)[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = expected[name if name.startswith("lm_head") else f"model.{name}"].grad
        torch.testing.assert_close(
            parameter.grad,
            gradient,
            rtol=1e-3,
            atol=1e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )
