"""A model with its tokenizer: text in, text out. `puna.load` returns one."""

import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from puna.config import validate
from puna.device import choose_device, memory_bytes
from puna.errors import ConfigError, RequestError, TokenizerError
from puna.formats.model_path import open_model
from puna.inference.constrain import ConstraintCompiler
from puna.inference.detokenizer import Detokenizer
from puna.inference.engine import Engine
from puna.inference.engine_config import EngineConfig
from puna.inference.executor import TorchExecutor
from puna.inference.request import Event, Finish, GenerationOptions, Request, TokenLogprobs
from puna.model.accounting import kv_bytes_per_token
from puna.model.adapters import Adapters, attach
from puna.model.transformer import Transformer
from puna.tokenizer.chat_template import Message, encode_chat
from puna.tokenizer.tokenizer import Tokenizer


@dataclass
class CompletionOutput:
    """One finished sequence. ids: its output, the end token included. finish: the reason it ended.

    logprobs, prompt_logprobs: of `ids`, and of the prompt's tokens but the first, if they were
    asked for.
    """

    text: str
    ids: list[int]
    finish: Finish | None
    logprobs: list[TokenLogprobs]
    prompt_logprobs: tuple[TokenLogprobs, ...]


class LanguageModel:
    """A model folder, opened.

    model: an `nn.Module` from ids [B, T] to logits [B, T, V]. tokenizer: its `Tokenizer`. adapters:
    those attached to the model. options: what the engine may use. Options of every method are those
    of `GenerationOptions`, by keyword; a wrong one raises ConfigError.

    Several streams may be read by turns; they then share the engine's steps. One thread at a time.
    The engine caches the prefixes of prompts, so weights that change later need a new
    LanguageModel: the usual mistake is to go on training under one that has generated.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        options: EngineConfig | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise TokenizerError(
                f"the tokenizer has {tokenizer.vocab_size} entries but the model only"
                f" {model.config.vocab_size}: they do not match"
            )
        self.model, self.tokenizer, self.options, self._adapters = (
            model,
            tokenizer,
            options or EngineConfig(),
            adapters,
        )
        self._inboxes: dict[str, deque[Event]] = {}

    @cached_property
    def engine(self) -> Engine:
        """The engine; its cache is allocated at the first use."""
        executor = TorchExecutor(
            self.model,
            num_blocks=_cache_blocks(self.model, self.options),
            block_size=self.options.block_size,
            vocab_size=self.tokenizer.vocab_size,
            batch_invariant=self.options.batch_invariant,
            adapters=self._adapters,
        )
        return Engine(
            executor, self.options, ConstraintCompiler(self.tokenizer, self.tokenizer.vocab_size)
        )

    def generate(self, prompt: str, **options: Any) -> str:
        """The text that the model continues `prompt` with."""
        return "".join(
            text for _, text in self.stream(self.encode_prompt(prompt), **{**options, "n": 1})
        )

    def complete(self, prompt: str, **options: Any) -> list[CompletionOutput]:
        """`n` sequences that continue `prompt`, with their ids and the reasons they ended."""
        checked = generation_options(options)
        detokenizers = self._detokenizers(checked)
        for _ in self._texts(self._request(self.encode_prompt(prompt), checked), detokenizers):
            pass
        return [
            CompletionOutput(one.text, one.ids, one.finish, one.logprobs, one.prompt_logprobs)
            for one in detokenizers
        ]

    def chat(self, messages: Sequence[Message], **options: Any) -> Iterator[str]:
        """The assistant's reply to a conversation, piece by piece."""
        prompt = encode_chat(self.tokenizer, messages, add_generation_prompt=True).ids
        return (text for _, text in self.stream(prompt, **options))

    def stream(self, prompt: Sequence[int], **options: Any) -> Iterator[tuple[int, str]]:
        """Continue a prompt of ids; yields (which of the n sequences, new text) as soon as the
        text is certain.

        No piece ends in half a character or in what may become a stop text. Leaving the iterator
        early ends the work.
        """
        checked = generation_options(options)
        return self._texts(self._request(prompt, checked), self._detokenizers(checked))

    def encode_prompt(self, prompt: str) -> list[int]:
        """The prompt as the model met texts in training: the begin token, then the text."""
        return self.tokenizer.encode_document(prompt)

    def _request(self, prompt: Sequence[int], options: GenerationOptions) -> Request:
        request = Request(uuid.uuid4().hex, tuple(prompt), options, self.tokenizer.end_ids)
        self.engine.check(request)
        return request

    def _detokenizers(self, options: GenerationOptions) -> list[Detokenizer]:
        return [Detokenizer(self.tokenizer, options.stop) for _ in range(options.n)]

    def _texts(
        self, request: Request, detokenizers: list[Detokenizer]
    ) -> Iterator[tuple[int, str]]:
        for event in self._events(request):
            detokenizer = detokenizers[event.index]
            if detokenizer.finish is None and (text := detokenizer.feed(event)):
                yield event.index, text
            if detokenizer.finish == "error":
                raise RequestError(event.message)
            if detokenizer.finish is not None:  # a stop text ends what the engine would go on with
                self.engine.cancel(request.id, event.index)
            if all(other.finish for other in detokenizers):
                return

    def _events(self, request: Request) -> Iterator[Event]:
        """The events of this request; those of others that are met on the way go into their
        inboxes.
        """
        inbox = self._inboxes[request.id] = deque()
        try:
            self.engine.add(request)
            while True:
                while not inbox:
                    for event in self._step():
                        self._inboxes[event.request].append(event)
                yield inbox.popleft()
        finally:
            self.engine.cancel(request.id)
            del self._inboxes[request.id]

    def _step(self) -> list[Event]:
        try:
            return self.engine.step()
        except BaseException:  # Ctrl-C too: half-written blocks must not stay cached
            for event in self.engine.fail("a step of the model failed or was interrupted"):
                self._inboxes[event.request].append(event)
            raise


def load(
    path: Path | str,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    options: EngineConfig | None = None,
    adapters: Mapping[str, Path | str] | None = None,
) -> LanguageModel:
    """Open a model folder or a GGUF file on `device` ("auto", "cpu", "cuda", ...); dtype left out:
    as in the file.

    options: what the engine may use. adapters: LoRA adapters by the name that requests choose them
    by, each a folder in PEFT's format. Raises ModelFolderError, TokenizerError, or ConfigError for
    a device that is not there.
    """
    model, tokenizer = open_model(Path(path), choose_device(device), dtype)
    attached = (
        attach(model, {name: Path(folder) for name, folder in adapters.items()})
        if adapters
        else None
    )
    return LanguageModel(model, tokenizer, options, attached)


def generation_options(options: Mapping[str, Any]) -> GenerationOptions:
    """Checked options from keywords; None means the default."""
    return validate(
        GenerationOptions,
        {key: value for key, value in options.items() if value is not None},
        "generation options",
    )


def _cache_blocks(model: Transformer, options: EngineConfig) -> int:
    """Number of blocks of the cache."""
    config, weight = model.config, model.output_weight
    token_bytes = kv_bytes_per_token(config, weight.element_size())
    wanted = options.cache_bytes
    if wanted is None:
        wanted = min(
            options.max_running * config.context_length * token_bytes,
            (memory_bytes(weight.device) or 1 << 32) // 4,
        )
    blocks = wanted // (options.block_size * token_bytes)
    if blocks == 0:
        raise ConfigError(
            f"cache_bytes = {wanted} holds no block of {options.block_size} tokens at {token_bytes}"
            f" bytes a token: give at least {options.block_size * token_bytes}"
        )
    return blocks
