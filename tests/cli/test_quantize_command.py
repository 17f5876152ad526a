"""`puna quantize`: its tables, its errors, and a folder that the other commands take."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_llama import TEXT, build_llama, save_llama_folder

Puna = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("\n".join(f"{TEXT} {number}" for number in range(100)))
    return save_llama_folder(tmp_path / "model", build_llama(tie_embeddings=True))


def test_the_price_is_printed_and_the_folder_runs(folder: Path, puna: Puna) -> None:
    out, text = folder.parent / "out", folder.parent / "text.txt"
    options = ("--to", "int4", "--group", 32, "--calibrate", text)
    done = puna("quantize", folder, out, *options)
    assert done.code == 0
    for part in ("embed_tokens", "layer 0", "layer 1", "worst: layers.", "bits a weight", "times"):
        assert part in done.out
    said = json.loads((out / "puna.json").read_text())["quantized"]
    before, after = said["bits_per_byte"]
    assert f"{before:.4f}" in done.out
    assert f"{after / before - 1:+.2%}" in done.out
    assert "the last tenth of" in done.out
    again = puna("generate", out, "the llama", "--max-tokens", 4, "--temperature", 0)
    assert again.code == 0


def test_distillation_shows_its_progress_after_that_of_the_layers(folder: Path, puna: Puna) -> None:
    text = folder.parent / "text.txt"
    options = ("--to", "int4", "--group", 32, "--calibrate", text)
    done = puna("quantize", folder, folder.parent / "out", *options, "--distil")
    assert done.code == 0, done.err
    assert 0 < done.err.index("quantizing 100%") < done.err.index("distilling 100%")
    assert "--distil would lower" not in done.out.replace("\n", " ")
    plain = puna("quantize", folder, folder.parent / "plain", *options)
    assert "--distil would lower the error of 4 bits" in plain.out.replace("\n", " ")


def test_a_prepared_folder_calibrates_and_is_measured(folder: Path, puna: Puna) -> None:
    data, text = folder.parent / "data", folder.parent / "text.txt"
    prepared = puna(
        *("data", "prepare", text, "--tokenizer", folder, "--out", data),
        *("--validation-fraction", 0.2),
    )
    assert prepared.code == 0, prepared.err
    options = ("--to", "int8", "--calibrate", data, "--head", "int8", "--keep", "down_proj")
    done = puna("quantize", folder, folder.parent / "out", *options)
    assert done.code == 0, done.err
    assert f"the validation split of {data}" in done.out.replace("\n", "")
    assert "Kept as they were: layers.0.mlp.down_proj, layers.1.mlp.down_proj" in done.out


def test_an_error_is_one_line(folder: Path, puna: Puna) -> None:
    out = folder.parent / "out"
    out.mkdir()
    done = puna("quantize", folder, out, "--to", "int8")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"error: {out} is there already")
    assert not list(out.iterdir())
