"""SmolLM2's GGUF file against transformers, and real vocabularies there and back."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packages import llama2_tokenizer, llama31_tokenizer, smollm2

sys.path.append(str(Path(__file__).parents[1] / "formats"))
from gguf_examples import SAMPLES, TEXT, AnyTokenizer, backend_of, vocabulary_file

from puna.formats.foreign_model import ForeignModel
from puna.formats.gguf_config import read_shape
from puna.formats.gguf_file import GGUFFile
from puna.formats.gguf_model import read_weights, write_gguf
from puna.formats.gguf_tokens import vocabulary_metadata
from puna.formats.gguf_vocabulary import read_vocabulary

TALK = "<|im_start|>user\nName three rivers.<|im_end|>\n<|im_start|>assistant\n"
APART = str.maketrans("", "", "\x00\x01\x7f\u0661\u0662\u0663")
TEXTS = tuple(text.translate(APART) for text in (*SAMPLES, TEXT))
"""Without control characters, for eight of which SmolLM2 has no token, and without Arabic digits:
transformers makes no cut between digits for this file, which only theirs show. llama.cpp and the
model's own tokenizer.json cut there, and test_real_llamacpp.py compares them.
"""


def weights_of(path: Path) -> ForeignModel:
    """The model without its vocabulary."""
    file = GGUFFile(path)
    config = read_shape(file)
    return ForeignModel(config, lambda: read_weights(file, config), None, None, ())


@pytest.fixture(scope="module")
def theirs() -> Any:
    """SmolLM2 as transformers reads it."""
    path = smollm2()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return model.eval()


@pytest.fixture(scope="module")
def smollm2_vocabulary() -> Any:
    return read_vocabulary(GGUFFile(smollm2()))


def test_smollm2_gives_transformers_logits_and_answer(theirs: Any, smollm2_vocabulary: Any) -> None:
    backend = backend_of(smollm2_vocabulary.definition)
    backend.encode_special_tokens = False
    ids = torch.tensor([backend.encode(TALK).ids])
    model = weights_of(smollm2()).build()
    with torch.no_grad():
        ours, wanted = model(ids), theirs(ids).logits
        torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=1e-4)
        for _ in range(12):
            ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
        answer = theirs.generate(ids[:, :-12], max_new_tokens=12, do_sample=False)
    assert ids.tolist() == answer.tolist()


def test_smollm2_gives_transformers_ids(smollm2_vocabulary: Any) -> None:
    path = smollm2()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    backend = backend_of(smollm2_vocabulary.definition)
    assert smollm2_vocabulary.eos_ids == (tokenizer.eos_token_id,)
    for text in TEXTS:
        assert backend.encode(text).ids == tokenizer(text)["input_ids"], text


def test_smollm2_survives_its_journey_in_half_precision(
    tmp_path: Path, smollm2_vocabulary: Any
) -> None:
    """Its weights of four bits become float16, so they move by its rounding and no more."""
    vocabulary, model = smollm2_vocabulary, weights_of(smollm2()).build()
    tokenizer: Any = AnyTokenizer(vocabulary.definition, vocabulary.config, bos=None, eos=2)
    write_gguf(tmp_path / "x.gguf", model, tokenizer, "f16")
    back = weights_of(tmp_path / "x.gguf").build()
    assert back.config == model.config
    for ours, wanted in zip(back.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=2**-11, atol=2**-24)
    again = read_vocabulary(GGUFFile(tmp_path / "x.gguf"))
    assert again is not None
    assert again.definition == vocabulary.definition
    assert again.config["chat_template"] == vocabulary.config["chat_template"]


@pytest.mark.parametrize(
    ("folder", "rows", "bos", "eos", "name"),
    [
        (llama2_tokenizer, 32_000, 1, 2, None),
        (llama31_tokenizer, 128_256, 128_000, 128_001, "llama-bpe"),
    ],
)
def test_real_vocabularies_give_the_same_ids_after_the_journey(
    tmp_path: Path, folder: Callable[[], Path], rows: int, bos: int, eos: int, name: str | None
) -> None:
    definition = json.loads((folder() / "tokenizer.json").read_text())
    config = json.loads((folder() / "tokenizer_config.json").read_text())
    tokenizer: Any = AnyTokenizer(definition, config, bos=bos, eos=eos)
    metadata = vocabulary_metadata(tokenizer, rows)
    assert metadata.get("tokenizer.ggml.pre") == name
    found = read_vocabulary(vocabulary_file(tmp_path / "x.gguf", metadata))
    assert found is not None
    backend = backend_of(found.definition)
    for text in (*SAMPLES, TEXT, "\n\n", "\u2581\u2581 x \u2581", "aaa" * 40):
        assert backend.encode(text, add_special_tokens=False).ids == tokenizer.encode(text), text
    assert found.config.get("chat_template") == config.get("chat_template")
