"""Files written here, run by llama.cpp itself: ids, logits and greedy text of a model that was
trained a little. Skipped where its Python binding is not installed; `make test-llamacpp` runs it.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packages import llama2_tokenizer, llama31_tokenizer, smollm2
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1] / "formats"))
from gguf_examples import SAMPLES, TEXT, AnyTokenizer, model_of, tokenizer_of

from puna.formats.gguf_file import GGUFFile
from puna.formats.gguf_model import read_gguf, write_gguf
from puna.formats.gguf_tensors import read_values
from puna.formats.gguf_vocabulary import read_vocabulary
from puna.model.transformer import Transformer
from puna.tokenizer.pretokenize import Digits

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama.cpp is not here: pip install llama-cpp-python"
)

# of logits whose standard deviation is several times one: llama.cpp rounds activations too, to 8
# bits beside weights of blocks, and keeps keys and values in float16
LOGITS = {"f32": 0.02, "f16": 0.05, "bf16": 0.3, "q8_0": 0.5, "q4_0": 0.5, "q4_k_m": 0.5}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "biases": {"feed_forward_bias": True},
    "biases on q, k, v": {"attention_bias": "qkv"},
    "biases in attention": {"attention_bias": "all"},
    "QK-norm": {"qk_norm": True},
    "linear": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "yarn": {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_context": 16}},
    "llama3": {"rope_scaling": {"kind": "llama3", "original_context": 32}},
    "NTK": {"rope_scaling": {"kind": "ntk", "factor": 4.0}},
}
STEPS = 60


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    model = llama_cpp.Llama(
        str(path), n_ctx=128, logits_all=True, verbose=False, n_threads=1, **options
    )
    try:
        yield model
    finally:
        model.close()


def trained(digits: Digits, **shape: Any) -> Transformer:
    """A model that has learnt the sample text by heart, so that its next tokens are clear."""
    torch.manual_seed(0)
    size = {"width": 256, "head_width": 64, "feed_forward_width": 512, "context_length": 128}
    vocabulary = tokenizer_of(digits).vocab_size
    model = model_of(vocab_size=vocabulary, **size, **shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    ids = torch.tensor([tokenizer_of(digits).encode_document(TEXT)])[:, :100]
    for _ in range(STEPS):
        loss = F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def greedy(step: Callable[[list[int]], np.ndarray[Any, Any]], ids: list[int]) -> list[int]:
    found = list(ids)
    for _ in range(24):
        found.append(int(np.argmax(step(found))))
    return found[len(ids) :]


def compare(path: Path, model: Transformer, prompt: list[int], tolerance: float) -> None:
    """Logits within the tolerance, and 24 greedy tokens equal."""
    with opened(path) as theirs, torch.no_grad():

        def ours(ids: list[int]) -> np.ndarray[Any, Any]:
            return model(torch.tensor([ids]))[0, -1].numpy()

        def of_llama_cpp(ids: list[int]) -> np.ndarray[Any, Any]:
            theirs.reset()
            theirs.eval(ids)
            return np.array(theirs.scores[len(ids) - 1])

        theirs.eval(prompt)
        difference = np.abs(theirs.scores[: len(prompt)] - model(torch.tensor([prompt]))[0].numpy())
        assert difference.max() < tolerance
        assert greedy(of_llama_cpp, prompt) == greedy(ours, prompt)


@pytest.fixture(scope="module")
def plain() -> Transformer:
    return trained("one")


@pytest.mark.parametrize("type_", LOGITS)
def test_every_type_gives_llama_cpps_logits_and_text(
    tmp_path: Path, plain: Transformer, type_: Any
) -> None:
    write_gguf(tmp_path / "x.gguf", plain, tokenizer_of(), type_)
    model = read_gguf(tmp_path / "x.gguf").build(dtype=torch.float32)
    prompt = tokenizer_of().encode_document("The llama reads 2024 old")
    compare(tmp_path / "x.gguf", model, prompt, LOGITS[type_])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_gives_llama_cpps_logits_and_text(
    tmp_path: Path, shape: dict[str, Any]
) -> None:
    model = trained("one", **shape)
    write_gguf(tmp_path / "x.gguf", model, tokenizer_of(), "f32")
    prompt = tokenizer_of().encode_document("The llama reads 2024 old pages, doesn't it?")
    compare(tmp_path / "x.gguf", model, prompt, LOGITS["f32"])


@pytest.mark.parametrize("digits", ["one", "three", "off"])
def test_ids_are_llama_cpps(tmp_path: Path, digits: Any) -> None:
    tokenizer = tokenizer_of(digits)
    write_gguf(tmp_path / "x.gguf", model_of(vocab_size=370), tokenizer, "f32")
    with opened(tmp_path / "x.gguf") as theirs:
        for text in (*SAMPLES, TEXT):
            found = theirs.tokenize(text.encode(), add_bos=False, special=False)
            assert found == tokenizer.encode(text), text
        assert theirs.tokenize(b"a") == tokenizer.encode_document("a")
        assert (theirs.token_bos(), theirs.token_eos()) == (tokenizer.bos_id, tokenizer.eos_id)
        assert theirs.metadata["tokenizer.chat_template"] == tokenizer.config["chat_template"]
        for id_ in tokenizer.end_ids:
            vocabulary = llama_cpp.llama_model_get_vocab(theirs.model)
            assert llama_cpp.llama_vocab_is_eog(vocabulary, id_)


def real_tokenizer(folder: Path, bos: int, eos: int) -> AnyTokenizer:
    definition, config = (
        json.loads((folder / name).read_text())
        for name in ("tokenizer.json", "tokenizer_config.json")
    )
    return AnyTokenizer(definition, config, bos=bos, eos=eos)


def smollm2_tokenizer() -> AnyTokenizer:
    found = read_vocabulary(GGUFFile(smollm2()))
    assert found is not None
    return AnyTokenizer(found.definition, found.config, bos=None, eos=2)


@pytest.mark.parametrize(
    ("load", "rows"),
    [
        (lambda: real_tokenizer(llama2_tokenizer(), 1, 2), 32_000),
        (lambda: real_tokenizer(llama31_tokenizer(), 128_000, 128_001), 128_256),
        (smollm2_tokenizer, 49_152),
    ],
    ids=["LLaMA 2", "Llama 3.1", "SmolLM2"],
)
def test_real_vocabularies_give_llama_cpps_ids(
    tmp_path: Path, load: Callable[[], Any], rows: int
) -> None:
    tokenizer = load()
    write_gguf(tmp_path / "x.gguf", model_of(vocab_size=rows, width=32), tokenizer, "f16")
    controls = str.maketrans("", "", "\x00\x01\x7f") if rows == 49_152 else {}
    with opened(tmp_path / "x.gguf", vocab_only=True) as theirs:
        for text in (*SAMPLES, TEXT, "\n\n", "\u2581\u2581 x \u2581", "aaa" * 40):
            kept = text.translate(controls)
            found = theirs.tokenize(kept.encode(), add_bos=False, special=False)
            assert found == tokenizer.encode(kept), kept


def test_k_types_err_as_little_as_llama_cpps_quantizer(tmp_path: Path, plain: Transformer) -> None:
    write_gguf(tmp_path / "whole.gguf", plain, tokenizer_of(), "f32")
    write_gguf(tmp_path / "ours.gguf", plain, tokenizer_of(), "q4_k_m")
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = 15, 1
    names = [str(tmp_path / name).encode() for name in ("whole.gguf", "theirs.gguf")]
    assert llama_cpp.llama_model_quantize(*names, ctypes.byref(options)) == 0
    whole, ours, theirs = (
        GGUFFile(tmp_path / f"{name}.gguf") for name in ("whole", "ours", "theirs")
    )
    for name, tensor in whole.tensors.items():
        values = read_values(whole, tensor)
        assert ours.tensors[name].type == theirs.tensors[name].type, name
        mine, other = (
            (read_values(file, file.tensors[name]) - values).norm() for file in (ours, theirs)
        )
        assert mine <= 1.02 * other, name
