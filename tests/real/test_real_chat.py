"""Real chat templates and vocabularies, Llama 3.1's and SmolLM2's: ids as transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from packages import llama31_tokenizer, smollm2

from puna.tokenizer.chat_layout import ChatLayout, TemplateLayout, chat_layout
from puna.tokenizer.chat_template import Message
from puna.tokenizer.tokenizer import Tokenizer

CHATS = [
    [Message("user", " Hello <b>there</b>\n")],
    [Message("system", "Be brief."), Message("user", "2 < 3?"), Message("assistant", "Yes. ")],
    [
        Message("user", "こんにちは 🦙"),
        Message("assistant", "\tHi\r\n"),
        Message("user", "x" * 3000),
    ],
]


@pytest.fixture(scope="module")
def llama31() -> tuple[Tokenizer, ChatLayout, Any]:
    folder = llama31_tokenizer()
    tokenizer = Tokenizer.load(folder)
    return tokenizer, chat_layout(tokenizer), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
@pytest.mark.parametrize("generate", [True, False])
def test_ids_equal_transformers(
    llama31: tuple[Tokenizer, ChatLayout, Any], chat: list[Message], generate: bool
) -> None:
    _, layout, reader = llama31
    assert isinstance(layout, TemplateLayout)
    given = [{"role": message.role, "content": message.content} for message in chat]
    theirs = reader.apply_chat_template(given, add_generation_prompt=generate, return_dict=False)
    assert layout.encode(chat, add_generation_prompt=generate) == theirs


def test_no_message_forges_any_of_its_256_special_tokens(
    llama31: tuple[Tokenizer, ChatLayout, Any],
) -> None:
    tokenizer, layout, _ = llama31
    special = tokenizer.special_tokens
    spelled = " ".join(special)
    ids = layout.encode([Message("user", spelled), Message("assistant", spelled)])
    plain = layout.encode([Message("user", "x"), Message("assistant", "x")])
    assert [id_ for id_ in ids if id_ in special.values()] == [
        id_ for id_ in plain if id_ in special.values()
    ]
    assert tokenizer.decode(ids).count(spelled) == 2


def test_smollm2s_template_over_llamas_vocabulary(tmp_path: Path) -> None:
    """Its own vocabulary is another matter; its ChatML needs two tokens that Llama has to spare."""
    gguf = pytest.importorskip("gguf")
    template = gguf.GGUFReader(smollm2()).get_field("tokenizer.chat_template").contents()
    definition = (llama31_tokenizer() / "tokenizer.json").read_text(encoding="utf-8")
    for number, name in ((10, "<|im_start|>"), (11, "<|im_end|>")):
        definition = definition.replace(f"<|reserved_special_token_{number}|>", name)
    (tmp_path / "tokenizer.json").write_text(definition, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    config["chat_template"] = template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    layout = chat_layout(Tokenizer.load(tmp_path))
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for chat in CHATS:
        given = [{"role": message.role, "content": message.content} for message in chat]
        for generate in (True, False):
            assert layout.encode(chat, add_generation_prompt=generate) == (
                reader.apply_chat_template(given, add_generation_prompt=generate, return_dict=False)
            )
