"""A model with its tokenizer: text in, text out. `puna.load` returns one."""

import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.config import validate
from puna.errors import ConfigError, RequestError, TokenizerError
from puna.formats.model_path import find_model, open_shape, open_weights, read_tokenizer
from puna.inference.build_executor import PackedWeights, build_executor
from puna.inference.constrain import ConstraintCompiler
from puna.inference.detokenizer import Detokenizer
from puna.inference.engine import Engine
from puna.inference.engine_config import EngineConfig
from puna.inference.generation_defaults import read_generation_defaults
from puna.inference.native_adapters import packed_adapters
from puna.inference.native_choice import choose_library, native_model, on_cpu
from puna.inference.request import Event, Finish, GenerationOptions, Request, TokenLogprobs
from puna.tokenizer.chat_layout import ChatLayout, chat_layout
from puna.tokenizer.chat_template import Message
from puna.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from puna.model.adapters import Adapters
    from puna.model.transformer import Transformer


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
    those attached to the model. options: what the engine may use. defaults: options of generation
    where a call gives none, such as those of generation_config.json. template: the layout of chats,
    as `chat_layout` takes it. Options of every method are those of `GenerationOptions`, by keyword;
    a wrong one raises ConfigError.

    Several streams may be read by turns; they then share the engine's steps. One thread at a time.
    The engine caches the prefixes of prompts, so weights that change later need a new
    LanguageModel: the usual mistake is to go on training under one that has generated.
    """

    def __init__(
        self,
        model: "Transformer | PackedWeights",
        tokenizer: Tokenizer,
        options: EngineConfig | None = None,
        adapters: "Adapters | None" = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        template: str | None = None,
    ) -> None:
        rows = (
            model.packed.shape.vocabulary
            if isinstance(model, PackedWeights)
            else model.config.vocab_size
        )
        _check_vocabulary(tokenizer, rows)
        self._weights, self.tokenizer, self.options, self._adapters = (
            model,
            tokenizer,
            options or EngineConfig(),
            adapters,
        )
        self.defaults, self._template = dict(defaults or {}), template
        self._inboxes: dict[str, deque[Event]] = {}

    @cached_property
    def model(self) -> "Transformer":
        """The model as PyTorch's modules, which are read when they are first asked for."""
        held = self._weights
        return held.read() if isinstance(held, PackedWeights) else held

    @property
    def placement(self) -> tuple[str, str]:
        """Device and format of the weights that the engine computes with."""
        if isinstance(self._weights, PackedWeights):
            return "cpu", self._weights.packed.linears["embedding"].kind
        weight = self._weights.output_weight
        return str(weight.device), str(weight.dtype).removeprefix("torch.")

    @cached_property
    def engine(self) -> Engine:
        """The engine; its cache is allocated at the first use."""
        return Engine(
            build_executor(self._weights, self.options, self.tokenizer.vocab_size, self._adapters),
            self.options,
            self.constraints,
        )

    @cached_property
    def constraints(self) -> ConstraintCompiler:
        """The engine's compiler of what outputs must match."""
        return ConstraintCompiler(self.tokenizer, self.tokenizer.vocab_size)

    @cached_property
    def chat_layout(self) -> ChatLayout:
        """The layout of chats. Raises TokenizerError where the template that was chosen, or the
        folder's own, is none.
        """
        return chat_layout(self.tokenizer, self._template)

    def generate(self, prompt: str, **options: Any) -> str:
        """The text that the model continues `prompt` with."""
        return "".join(
            text for _, text in self.stream(self.encode_prompt(prompt), **{**options, "n": 1})
        )

    def complete(self, prompt: str | Sequence[int], **options: Any) -> list[CompletionOutput]:
        """`n` sequences that continue `prompt`, a text or ids, with their ids and the reasons they
        ended.
        """
        checked = self._checked(options)
        ids = self.encode_prompt(prompt) if isinstance(prompt, str) else prompt
        detokenizers = self._detokenizers(checked, ids)
        for _ in self._texts(self._request(ids, checked), detokenizers):
            pass
        return [
            CompletionOutput(one.text, one.ids, one.finish, one.logprobs, one.prompt_logprobs)
            for one in detokenizers
        ]

    def chat(self, messages: Sequence[Message], **options: Any) -> Iterator[str]:
        """The assistant's reply to a conversation, piece by piece."""
        return (text for _, text in self.stream(self.encode_chat(messages), **options))

    def stream(self, prompt: Sequence[int], **options: Any) -> Iterator[tuple[int, str]]:
        """Continue a prompt of ids; yields (which of the n sequences, new text) as soon as the
        text is certain.

        No piece ends in half a character or in what may become a stop text. Leaving the iterator
        early ends the work.
        """
        checked = self._checked(options)
        return self._texts(self._request(prompt, checked), self._detokenizers(checked, prompt))

    def encode_prompt(self, prompt: str) -> list[int]:
        """The prompt as the model met texts in training: the begin token, then the text."""
        return self.tokenizer.encode_document(prompt)

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """A conversation as ids, up to the beginning of the assistant's reply."""
        return self.chat_layout.encode(messages, tools=tools, add_generation_prompt=True)

    def _checked(self, options: Mapping[str, Any]) -> GenerationOptions:
        given = {name: value for name, value in options.items() if value is not None}
        return generation_options(self.defaults | given)

    def _request(self, prompt: Sequence[int], options: GenerationOptions) -> Request:
        request = Request(uuid.uuid4().hex, tuple(prompt), options, self.tokenizer.end_ids)
        self.engine.check(request)
        return request

    def _detokenizers(self, options: GenerationOptions, prompt: Sequence[int]) -> list[Detokenizer]:
        opens = not self.tokenizer.holds_text(prompt)
        return [
            Detokenizer(self.tokenizer, options.stop, opens_text=opens) for _ in range(options.n)
        ]

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
    dtype: "torch.dtype | None" = None,
    options: EngineConfig | None = None,
    adapters: Mapping[str, Path | str] | None = None,
    *,
    generation_config: bool = True,
    template: str | None = None,
) -> LanguageModel:
    """Open a model folder or a GGUF file on `device` ("auto", "cpu", "cuda", ...); dtype left out:
    as in the file.

    On a CPU the native core runs it where it has kernels for all its parts, and PyTorch otherwise;
    `options.isa` and `options.weights` choose. The first time it is packed into a file beside it,
    with which later starts need no PyTorch.

    options: what the engine may use. adapters: LoRA adapters by the name that requests choose them
    by, each a folder in PEFT's format. generation_config: take the default options of generation
    from the folder's generation_config.json. template: the layout of chats: "llama3", "chatml",
    "alpaca", "none", or a file in Jinja; left out: the folder's own. Raises ModelFolderError,
    TokenizerError, or ConfigError for a device that is not there or a wrong generation_config.json.
    """
    path, options = find_model(path), options or EngineConfig()
    defaults = read_generation_defaults(path) if generation_config else {}

    @cache
    def read() -> "Transformer":
        from puna.device import choose_device

        return open_weights(path, choose_device(device), dtype)

    native = dtype is None and on_cpu(device)
    if not native and (options.weights != "auto" or options.isa not in ("auto", "torch")):
        raise ConfigError(
            "isa and weights choose the native core, which runs models on a CPU and in a format of"
            " its own: leave them out, or leave out device and dtype"
        )
    library = choose_library(options) if native else None
    packed = native_model(path, library, options, read) if library is not None else None
    folders = {name: Path(folder) for name, folder in (adapters or {}).items()}
    weights: Transformer | PackedWeights
    attached = None
    if packed is not None and library is not None:
        own = packed_adapters(folders, open_shape(path), packed) if folders else {}
        weights = PackedWeights(packed, library, read, own)
    else:
        weights = read()
        if folders:
            from puna.model.adapters import attach

            attached = attach(weights, folders)
    return LanguageModel(
        weights, read_tokenizer(path), options, attached, defaults=defaults, template=template
    )


def _check_vocabulary(tokenizer: Tokenizer, rows: int) -> None:
    """Raise TokenizerError where the tokenizer has ids that the model has no embedding for."""
    if tokenizer.vocab_size <= rows:
        return
    added = [f"{name} ({id_})" for name, id_ in tokenizer.special_tokens.items() if id_ >= rows]
    remedy = "they do not match"
    if len(added) == tokenizer.vocab_size - rows:
        shown = ", ".join(added[:10]) + (" ..." if len(added) > 10 else "")
        remedy = (
            f"{shown} came after training; take them out of the added_tokens of tokenizer.json and"
            " out of tokenizer_config.json"
        )
    raise TokenizerError(
        f"the tokenizer has {tokenizer.vocab_size} entries but the model only {rows}: {remedy}"
    )


def generation_options(options: Mapping[str, Any]) -> GenerationOptions:
    """Checked options from keywords; None means the default."""
    return validate(
        GenerationOptions,
        {key: value for key, value in options.items() if value is not None},
        "generation options",
    )
