"""A GGUF path in the place of a model folder, and exports that end in one, with a reader and a
writer of the test's own: here only the way to them is tested.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from jinja_layouts import jinja
from said import said
from small_llama import TEXT, build_llama, save_llama_folder, vocabulary

import puna as library
from puna.errors import ModelFolderError, TokenizerError
from puna.formats.foreign_model import ForeignModel
from puna.formats.model_path import open_model, read_tokenizer, written_at
from puna.model.transformer import Transformer
from puna.model.weights import named_tensors
from puna.tokenizer.tokenizer import Tokenizer
from puna.workflow.exporting import export_model
from puna.workflow.importing import import_model

Puna = Callable[..., Any]


class StandIn(ModuleType):
    """A module that keeps what is written and gives it back, with q8_0 as rounding to 1/127."""

    def __init__(self) -> None:
        super().__init__("puna.formats.gguf_model")
        self.written: dict[str, ForeignModel] = {}
        self.last: ForeignModel | None = None

    def write_gguf(self, path: Path, model: Transformer, tokenizer: Tokenizer, type: str) -> None:  # noqa: A002
        path.write_bytes(b"GGUF" + type.encode())
        kept = {name: tensor.detach().clone() for name, tensor in named_tensors(model)}
        if type == "q8_0":
            for tensor in kept.values():
                if tensor.dim() == 2:
                    blocks = tensor.view(-1, 32)
                    step = blocks.abs().amax(-1, keepdim=True) / 127
                    blocks.copy_((blocks / step).round() * step)
        self.last = ForeignModel(
            model.config,
            lambda: iter(kept.items()),
            tokenizer,
            tokenizer.bos_id,
            tuple(sorted(tokenizer.end_ids)),
        )

    def read_gguf(self, path: Path) -> ForeignModel:
        assert Path(path).read_bytes()[:4] == b"GGUF"
        assert self.last is not None
        return self.last


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "puna.formats.gguf_model", module)
    return module


@pytest.fixture
def file(gguf: StandIn, tmp_path: Path) -> Path:
    gguf.write_gguf(tmp_path / "model.gguf", build_llama(), vocabulary(), "f32")
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


def test_a_gguf_without_tokenizer_says_what_to_type(gguf: StandIn, file: Path) -> None:
    assert gguf.last is not None
    gguf.last = ForeignModel(gguf.last.config, gguf.last.tensors, None, None, ())
    with pytest.raises(TokenizerError, match=said("puna import ... OUT --tokenizer PATH")):
        open_model(file)


@pytest.mark.parametrize("number_type", ["f32", "q8_0"])
def test_a_gguf_export_is_read_back(
    number_type: str, gguf: StandIn, file: Path, tmp_path: Path
) -> None:
    del file
    folder = save_llama_folder(tmp_path / "model", build_llama())
    written = export_model(folder, tmp_path / "out.gguf", "gguf", number_type=number_type)
    assert (tmp_path / "out.gguf").is_file()
    holds = {row.name: row.holds for row in written.proof}
    assert holds.pop("greedy text") is (True if number_type == "f32" else None)
    assert set(holds.values()) == {True}
    import_model(tmp_path / "out.gguf", tmp_path / "again")
    assert gguf.last is not None
    for name, tensor in named_tensors(open_model(tmp_path / "again")[0]):
        assert torch.equal(tensor, dict(gguf.last.tensors())[name])


def test_one_altered_weight_of_eight_bits_is_seen(
    gguf: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One code off by two steps of its block."""
    write = gguf.write_gguf

    def altered(path: Path, *rest: Any) -> None:
        write(path, *rest)
        assert gguf.last is not None
        weight = dict(gguf.last.tensors())["model.layers.0.mlp.up_proj.weight"]
        weight[7, 3] += 2 * weight[7, :32].abs().max() / 127

    monkeypatch.setattr(gguf, "write_gguf", altered)
    folder = save_llama_folder(tmp_path / "model", build_llama())
    with pytest.raises(ModelFolderError, match=said("off: 1 of model.layers.0.mlp.up_proj")):
        export_model(folder, tmp_path / "out.gguf", "gguf", number_type="q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def _jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jinja by itself in the place of the bounded process."""

    class Template:
        def __init__(self, source: str, _: str) -> None:
            self.source = source

        def render(self, contexts: list[dict[str, Any]]) -> list[str]:
            return [jinja(self.source)(**context) for context in contexts]

    module = ModuleType("puna.tokenizer.jinja_template")
    module.JinjaTemplate = Template  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("_jinja")
def test_ollama_gets_a_modelfile(gguf: StandIn, tmp_path: Path) -> None:
    del gguf
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


@pytest.mark.usefixtures("_jinja")
def test_an_unknown_template_is_refused_for_ollama(gguf: StandIn, tmp_path: Path) -> None:
    del gguf
    folder = save_llama_folder(tmp_path / "model", build_llama())
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ModelFolderError, match=said("Ollama's template language ... --to gguf")):
        export_model(folder, tmp_path / "out", "ollama")
    assert not (tmp_path / "out").exists()
