"""`puna plan memory` and `puna plan data`: the parts, the epochs, and what is rejected."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from said import said

from puna.model.accounting import training_memory
from puna.model.config import ModelConfig
from puna.native.library import available_tiers
from puna.plan.mixtures import MIXTURES
from puna.training import compute_backend
from puna.training.step_memory import native_memory

Puna = Callable[..., Any]


def gigabytes(out: str, label: str) -> list[float]:
    """The figures of the rows with this label, training's before inference's."""
    return [
        float(figure.replace(",", ""))
        for figure in re.findall(rf"^  {label}\b.* ([\d,.]+) GB$", out, re.MULTILINE)
    ]


def test_the_7b_model_s_memory_by_part(puna: Puna) -> None:
    result = puna("plan", "memory", "llama-7b", "--batch", 4, "--activation-checkpointing")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(
        "llama-7b: 6,738,415,616 parameters; 4 x 2,048 tokens\n\ntraining on cuda\n"
    )
    assert gigabytes(result.out, "weights") == [26.954, 13.477]
    assert gigabytes(result.out, "gradients") == [26.954]
    assert gigabytes(result.out, "optimizer moments") == [53.907]
    # 2 x 32 layers x 4096 x 2 bytes x 4 x 2048 positions
    assert gigabytes(result.out, "kv cache") == [4.295]
    config = ModelConfig.model_validate({"preset": "llama-7b"})
    total = training_memory(config, 4, 2048, half=True, checkpointing=True, device="cuda").total
    assert gigabytes(result.out, "total") == [round(total / 1e9, 3), 17.772]
    assert (
        gigabytes(result.out, "activations")[0]
        < gigabytes(puna("plan", "memory", "llama-7b", "--batch", 4).out, "activations")[0] / 10
    )


def test_four_bits_shrink_the_weights_and_leave_the_cache(puna: Puna) -> None:
    out = puna("plan", "memory", "llama-65b", "--bits", 4, "--context", 1024).out
    assert gigabytes(out, "weights")[1] == 35.455  # what `puna plan tree llama-65b` prints
    assert gigabytes(out, "kv cache") == [round(2 * 80 * 8192 * 2 * 1024 / 1e9, 3)]


def test_an_int8_cache_takes_about_half(puna: Puna) -> None:
    out = puna("plan", "memory", "llama-3-8b", "--context", 8192, "--kv-cache-dtype", "int8").out
    # a byte an entry, and four for each key and each value of a head
    assert gigabytes(out, "kv cache") == [round(2 * 32 * 8 * (128 + 4) * 8192 / 1e9, 3)]


def test_precision_and_device_reach_the_estimate(puna: Puna) -> None:
    config, tiers = ModelConfig.model_validate({"preset": "puna-4m"}), available_tiers()
    for device in ("cpu", "cuda"):
        for precision in ("float32", "bfloat16"):
            out = puna(
                "plan",
                "memory",
                "puna-4m",
                "--batch",
                8,
                "--device",
                device,
                "--precision",
                precision,
            ).out
            half = precision == "bfloat16"
            expected = training_memory(config, 8, 512, half=half, device=device)
            if device == "cpu" and tiers:
                expected = native_memory(config, 8, 512, half=half)
            assert gigabytes(out, "total")[0] == round(expected.total / 1e9, 3)
            computed = f"the native core, {tiers[-1]}" if tiers else "torch"
            title = "training on cpu, by " + computed if device == "cpu" else "training on cuda"
            assert f"{title}\n" in out
            assert f"activations ({precision} products)" in out


def test_a_cpu_without_the_core_and_twice_computed_activations_are_planned_on_torch(
    puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig.model_validate({"preset": "puna-4m"})
    checkpointing = ("puna-4m", "--device", "cpu", "--activation-checkpointing")
    out = puna("plan", "memory", *checkpointing).out
    expected = training_memory(config, 1, 512, half=True, checkpointing=True)
    assert gigabytes(out, "total")[0] == round(expected.total / 1e9, 3)
    assert "training on cpu, by torch\n" in out
    monkeypatch.setattr(compute_backend, "available_tiers", lambda: ())
    out = puna("plan", "memory", "puna-4m", "--device", "cpu").out
    assert gigabytes(out, "total")[0] == round(
        training_memory(config, 1, 512, half=True).total / 1e9, 3
    )


@pytest.mark.parametrize(
    ("optimizer", "words", "size"),
    [
        # 32 layers of 202,375,168 entries in matrices, and 262,410,240 others
        ("muon", "Muon's one, AdamW's two", 4 * 32 * 202_375_168 + 8 * 262_410_240),
        ("sgd", "SGD's one", 4 * 6_738_415_616),
        ("adamw", "AdamW's two", 8 * 6_738_415_616),
    ],
)
def test_the_moments_are_the_optimizer_s(optimizer: str, words: str, size: int, puna: Puna) -> None:
    out = puna("plan", "memory", "llama-7b", "--optimizer", optimizer).out
    assert f"optimizer moments ({words}, float32)" in out
    assert gigabytes(out, "optimizer moments") == [round(size / 1e9, 3)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["llama-66b"], 1, "error: ... 'llama-66b' ... llama-7b"),
        (["llama-7b", "--batch", "0"], 1, "error: ... batch ... 0 ... at least 1"),
        (
            ["llama-7b", "--context", "4096"],
            1,
            "error: ... context ... 4096 ... 2048",
        ),
        (["llama-7b", "--bits", "8"], 2, "'8' is not one of '4', '16'"),
        (["llama-7b", "--device", "tpu"], 2, "'tpu' is not one of 'cuda', 'cpu'"),
        (
            ["puna-4m", "--device", "cpu", "--batch", "0"],
            1,
            "error: ... batch ... 0 ... at least 1",
        ),
        (["llama-7b", "--optimizer", "lion"], 2, "'lion' is not one of 'adamw', 'muon', 'sgd'"),
    ],
)
def test_memory_that_cannot_be_planned(
    arguments: list[str], code: int, message: str, puna: Puna
) -> None:
    result = puna("plan", "memory", *arguments)
    assert (result.code, result.out) == (code, "")
    assert re.search(said(message), result.err)


def test_llama_s_mixture_by_corpus(puna: Puna) -> None:
    result = puna("plan", "data", "--tokens", "1.4e12", "--mixture", "llama")
    assert (result.code, result.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in result.out.splitlines()[1:]}
    assert list(rows) == [*MIXTURES["llama"], "all"]
    assert rows["CommonCrawl"] == ["67.0%", "938B", "853B", "1.10"]
    assert rows["Wikipedia"] == ["4.5%", "63B", "25.7B", "2.45"]
    assert rows["all"] == ["100.0%", "1.4T", "1.263T", "1.11"]


def test_sources_on_the_command_line_say_the_same_as_the_named_mixture(puna: Puna) -> None:
    named = puna("plan", "data", "--tokens", "1.4e12", "--mixture", "llama").out
    texts = (
        "CommonCrawl:67.0:853e9 C4:15:198e9 GitHub:4.5:98e9 Wikipedia:4.5:25.7e9 Books:4.5:28.3e9"
        " ArXiv:2.5:33e9 StackExchange:2:27.2e9"
    )
    options = [word for text in texts.split() for word in ("--source", text)]
    assert puna("plan", "data", "--tokens", "1.4e12", *options).out == named


def test_weights_are_relative_to_their_sum(puna: Puna) -> None:
    out = puna(
        "plan", "data", "--tokens", "2e9", "--source", "web:4:5e9", "--source", "books:1:100e6"
    ).out
    assert out.splitlines()[2].split() == ["books", "20.0%", "400M", "100M", "4.00"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tokens", "1e9"], 2, "give either --mixture or --source"),
        (
            ["--tokens", "1e9", "--mixture", "llama", "--source", "a:1:1"],
            2,
            "give either --mixture or --source",
        ),
        (["--mixture", "llama"], 2, "Missing option '--tokens'"),
        (
            ["--tokens", "0", "--mixture", "llama"],
            1,
            "error: tokens ... 0 ... above zero",
        ),
        (
            ["--tokens", "1e9", "--mixture", "pile"],
            1,
            "error: ... 'pile' ... llama",
        ),
        (
            ["--tokens", "1e9", "--source", "web"],
            1,
            "error: ... 'web' ... NAME:WEIGHT:TOKENS",
        ),
    ],
)
def test_mixtures_that_cannot_be_planned(
    arguments: list[str], code: int, message: str, puna: Puna
) -> None:
    result = puna("plan", "data", *arguments)
    assert (result.code, result.out) == (code, "")
    assert re.search(said(message), result.err)


@pytest.mark.parametrize("command", ["tree", "size", "memory", "data", "fit"])
def test_every_plan_teaches_with_an_example(command: str, puna: Puna) -> None:
    result = puna("plan", command, "--help")
    assert result.code == 0
    assert f"puna plan {command} " in result.out.partition("Example")[2]


def test_gpus_that_share_the_weights(puna: Puna) -> None:
    arguments = ("plan", "memory", "llama-7b", "--activation-checkpointing")
    result = puna(*arguments, "--gpus", 8, "--shard")
    assert (result.code, result.err) == (0, "")
    alone, shared = gigabytes(result.out, "total")[:2]
    assert gigabytes(result.out, "gradients") == [26.954, 3.369]
    kept = 7 / 8 * (26.954 + 26.954 + 53.907)
    assert shared == pytest.approx(alone - kept + gigabytes(result.out, "gathered")[0], abs=0.01)
    assert f"fits in 80.000 GB (--gpu-memory) {80 - shared:.3f} GB to spare" in " ".join(
        result.out.split()
    )
    small = puna(*arguments, "--gpus", 8, "--shard", "--gpu-memory", 20).out
    assert f"fits in 20.000 GB (--gpu-memory) {shared - 20:.3f} GB too many" in " ".join(
        small.split()
    )
    assert "efficiency, at best 100%" in " ".join(small.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", 8), "--gpus 8 is about shared weights: add --shard, or leave it out"),
        (("--shard",), "1 GPU shares weights with no other: give --gpus 2 or more"),
    ],
)
def test_gpus_that_share_nothing_are_rejected(
    options: tuple[Any, ...], message: str, puna: Puna
) -> None:
    result = puna("plan", "memory", "llama-7b", *options)
    assert result.code == 1
    assert re.search(said(message), result.err)
