"""nanoGPT's checkpoints against a small forward pass of the tests' own; nanochat's refused by
name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from said import said
from torch import Tensor
from torch.nn import functional as F

from puna.errors import ModelFolderError
from puna.formats.source_kind import read_source, source_kind

ARGUMENTS: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "block_size": 24,
    "vocab_size": 61,
    "bias": False,
    "dropout": 0.0,
}


def nanogpt_weights(*, bias: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    weights = {
        "transformer.wte.weight": random(61, 32),
        "transformer.wpe.weight": random(24, 32),
        "transformer.ln_f.weight": 1 + random(32),
    }
    for layer in range(2):
        at = f"transformer.h.{layer}."
        weights |= {
            f"{at}ln_1.weight": 1 + random(32),
            f"{at}attn.c_attn.weight": random(96, 32),
            f"{at}attn.c_proj.weight": random(32, 32),
            f"{at}ln_2.weight": 1 + random(32),
            f"{at}mlp.c_fc.weight": random(128, 32),
            f"{at}mlp.c_proj.weight": random(32, 128),
        }
    if bias:
        weights |= {
            name.replace(".weight", ".bias"): random(len(weight))
            for name, weight in weights.items()
            if ".h." in name or "ln_f" in name
        }
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    return weights


def nanogpt_logits(w: dict[str, Tensor], ids: Tensor) -> Tensor:
    """nanoGPT's forward pass, ids [T] -> [T, V]."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (32,), w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    steps = len(ids)
    hidden = torch.ones(steps, steps).triu(1).bool()
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][:steps]
    for layer in range(2):
        at = f"transformer.h.{layer}."
        q, k, v = linear(norm(x, f"{at}ln_1"), f"{at}attn.c_attn").split(32, -1)
        outs = []
        for head in range(4):
            cut = slice(8 * head, 8 * head + 8)
            scores = (q[:, cut] @ k[:, cut].T / 8**0.5).masked_fill(hidden, -torch.inf)
            outs.append(scores.softmax(-1) @ v[:, cut])
        x = x + linear(torch.cat(outs, -1), f"{at}attn.c_proj")
        inner = F.gelu(linear(norm(x, f"{at}ln_2"), f"{at}mlp.c_fc"))
        x = x + linear(inner, f"{at}mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T


def save(path: Path, weights: dict[str, Tensor], **arguments: Any) -> Path:
    """A checkpoint as train.py writes it."""
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save(
        {
            "model": weights,
            "optimizer": optimizer,
            "model_args": ARGUMENTS | arguments,
            "iter_num": 3,
            "best_val_loss": torch.tensor(2.5),
            "config": {"dataset": "shakespeare"},
        },
        path,
    )
    return path


@pytest.mark.parametrize(("prefix", "bias"), [("", False), ("_orig_mod.", False), ("", True)])
def test_logits_equal_an_independent_forward(prefix: str, bias: bool, tmp_path: Path) -> None:
    weights = nanogpt_weights(bias=bias)
    path = save(tmp_path / "ckpt.pt", {prefix + name: t for name, t in weights.items()})
    assert source_kind(path) == "nanogpt"
    model = read_source(path, "nanogpt").build()
    ids = torch.arange(24) % 61
    torch.testing.assert_close(
        model(ids[None])[0], nanogpt_logits(weights, ids), rtol=1e-4, atol=1e-4
    )


def test_causal_masks_of_older_versions_are_passed_over(tmp_path: Path) -> None:
    weights = nanogpt_weights() | {"transformer.h.0.attn.bias": torch.ones(1, 1, 24, 24)}
    assert read_source(save(tmp_path / "ckpt.pt", weights), "nanogpt").build()


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (
            lambda w: w.update({"transformer.h.0.ln_1.bias": w["transformer.ln_f.weight"]}),
            {},
            "transformer.h.0.attn.c_attn.bias is missing",
        ),
        (lambda w: w.pop("transformer.ln_f.weight"), {}, "ln_f.weight is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), {}, "extra is unexpected"),
        (dict.keys, {"n_embd": 64}, "instead of [61, 64]"),
        (dict.keys, {"n_layer": 1 << 60}, "n_layer 1152921504606846976 ... more than 1000"),
        (dict.keys, {"n_head": 5}, "not a multiple"),
        (dict.keys, {"n_head": "4"}, "no whole number n_head"),
        (dict.keys, {"block_size": 1 << 40}, "wpe.weight has shape [24, 32]"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor]], Any],
    arguments: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    weights = nanogpt_weights()
    change(weights)
    with pytest.raises(ModelFolderError, match=said(message)):
        read_source(save(tmp_path / "ckpt.pt", weights, **arguments), "nanogpt").build()


def test_nanochat_is_refused_by_name(tmp_path: Path) -> None:
    weights = {
        "transformer.wte.weight": torch.zeros(8, 4),
        "transformer.h.0.attn.c_q.weight": torch.zeros(4, 4),
        "resid_lambdas": torch.ones(1),
        "lm_head.weight": torch.zeros(8, 4),
    }
    torch.save(weights, tmp_path / "model_000100.pt")
    assert source_kind(tmp_path / "model_000100.pt") == "nanochat"
    with pytest.raises(ModelFolderError, match=said("15 tanh(x / 15) ... norm between ... factor")):
        read_source(tmp_path / "model_000100.pt", "nanochat")
