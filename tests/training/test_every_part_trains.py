"""Each part, chosen by its name in a recipe: a run trains, resumes from its checkpoint, and leaves
a model that writes.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from puna.inference.language_model import load
from puna.model.parts import FEED_FORWARDS, NORMS, PLACEMENTS, POSITIONS
from puna.nn import document_numbers
from puna.training.checkpoint import checkpoints
from puna.training.trainer import Trainer

CHANGES = [
    *(f"model.norm={name}" for name in NORMS),
    *(f"model.placement={name}" for name in PLACEMENTS),
    *(f"model.feed_forward={name}" for name in FEED_FORWARDS),
    *(f"model.position={name}" for name in POSITIONS),
    *(f"model.rope_scaling={{kind: {kind}, factor: 2.0}}" for kind in ("llama3", "linear", "ntk")),
    "model.rope_scaling={kind: yarn, factor: 2.0, original_context: 48}",
    "model.norm_bias=true",
    "model.norm_eps_place=outside",
    "model.feed_forward_bias=true",
    "model={attention: none, placement: parallel, feed_forward: convolution, position: none}",
    "model={feed_forward: convolution, feed_forward_kernel: 5, feed_forward_bias: true}",
    "model.swish_beta=scalar",
    "model.qk_norm=true",
    "model.sliding_window=8",
    "model.padding_id=0",
    "train.mask_documents=true",
]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("change", CHANGES)
def test_it_trains_resumes_and_writes(
    change: str, optimizer: str, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    overrides = (
        change,
        f"optimizer.name={optimizer}",
        "train.steps=4",
        "optimizer.warmup_steps=1",
        "train.validation_tokens=100",
    )
    trainer(tmp_path / "run", *overrides).train(until=2)
    assert trainer(tmp_path / "run", *overrides, resume=True).train()
    *_, last = checkpoints(tmp_path / "run").values()
    written = load(last, "cpu").generate("the llama", max_tokens=5, temperature=0.0)
    assert isinstance(written, str)


def test_masked_documents_do_not_see_each_other(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """The hidden states of a window's second document do not change with its first one; without the
    mask they do.
    """
    run = trainer(tmp_path / "run", "train.mask_documents=true")
    begin, generator = run.inputs.special_ids["bos_id"], torch.Generator().manual_seed(0)
    ids = torch.randint(10, 250, (2, 30), generator=generator)
    ids[:, [0, 13]] = begin
    ids[1, 13:] = ids[0, 13:]
    assert document_numbers(ids, begin)[0].tolist() == [0] * 13 + [1] * 17
    with torch.no_grad():
        masked = run.model.hidden_states(ids, documents=run.documents(ids))
        plain = run.model.hidden_states(ids)
    torch.testing.assert_close(masked[0, 13:], masked[1, 13:], rtol=1e-5, atol=1e-5)
    assert (plain[0, 13:] - plain[1, 13:]).abs().max() > 1e-3
