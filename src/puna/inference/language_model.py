"""A model with its tokenizer: text in, text out. What `puna.load` returns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from puna.config import validate
from puna.device import choose_device
from puna.errors import TokenizerError
from puna.inference.decode import decode
from puna.inference.request import GenerationOptions
from puna.model.transformer import Transformer
from puna.model.weights import read_model
from puna.tokenizer.chat import Message, encode_chat
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer


@dataclass
class Completion:
    """One continuation. ids: what the model produced, its end token included. finish: why it ended."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: Literal["stop", "length"] = "length"


class LanguageModel:
    """A model folder, opened.

    model: an `nn.Module` from ids [B, T] to logits [B, T, V]. tokenizer: its `Tokenizer`.
    Options of every method are those of `GenerationOptions`, by keyword; a wrong one raises ConfigError.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise TokenizerError(
                f"the tokenizer has {tokenizer.vocab_size} entries but the model only {model.config.vocab_size}: they do not match"
            )
        self.model, self.tokenizer = model, tokenizer

    def generate(self, prompt: str, **options: Any) -> str:
        """The text that the model continues `prompt` with."""
        return "".join(text for _, text in self.stream(self.encode_prompt(prompt), **{**options, "n": 1}))

    def complete(self, prompt: str, **options: Any) -> list[Completion]:
        """`n` continuations of `prompt`, with their ids and the reasons they ended."""
        sequence = _Sequences(self, self.encode_prompt(prompt), generation_options(options))
        for _ in sequence:
            pass
        return sequence.completions

    def chat(self, messages: Sequence[Message], **options: Any) -> Iterator[str]:
        """The assistant's reply to a conversation, piece by piece."""
        prompt = encode_chat(self.tokenizer, messages, add_generation_prompt=True).ids
        return (text for _, text in self.stream(prompt, **options))

    def stream(self, prompt: Sequence[int], **options: Any) -> Iterator[tuple[int, str]]:
        """Continue a prompt of ids; yields (which of the n continuations, new text) as soon as the text is certain.

        No piece ends in half a character or in what may become a stop text.
        """
        return iter(_Sequences(self, prompt, generation_options(options)))

    def encode_prompt(self, prompt: str) -> list[int]:
        """The prompt as the model met texts in training: the begin token, then the text."""
        bos = self.tokenizer.bos_id
        return ([] if bos is None else [bos]) + self.tokenizer.encode(prompt)


def load(path: Path | str, device: str = "auto", dtype: torch.dtype | None = None) -> LanguageModel:
    """Open a model folder on `device` ("auto", "cpu", "cuda", ...); dtype left out: as in the file.

    Raises ModelFolderError, TokenizerError, or ConfigError for a device that is not there.
    """
    return LanguageModel(read_model(Path(path), choose_device(device), dtype), Tokenizer.load(path))


def generation_options(options: dict[str, Any]) -> GenerationOptions:
    """Checked options from keywords; None means the default."""
    return validate(GenerationOptions, {key: value for key, value in options.items() if value is not None}, "generation options")


class _Sequences:
    """The continuations of one prompt, from ids to text: decoding, end tokens, stop texts."""

    def __init__(self, language_model: LanguageModel, prompt: Sequence[int], options: GenerationOptions) -> None:
        tokenizer = language_model.tokenizer
        ends = frozenset(end for end in (tokenizer.eos_id, tokenizer.eot_id) if end is not None)
        self.ends, self.stop = ends, options.stop
        self.steps = decode(language_model.model, prompt, options, ends, tokenizer.vocab_size)
        self.completions = [Completion() for _ in range(options.n)]
        self.decoders = [StreamDecoder(tokenizer, skip_special=True) for _ in range(options.n)]
        self.held = [""] * options.n  # text that may be the beginning of a stop text
        self.done = [False] * options.n

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for ids in self.steps:
            for row, token in enumerate(ids):
                if token is None or self.done[row]:
                    continue
                self.completions[row].ids.append(token)
                if token in self.ends:
                    self.done[row], self.completions[row].finish = True, "stop"
                    yield from self._release(row, self.decoders[row].flush(), last=True)
                else:
                    yield from self._release(row, self.decoders[row].feed(token), last=False)
            if all(self.done):
                return
        for row, done in enumerate(self.done):
            if not done:
                yield from self._release(row, self.decoders[row].flush(), last=True)

    def _release(self, row: int, text: str, *, last: bool) -> Iterator[tuple[int, str]]:
        """Pass on what can no longer be part of a stop text."""
        text = self.held[row] + text
        ends = [place for place in (text.find(stop) for stop in self.stop) if place >= 0]
        if ends:
            self.done[row], self.completions[row].finish = True, "stop"
            text, self.held[row] = text[: min(ends)], ""
        else:
            keep = 0 if last else max((_overlap(text, stop) for stop in self.stop), default=0)
            text, self.held[row] = text[: len(text) - keep], text[len(text) - keep :]
        if text:
            self.completions[row].text += text
            yield row, text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
