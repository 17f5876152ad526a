"""Meta's checkpoints: equal to an independent implementation of that layout, whose rotary pairs are
complex numbers; parts joined; what contradicts itself refused.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from said import said
from torch import Tensor
from torch.nn import functional as F

from puna.errors import ModelFolderError
from puna.formats.meta_checkpoint import WEIGHTS, read_meta, write_meta
from puna.formats.meta_params import FILE, params_of
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors
from puna.nn.feed_forward import swiglu_hidden_size

PARAMS: dict[str, Any] = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": -1,
    "multiple_of": 16,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
HIDDEN = 96


def meta_weights(seed: int = 0, dim: int = 32, vocab: int = 50) -> dict[str, Tensor]:
    """Random weights under Meta's names."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    weights = {
        "tok_embeddings.weight": random(vocab, dim),
        "norm.weight": 1 + random(dim),
        "output.weight": random(vocab, dim),
        "rope.freqs": torch.zeros(4),
    }
    for layer in range(2):
        weights |= {
            f"layers.{layer}.{name}.weight": tensor
            for name, tensor in {
                "attention.wq": random(dim, dim),
                "attention.wk": random(dim // 2, dim),
                "attention.wv": random(dim // 2, dim),
                "attention.wo": random(dim, dim),
                "feed_forward.w1": random(HIDDEN, dim),
                "feed_forward.w2": random(dim, HIDDEN),
                "feed_forward.w3": random(HIDDEN, dim),
                "attention_norm": 1 + random(dim),
                "ffn_norm": 1 + random(dim),
            }.items()
        }
    return weights


def scaled_frequencies(frequencies: Tensor) -> Tensor:
    """Llama 3.1's scaling, frequency by frequency."""
    out = []
    for frequency in frequencies.tolist():
        wavelength = 2 * torch.pi / frequency
        if wavelength < 8192 / 4:
            out.append(frequency)
        elif wavelength > 8192:
            out.append(frequency / 8)
        else:
            smooth = (8192 / wavelength - 1) / 3
            out.append((1 - smooth) * frequency / 8 + smooth * frequency)
    return torch.tensor(out)


def meta_logits(weights: dict[str, Tensor], params: dict[str, Any], ids: Tensor) -> Tensor:
    """The decoder in Meta's layout, ids [T] -> [T, V]: rotation as a product of complex numbers."""
    heads, kv_heads = params["n_heads"], params["n_kv_heads"]
    width = params["dim"] // heads
    steps = len(ids)
    frequencies = params["rope_theta"] ** (-torch.arange(0, width, 2) / width)
    if params.get("use_scaled_rope"):
        frequencies = scaled_frequencies(frequencies)
    angles = torch.outer(torch.arange(steps).float(), frequencies)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + params["norm_eps"]).rsqrt() * weight

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(steps, -1, width // 2, 2))
        return torch.view_as_real(pairs * turn).flatten(2)

    x = weights["tok_embeddings.weight"][ids]
    for layer in range(params["n_layers"]):
        part = {
            name.split(".", 2)[2].removesuffix(".weight"): tensor
            for name, tensor in weights.items()
            if name.startswith(f"layers.{layer}.")
        }
        h = norm(x, part["attention_norm"])
        q = rotated((h @ part["attention.wq"].T).view(steps, heads, width))
        k = rotated((h @ part["attention.wk"].T).view(steps, kv_heads, width))
        v = (h @ part["attention.wv"].T).view(steps, kv_heads, width)
        outs = []
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, shared].T / width**0.5
            scores = scores.masked_fill(torch.ones(steps, steps).triu(1).bool(), -torch.inf)
            outs.append(scores.softmax(-1) @ v[:, shared])
        x = x + torch.cat(outs, -1) @ part["attention.wo"].T
        h = norm(x, part["ffn_norm"])
        gate = F.silu(h @ part["feed_forward.w1"].T) * (h @ part["feed_forward.w3"].T)
        x = x + gate @ part["feed_forward.w2"].T
    return norm(x, weights["norm.weight"]) @ weights["output.weight"].T


def save_meta(
    folder: Path,
    weights: dict[str, Tensor],
    params: dict[str, Any],
    parts: int = 1,
    rows: bool = False,
) -> Path:
    """Write a checkpoint, split over `parts` files as Meta's model parallelism does; rows: the
    embedding by rows, as in Llama 3.
    """
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(json.dumps(params))
    split = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "output": 0}
    split["tok_embeddings"] = 0 if rows else 1
    for part in range(parts):
        mine = {}
        for name, tensor in weights.items():
            dim = split.get(name.removesuffix(".weight").rpartition(".")[2])
            mine[name] = tensor if dim is None else tensor.chunk(parts, dim)[part].clone()
        torch.save(mine, folder / f"consolidated.{part:02d}.pth")
    return folder


@pytest.mark.parametrize("scaled", [False, True])
def test_logits_equal_an_independent_implementation(scaled: bool, tmp_path: Path) -> None:
    weights, params = meta_weights(), PARAMS | {"use_scaled_rope": scaled}
    model = read_meta(save_meta(tmp_path, weights, params)).build()
    ids = torch.arange(40) % 50
    # a base at which the slow frequencies are scaled
    expected = meta_logits(weights, params, ids)
    torch.testing.assert_close(model(ids[None])[0], expected, rtol=1e-4, atol=1e-4)
    assert model.config.context_length == (131072 if scaled else 8192)


