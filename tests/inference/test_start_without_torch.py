"""Starts of the native core with a packed file: they import no torch, which takes longer than they
do; and PyTorch's executor keeps to the threads that it is given.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_llama import build_llama, save_llama_folder, vocabulary

from puna.engine_process.messages import Load, ModelSpec
from puna.engine_process.process import load_engines
from puna.formats.gguf_model import write_gguf
from puna.inference.engine_config import EngineConfig
from puna.inference.language_model import load
from puna.inference.request import GenerationOptions, Request
from puna.inference.torch_executor import TorchExecutor
from puna.native import library

PROGRAM = """
import io, sys
from contextlib import redirect_stdout
sys.modules["torch"] = None  # an import raises ImportError
from puna.cli.main import app
from puna.engine_process.messages import Load, ModelSpec
from puna.engine_process.process import load_engines
from puna.inference.engine_config import EngineConfig
from puna.inference.request import GenerationOptions, Request
path = sys.argv[1]
with redirect_stdout(io.StringIO()) as text:
    arguments = [path, "the llama", "--max-tokens", "8", "--temperature", "0", "--device", "cpu"]
    app(["generate", *arguments], standalone_mode=False)
engines, loaded = load_engines(Load((ModelSpec("tiny", path),), EngineConfig(), "cpu", None, 1))
engine, ids = engines["tiny"], []
options = GenerationOptions(max_tokens=8, temperature=0)
engine.add(Request("one", (5, 6, 7), options))
while engine.busy:
    ids += [token for event in engine.step() for token in event.ids]
print(repr((text.getvalue(), ids)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_llama_folder(tmp_path / "model", build_llama())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model.gguf", build_llama(), vocabulary(), "f32")
    return tmp_path / "model.gguf"


def greedy(command: Load) -> list[int]:
    """Eight tokens of the only engine."""
    (engine,) = load_engines(command)[0].values()
    engine.add(Request("one", (5, 6, 7), GenerationOptions(max_tokens=8, temperature=0)))
    ids: list[int] = []
    while engine.busy:
        ids += [token for event in engine.step() for token in event.ids]
    return ids


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_packed_model_starts_without_torch(kind: str, request: pytest.FixtureRequest) -> None:
    """`puna generate` and the engine process of `puna serve`, with a folder and with a GGUF file;
    their texts are those of PyTorch's executor.
    """
    if not library.available_tiers():
        pytest.skip("the native core was not compiled here")
    path: Path = request.getfixturevalue(kind)
    with_torch = EngineConfig(isa="torch")
    options = {"max_tokens": 8, "temperature": 0}
    text = load(path, "cpu", options=with_torch).generate("the llama", **options)
    command = Load((ModelSpec("tiny", str(path)),), with_torch, "cpu", None, 1)
    expected = (f"the llama{text}\n", greedy(command))
    assert greedy(dataclasses.replace(command, options=EngineConfig())) == expected[1]  # packs it
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, f"{expected!r}\n"), result.stderr


def test_threads_that_are_asked_for_are_those_of_pytorch_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    options = EngineConfig(isa="torch", threads=3)
    assert isinstance(load(folder, "cpu", options=options).engine.executor, TorchExecutor)
    assert asked == [3]
    assert load(folder, "cpu", options=EngineConfig(isa="torch")).engine.executor.num_blocks
    assert asked == [3]  # PyTorch's own choice stays
