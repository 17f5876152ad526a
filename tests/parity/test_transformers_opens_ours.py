"""A folder that Puna wrote, opened by transformers with no export step."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import Transformer, build_transformer
from puna.model.weights import write_model


def random_model(shape: dict[str, Any], seed: int) -> Transformer:
    """Weights much larger than those that training starts from: logits that differ, a greedy text
    that wanders.
    """
    model = build_transformer(ModelConfig.model_validate(shape)).eval()
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
            else:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_same_logits_and_same_text(
    data: st.DataObject,
    seed: int,
    any_shape: st.SearchStrategy[dict[str, Any]],
    assert_agree: Callable,
) -> None:
    model = random_model(data.draw(any_shape), seed)
    with TemporaryDirectory() as folder:
        write_model(Path(folder), model)
        theirs = LlamaForCausalLM.from_pretrained(folder)
    assert_agree(model, theirs)


@pytest.mark.parametrize("tied", [False, True])
def test_a_bfloat16_folder_stays_bfloat16(tied: bool, tmp_path: Path) -> None:
    shape = {
        "vocab_size": 60,
        "width": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "context_length": 64,
    }
    model = random_model({**shape, "tie_embeddings": tied}, 0).bfloat16()
    write_model(tmp_path, model)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert {p.dtype for p in theirs.parameters()} == {torch.bfloat16}
    ids = torch.randint(0, 60, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, expected = model(ids), theirs(ids).logits
    assert ours.dtype == expected.dtype == torch.bfloat16
    assert (ours - expected).norm() < 0.02 * expected.norm()


def test_special_ids_arrive(tmp_path: Path) -> None:
    shape = {"vocab_size": 60, "width": 32, "num_layers": 1, "num_heads": 4, "context_length": 64}
    write_model(tmp_path, random_model(shape, 0), bos_id=1, eos_ids=(2, 3))
    theirs = LlamaForCausalLM.from_pretrained(tmp_path)
    assert (theirs.generation_config.bos_token_id, theirs.generation_config.eos_token_id) == (
        1,
        [2, 3],
    )
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (1, [2, 3])