@pytest.mark.parametrize(("parts", "rows"), [(2, False), (2, True), (1, False)])
def test_parts_are_joined_bit_by_bit(parts: int, rows: bool, tmp_path: Path) -> None:
    weights = meta_weights()
    whole = dict(read_meta(save_meta(tmp_path / "whole", weights, PARAMS)).tensors())
    folder = save_meta(tmp_path / "parts", weights, PARAMS, parts, rows)
    joined = dict(read_meta(folder).tensors())
    assert whole.keys() == joined.keys()
    assert all(torch.equal(whole[name], joined[name]) for name in whole)


def test_equal_matrices_are_read_as_tied(tmp_path: Path) -> None:
    weights = meta_weights()
    weights["output.weight"] = weights["tok_embeddings.weight"]
    found = read_meta(save_meta(tmp_path, weights, PARAMS))
    assert found.config.tie_embeddings
    assert "lm_head.weight" not in dict(found.tensors())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": True},
        {"feed_forward_width": 40},
        {"feed_forward_width": 257},
        {"rope_base": 5e5, "rope_scaling": {"kind": "llama3"}, "norm_eps": 1e-6},
        {"num_kv_heads": 4},
    ],
)
def test_round_trips_are_bit_equal(
    changes: dict[str, Any], build_llama: Callable[..., Transformer], tmp_path: Path
) -> None:
    model = build_llama(**changes)
    write_meta(tmp_path, model)
    found = read_meta(tmp_path, model.config.context_length)
    assert found.config == model.config
    again = dict(found.tensors())
    assert all(torch.equal(tensor, again[name]) for name, tensor in named_tensors(model))


def test_what_is_written_is_meta_s_layout(llama: Transformer, tmp_path: Path) -> None:
    write_meta(tmp_path, llama)
    params = json.loads((tmp_path / FILE).read_text())
    weights = torch.load(tmp_path / WEIGHTS, weights_only=True)
    ids = torch.arange(30)
    with torch.no_grad():
        torch.testing.assert_close(
            meta_logits(weights, params, ids), llama(ids[None])[0], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("width", "hidden"), [(4096, 11008), (64, 1), (64, 170), (64, 999), (8, 21)]
)
def test_any_feed_forward_width_has_keys(width: int, hidden: int) -> None:
    config = ModelConfig(
        vocab_size=9, width=width, num_layers=1, num_heads=2, feed_forward_width=hidden
    )
    params = params_of(config)
    found = swiglu_hidden_size(
        params["dim"], params["multiple_of"], params.get("ffn_dim_multiplier") or 1.0
    )
    assert found == hidden


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placement": "post"}, "placement = post"),
        ({"feed_forward": "geglu"}, "feed_forward = geglu (only swiglu)"),
        ({"head_width": 16}, "head_width = 16 (always width / num_heads)"),
        ({"rope_scaling": {"kind": "linear", "factor": 2}}, "rope_scaling ... linear"),
        ({"rope_scaling": {"kind": "llama3", "factor": 32}}, "rope_scaling ... 32"),
    ],
)
def test_what_meta_cannot_hold_is_refused_by_name(
    changes: dict[str, Any], message: str, build_llama: Callable[..., Transformer], tmp_path: Path
) -> None:
    with pytest.raises(ModelFolderError, match=said(message)):
        write_meta(tmp_path, build_llama(**changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 3}, "n_layers 3 ... 2 layers"),
        ({"n_layers": 1 << 60}, "n_layers = 1152921504606846976 ... less than or equal to 1000"),
        ({"dim": 64}, "multiple_of"),
        ({"vocab_size": 49}, "vocab_size 49 ... 50 rows"),
        ({"multiple_of": 256}, "feed-forward width of 256 ... 96"),
        ({"n_heads": 3}, "not a multiple"),
        ({"n_kv_heads": 4}, "layers.0.attention.wk.weight has shape [16, 32] instead of [32, 32]"),
        ({"moe_args": {"num_experts": 8}}, "moe_args ... num_experts"),
        ({"quantization_args": {"group_size": 32}}, "quantization_args"),
        ({"norm_eps": "a"}, "norm_eps = a"),
        ({"rope_theta": float("nan")}, "rope_theta = nan"),
    ],
)
def test_params_that_do_not_fit_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFolderError, match=said(message)):
        read_meta(save_meta(tmp_path, meta_weights(), PARAMS | change)).build()


def test_a_list_of_problems_is_short(tmp_path: Path) -> None:
    weights = {name.replace("attention.", "self."): t for name, t in meta_weights().items()}
    weights |= {f"extra.{n}": torch.zeros(1) for n in range(20)}
    with pytest.raises(
        ModelFolderError, match=said("extra.0 is unexpected ... and ... more")
    ) as caught:
        read_meta(save_meta(tmp_path, weights, PARAMS))
    assert len(re.findall("unexpected|missing", str(caught.value))) == 10


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    save_meta(tmp_path, meta_weights(), PARAMS, 2)
    (tmp_path / "consolidated.00.pth").unlink()
    with pytest.raises(ModelFolderError, match=said("consolidated.01.pth ... consolidated.00.pth")):
        read_meta(tmp_path)


def test_params_that_are_missing_or_damaged(tmp_path: Path) -> None:
    save_meta(tmp_path, meta_weights(), PARAMS)
    for text in ("", "[", "[1]", '{"dim": 1', "[" * 100_000):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ModelFolderError, match=re.escape(str(tmp_path / FILE))):
            read_meta(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(ModelFolderError, match=said("params.json is missing ... copy it")):
        read_meta(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = save_meta(tmp_path / "a", meta_weights(), PARAMS)
    (folder / WEIGHTS).rename(tmp_path / "elsewhere.pth")
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere.pth")
    with pytest.raises(ModelFolderError, match=said("is a link ... elsewhere.pth ... name the")):
        read_meta(folder)
