"""The assembled decoder: causality, the cache at every split, dtypes, and recomputation."""

import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch
from whole_cache import CachedModel

from puna.inference.kv_cache import PagedCache, Run
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.nn import linear_cross_entropy

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-head": {"num_kv_heads": 4},
    "multi-query, tied": {"num_kv_heads": 1, "tie_embeddings": True},
    "llama 3 positions": {
        "rope_base": 500000.0,
        "rope_scaling": {"factor": 8.0, "original_context": 16},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_depend_on_no_later_id(small_model: Any, shape: str) -> None:
    model, ids = small_model(**SHAPES[shape]), torch.randint(0, 50, (1, 10))
    embedded: list[torch.Tensor] = []
    model.embed_tokens.register_forward_hook(
        lambda _module, _ids, out: embedded.append(out.requires_grad_())
    )
    logits = model(ids)
    for position in range(10):
        (gradient,) = torch.autograd.grad(logits[0, position].sum(), embedded[0], retain_graph=True)
        reached = gradient[0].abs().sum(-1) > 0
        assert reached.tolist() == [earlier <= position for earlier in range(10)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cache_changes_nothing_at_any_split(small_model: Any, shape: str) -> None:
    """A sequence of 6 in one go, and in each of the 32 ways to cut it."""
    model, ids = small_model(**SHAPES[shape]).eval(), torch.randint(0, 50, (2, 6))
    with torch.inference_mode():
        whole = model(ids)
        for cuts in itertools.chain.from_iterable(
            itertools.combinations(range(1, 6), n) for n in range(6)
        ):
            cached = CachedModel(model, 2, 6)
            pieces = [cached(ids[:, a:b]) for a, b in itertools.pairwise((0, *cuts, 6))]
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-4)


def test_documents_with_a_cache_are_rejected(small_model: Any) -> None:
    model, ids = small_model(), torch.zeros(1, 3, dtype=torch.long)
    cache = PagedCache(model.config, 1, 4).step([Run(0, 3, [0])])
    with pytest.raises(
        ValueError,
        match="documents cannot be kept apart in a cache: give each document a sequence of its own",
    ):
        model.hidden_states(ids, cache=cache, documents=ids)


def test_positions_are_relative(small_model: Any) -> None:
    """All positions moved by 20: rotary scores see distances only."""
    model, ids = small_model(), torch.randint(0, 50, (2, 8))
    torch.testing.assert_close(model(ids, torch.arange(20, 28)), model(ids), rtol=1e-3, atol=1e-3)


def test_positions_matter(small_model: Any) -> None:
    model, ids = small_model(), torch.randint(0, 50, (2, 8))
    assert (model(ids, 2 * torch.arange(8)) - model(ids)).abs().max() > 0.1


def test_sequences_of_a_batch_do_not_meet(small_model: Any) -> None:
    model, ids = small_model(), torch.randint(0, 50, (3, 8))
    alone = torch.cat([model(ids[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(model(ids), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_have_the_dtype_of_the_weights(small_model: Any, dtype: torch.dtype) -> None:
    model, ids = small_model(), torch.randint(0, 50, (2, 8))
    exact = model(ids)
    logits = model.to(dtype)(ids)
    assert logits.dtype == dtype
    assert (logits - exact).norm() < 0.05 * exact.norm()


def test_tied_embeddings_share_one_matrix(small_model: Any) -> None:
    model = small_model(tie_embeddings=True)
    assert model.lm_head is None
    assert model.output_weight is model.embed_tokens.weight
    assert not any("lm_head" in name for name, _ in model.named_parameters())


def gradients(model: Transformer, ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = linear_cross_entropy(model.hidden_states(ids[:, :-1]), model.output_weight, ids[:, 1:])
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("steps", [12, 300])
def test_recomputing_blocks_changes_neither_loss_nor_gradients(
    small_model: Any, steps: int
) -> None:
    model, ids = small_model(context_length=300), torch.randint(0, 50, (2, steps + 1))
    loss, expected = gradients(model, ids)
    calls: list[int] = []
    model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.activation_checkpointing = True
    again, recomputed = gradients(model, ids)
    assert len(calls) == 2, "once forward, once more in the backward pass"
    assert torch.equal(loss, again)
    for mine, reference in zip(recomputed, expected, strict=True):
        assert torch.equal(mine, reference)


def test_recomputing_blocks_leaves_a_cache_in_charge(small_model: Any) -> None:
    """A model in training mode that samples with a cache: once the cache was dropped there, and
    every token saw itself alone.
    """
    model, ids = small_model().train(), torch.randint(0, 50, (1, 6))
    model.activation_checkpointing = True
    with torch.no_grad():
        cached = CachedModel(model, 1, 6)
        pieces = [cached(ids[:, a:b]) for a, b in ((0, 4), (4, 6))]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), rtol=1e-4, atol=1e-4)


def test_a_model_is_built_without_the_compiler() -> None:
    """An embedding filled on the device "meta" imported 824 modules, half of the processor time of
    `puna generate`; nothing is filled there now.
    """
    code = (
        "import sys; from puna.model.config import ModelConfig;"
        "from puna.model.transformer import build_transformer;"
        "build_transformer(ModelConfig(preset='puna-2m', vocab_size=300));"
        "print('torch._dynamo' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_the_meta_device_costs_no_memory_and_leaves_no_tensor_behind() -> None:
    config = ModelConfig.model_validate({"preset": "llama-65b"})
    assert all(p.is_meta for p in build_transformer(config, "meta").parameters())
    small = build_transformer(
        ModelConfig(vocab_size=10, width=8, num_layers=1, num_heads=2, context_length=4)
    )
    assert not any(tensor.is_meta for tensor in (*small.parameters(), *small.buffers()))
