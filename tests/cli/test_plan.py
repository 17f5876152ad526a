"""`puna plan tree`: the 65B model as its printed module tree, and the bytes of any shape."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from said import said

from puna.model.config import ModelConfig
from puna.model.transformer import build_transformer
from puna.model.weights import write_model

Puna = Callable[..., Any]

BLOCK_65B = {
    "q_proj": "Linear4bit(in_features=8192, out_features=8192, bias=False)",
    "k_proj": "Linear4bit(in_features=8192, out_features=8192, bias=False)",
    "v_proj": "Linear4bit(in_features=8192, out_features=8192, bias=False)",
    "o_proj": "Linear4bit(in_features=8192, out_features=8192, bias=False)",
    "gate_proj": "Linear4bit(in_features=8192, out_features=22016, bias=False)",
    "up_proj": "Linear4bit(in_features=8192, out_features=22016, bias=False)",
    "down_proj": "Linear4bit(in_features=22016, out_features=8192, bias=False)",
}


def figures(out: str) -> tuple[int, int]:
    """The two numbers under the tree: parameters, and bytes of the weights."""
    parameters = re.search(r"^parameters +([\d,]+)$", out, re.MULTILINE)
    size = re.search(r"^weight bytes +([\d,]+) \(", out, re.MULTILINE)
    assert parameters, out
    assert size, out
    return int(parameters[1].replace(",", "")), int(size[1].replace(",", ""))


def test_the_65b_tree(puna: Puna) -> None:
    result = puna("plan", "tree", "llama-65b")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"^ +\(0-79\): 80 x \w*Block\($", result.out, re.MULTILINE)
    layers = re.findall(r"\((\w+)\): (Linear4bit\(.*\))$", result.out, re.MULTILINE)
    assert len(layers) == 7  # printed once for all 80
    assert dict(layers) == BLOCK_65B
    assert "(embed_tokens): Embedding(32000, 8192, padding_idx=0)\n" in result.out
    assert "(lm_head): Linear(in_features=8192, out_features=32000, bias=False)\n" in result.out
    assert (
        len(re.findall(r"^ {6}\(\w+\): RMSNorm\(\(8192,\), eps=1e-05\)$", result.out, re.MULTILINE))
        == 2
    )
    assert "\nparameters    65,285,660,672\n" in result.out


def test_the_65b_bytes(puna: Puna) -> None:
    """4.25 bits for each entry of the blocks' matrices, two bytes for embedding, output layer and
    norms; two bytes for all at 16 bits.
    """
    kept = 2 * 32000 * 8192 + (2 * 80 + 1) * 8192
    four = puna("plan", "tree", "llama-65b").out
    assert figures(four) == (65_285_660_672, (65_285_660_672 - kept) * 17 // 32 + 2 * kept)
    assert "(35.455 GB; nf4, the rest bfloat16)" in four
    sixteen = puna("plan", "tree", "llama-65b", "--bits", 16).out
    assert figures(sixteen) == (65_285_660_672, 2 * 65_285_660_672)
    assert "(q_proj): Linear(in_features=8192, out_features=8192, bias=False)" in sixteen
    assert "Linear4bit" not in sixteen


def test_int4_costs_what_nf4_costs_and_says_its_name(puna: Puna) -> None:
    nf4, int4 = (puna("plan", "tree", "llama-7b", "--kind", kind).out for kind in ("nf4", "int4"))
    assert figures(nf4) == figures(int4)
    assert (
        "(q_proj): Linear4bit(in_features=4096, out_features=4096, bias=False, kind=int4)" in int4
    )


@pytest.mark.parametrize("name", ["puna-1m", "puna-15m", "llama-3.2-1b", "llama-3-8b"])
def test_both_precisions_of_presets(name: str, puna: Puna) -> None:
    """Tied output layers are counted once, and widths that no group divides are filled up."""
    parameters, four = figures(puna("plan", "tree", name).out)
    assert figures(puna("plan", "tree", name, "--bits", "16").out) == (parameters, 2 * parameters)
    assert 2 * parameters / 4 < four < 2 * parameters


def test_a_model_folder(puna: Puna, tmp_path: Path) -> None:
    shape = {
        "vocab_size": 50,
        "width": 128,
        "num_layers": 3,
        "num_heads": 4,
        "feed_forward_width": 192,
        "tie_embeddings": True,
    }
    model = build_transformer(ModelConfig.model_validate(shape))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    write_model(tmp_path, model)
    result = puna("plan", "tree", tmp_path)
    matrices, kept = 3 * (4 * 128 * 128 + 3 * 128 * 192), 50 * 128 + 7 * 128
    assert figures(result.out) == (matrices + kept, matrices * 17 // 32 + 2 * kept)
    assert "(0-2): 3 x " in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["llama-66b"],
            1,
            "error: ... 'llama-66b' ... llama-7b, llama-13b",
        ),
        (["."], 1, "error: . ... no model folder ... config.json"),
        (["llama-7b", "--bits", "5"], 2, "'5' is not one of '4', '16'"),
        (["llama-7b", "--kind", "fp4"], 2, "'fp4' is not one of 'nf4', 'int4'"),
    ],
)
def test_what_cannot_be_planned(
    arguments: list[str], code: int, message: str, puna: Puna, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    result = puna("plan", "tree", *arguments)
    assert result.code == code
    assert re.search(said(message), result.err)
