"""The begin of a document and the end of a generation: every use of them, with a vocabulary that
has all the names and with one whose documents open with none.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from puna.api.generation import engine_request
from puna.api.service import ChosenModel
from puna.data.encode import encode_batches
from puna.engine_process.messages import LoadedModel
from puna.engine_process.served_model import ServedModel, TextSide
from puna.eval.exact_match import exact_match
from puna.eval.held_out import encode_sources
from puna.inference.constrain import ConstraintCompiler
from puna.inference.engine import Engine
from puna.inference.language_model import LanguageModel
from puna.inference.request import Constraint, GenerationOptions, Request
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer
from puna.tokenizer.chat_layout import chat_layout
from puna.tokenizer.chat_template import Message
from puna.tokenizer.tokenizer import Tokenizer

TEXTS = ["In 2024", "", "two\nlines 🦙"]


@pytest.fixture(params=["with a begin token", "without"])
def either(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Tokenizer:
    if request.param == "without":
        content = json.loads(tokenizer.to_json())
        config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
        return Tokenizer(json.dumps({**content, "post_processor": None}), config)
    return tokenizer


def begin(tokenizer: Tokenizer) -> list[int]:
    special = tokenizer.special_tokens
    opens = json.loads(tokenizer.to_json())["post_processor"]
    return [special["<|begin_of_text|>"]] if opens else []


def model_of(tokenizer: Tokenizer) -> LanguageModel:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=64, width=16, num_layers=1, num_heads=2
    )
    return LanguageModel(build_transformer(config), tokenizer)


def test_a_document_is_the_begin_token_and_the_ids(either: Tokenizer) -> None:
    expected = [[*begin(either), *either.encode(text)] for text in TEXTS]
    assert [either.encode_document(text) for text in TEXTS] == expected
    assert either.encode_documents(TEXTS) == expected
    assert either.encode_documents(TEXTS, end=True) == [[*ids, either.eos_id] for ids in expected]
    assert bool(begin(either)) == (either.bos_id is not None), "the fixture holds both cases"


def test_shards_hold_documents_and_their_ends(either: Tokenizer, tmp_path: Path) -> None:
    either.save(tmp_path)
    ((encoded, label),) = encode_batches([(TEXTS, 7)], tmp_path, 1)
    assert label == 7
    assert [ids.tolist() for ids in encoded.documents()] == either.encode_documents(TEXTS, end=True)


def test_prompts_of_a_language_model_begin_as_documents(either: Tokenizer) -> None:
    assert model_of(either).encode_prompt(TEXTS[0]) == either.encode_document(TEXTS[0])


def served(tokenizer: Tokenizer) -> ChosenModel:
    """A model with this tokenizer as the API server knows it."""
    loaded = LoadedModel("m", 64, (), 64, "cpu", "float32")
    side = TextSide(tokenizer, chat_layout(tokenizer), {}, 0)
    return ChosenModel("m", ServedModel(loaded, side))


def test_prompts_over_http_begin_as_documents(either: Tokenizer) -> None:
    """An empty one without a begin token begins where a document has ended."""
    for text in TEXTS:
        prompt = asyncio.run(served(either).encode_prompt(text))
        assert prompt.ids == (either.encode_document(text) or [either.eos_id])
        assert prompt.opened == (len(prompt.ids) > len(either.encode(text)))


def test_scored_texts_begin_as_documents(either: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXTS[2], encoding="utf-8", newline="")
    assert encode_sources([str(file)], either).ids.tolist() == either.encode_document(TEXTS[2])


def test_questions_begin_as_documents(either: Tokenizer) -> None:
    class Recorder:
        config = SimpleNamespace(context_length=100)
        output_weight = torch.zeros(1)
        lines: list[list[int]]

        def __call__(self, ids: torch.Tensor) -> torch.Tensor:
            self.lines = ids.tolist()
            return torch.zeros(*ids.shape, either.vocab_size)

    model = Recorder()
    exact_match(cast(Transformer, model), either, [("12+30=", "42\n")])
    assert model.lines == [[*either.encode_document("12+30="), *either.encode("42\n")]]


def test_the_end_ids_are_those_of_text_turn_and_message(
    tokenizer: Tokenizer, edited: Callable[[Callable[[dict[str, Any]], None]], str]
) -> None:
    special = tokenizer.special_tokens
    names = ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")
    assert tokenizer.end_ids == {special[name] for name in names}
    bare = Tokenizer.from_json(edited(lambda content: content.update(added_tokens=[])))
    assert bare.end_ids == frozenset()


def test_chat_serve_and_constraints_end_at_the_same_ids(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`puna chat` once went on after <|eom_id|>, at which `puna serve` ended."""
    asked: list[Request] = []
    monkeypatch.setattr(Engine, "check", lambda _, request: asked.append(request))
    llama = model_of(tokenizer)
    llama.chat([Message("user", "Hello")])
    llama.stream(llama.encode_prompt("Hello"))
    asked.append(engine_request([1], GenerationOptions(), served(tokenizer)))
    assert [request.ends for request in asked] == [tokenizer.end_ids] * 3

    compiler = ConstraintCompiler(tokenizer, tokenizer.vocab_size)
    matcher = compiler.compile(Constraint(kind="regex", text="a"))
    assert all(matcher.accept(id_) for id_ in tokenizer.encode("a"))
    assert set(np.flatnonzero(matcher.allowed()).tolist()) == tokenizer.end_ids
