"""A GGUF path in the place of a model folder, and exports that end in one."""

import dataclasses
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from said import said
from small_llama import TEXT, build_llama, save_llama_folder, vocabulary

import puna as library
from puna.errors import ModelFolderError, TokenizerError
from puna.formats import gguf_model
from puna.formats.gguf_model import read_gguf, write_gguf
from puna.formats.model_path import open_model, read_tokenizer, written_at
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors
from puna.workflow import exporting
from puna.workflow.exporting import export_model
from puna.workflow.importing import import_model

Puna = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model.gguf", build_llama(), vocabulary(), "f32")
    return tmp_path / "model.gguf"


def test_a_gguf_path_is_loaded_as_a_folder_is(file: Path, tmp_path: Path) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama())
    ours, theirs = library.load(file, "cpu"), library.load(folder, "cpu")
    options = {"max_tokens": 8, "temperature": 0}
    assert ours.generate("the llama", **options) == theirs.generate("the llama", **options)
    assert library.load(file, "cpu", torch.bfloat16).model.output_weight.dtype == torch.bfloat16
    assert read_tokenizer(file).hash == read_tokenizer(folder).hash == vocabulary().hash
    assert written_at(file) == int(file.stat().st_mtime)
    assert written_at(folder) == int((folder / "config.json").stat().st_mtime)


def test_the_commands_take_a_gguf_path(puna: Puna, file: Path, tmp_path: Path) -> None:
    options = ("the llama", "--temperature", 0, "--max-tokens", 4, "--device", "cpu")
    result = puna("generate", file, *options)
    assert (result.code, result.out[:9]) == (0, "the llama"), result.err
    (tmp_path / "text.txt").write_text(TEXT * 20)
    result = puna("eval", file, "--text", tmp_path / "text.txt", "--device", "cpu")
    assert result.code == 0, result.err
    assert "bits per byte" in result.out


def test_a_gguf_without_tokenizer_says_what_to_type(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = dataclasses.replace(read_gguf(file), tokenizer=None)
    monkeypatch.setattr(gguf_model, "read_gguf", lambda _: bare)
    with pytest.raises(TokenizerError, match=said("puna import ... OUT --tokenizer PATH")):
        open_model(file)


@pytest.mark.parametrize("number_type", ["f32", "q8_0"])
def test_a_gguf_export_is_read_back(number_type: str, tmp_path: Path) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama())
    written = export_model(folder, tmp_path / "out.gguf", "gguf", number_type=number_type)
    assert (tmp_path / "out.gguf").is_file()
    holds = {row.name: row.holds for row in written.proof}
    assert holds.pop("greedy text") is (True if number_type == "f32" else None)
    assert set(holds.values()) == {True}
    import_model(tmp_path / "out.gguf", tmp_path / "again")
    stored = dict(read_gguf(tmp_path / "out.gguf").tensors())
    for name, tensor in named_tensors(open_model(tmp_path / "again")[0]):
        assert torch.equal(tensor, stored[name])


def test_one_altered_weight_of_eight_bits_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One code off by two steps of its block."""

    def altered(path: Path, model: Transformer, *rest: Any) -> None:
        model = deepcopy(model)
        weight = dict(named_tensors(model))["model.layers.0.mlp.up_proj.weight"].data
        weight[7, 3] += 2 * weight[7, :32].abs().max() / 127
        write_gguf(path, model, *rest)

    monkeypatch.setattr(exporting, "write_gguf", altered)
    folder = save_llama_folder(tmp_path / "model", build_llama())
    with pytest.raises(ModelFolderError, match=said("off: 1 of model.layers.0.mlp.up_proj")):
        export_model(folder, tmp_path / "out.gguf", "gguf", number_type="q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_ollama_gets_a_modelfile(tmp_path: Path) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama())
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}')
    export_model(folder, tmp_path / "out", "ollama", number_type="q8_0")
    lines = (tmp_path / "out" / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert lines[1].startswith(
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|start_'
    )
    for line in (
        'PARAMETER stop "<|eot_id|>"',
        'PARAMETER stop "<|end_of_text|>"',
        "PARAMETER num_ctx 96",
        "PARAMETER temperature 0.6",
        "PARAMETER top_p 0.9",
    ):
        assert line in lines
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "model.gguf"]


def test_an_unknown_template_is_refused_for_ollama(tmp_path: Path) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama())
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ModelFolderError, match=said("Ollama's template language ... --to gguf")):
        export_model(folder, tmp_path / "out", "ollama")
    assert not (tmp_path / "out").exists()
