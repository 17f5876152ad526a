"""Incremental detokenization of one sequence: no half characters, no end token, nothing of a stop
text.
"""

from collections.abc import Sequence

from puna.inference.request import Event, Finish, TokenLogprobs
from puna.tokenizer.stream import StreamDecoder
from puna.tokenizer.tokenizer import Tokenizer


class Detokenizer:
    """Text of one sequence so far. Give it every event of its sequence, in order.

    text: what is certain. ids: what made it, an end token included and nothing after a stop text;
    logprobs: theirs, if asked for. offsets: the index of the first character of each id but an
    end token. prompt_logprobs: the prompt's, if asked for. finish: why it
    ended, or None. A stop text is found here and not in the engine, which knows ids only: whoever
    feeds the detokenizer then cancels the request.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, opens_text: bool = False
    ) -> None:
        """opens_text: the prompt holds no text, so that the sequence is the beginning of one."""
        self.text, self.finish = "", None
        self.ids: list[int] = []
        self.offsets: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: tuple[TokenLogprobs, ...] = ()
        self._decoder, self._stop, self._held = (
            StreamDecoder(tokenizer, skip_special=True, inside_text=not opens_text),
            stop,
            "",
        )

    text: str
    finish: Finish | None

    def feed(self, event: Event) -> str:
        """The text that this event makes certain: what can be neither half a character nor the
        beginning of a stop text.
        """
        before = len(self.text)
        self.prompt_logprobs = self.prompt_logprobs or event.prompt_logprobs
        for index, token in enumerate(event.ids):
            if self.finish is not None:
                break
            self.ids.append(token)
            self.logprobs += event.logprobs[index : index + 1]
            is_end = event.finish == "stop" and index == len(event.ids) - 1
            if not is_end:
                self.offsets.append(len(self.text) + len(self._held))
                self._take(self._decoder.feed(token))
        if event.finish is not None and self.finish is None:
            self._take(self._decoder.flush())
        if event.finish is not None and self.finish is None:
            self.finish = event.finish
            self.text, self._held = self.text + self._held, ""
        return self.text[before:]

    def _take(self, text: str) -> None:
        """Keep back what may be part of a stop text; end at a whole one."""
        text = self._held + text
        ends = [index for index in (text.find(stop) for stop in self._stop) if index >= 0]
        if ends:
            self.finish, self._held = "stop", ""
            self.text += text[: min(ends)]
            return
        certain = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self.text, self._held = self.text + text[:certain], text[certain:]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next(
        (
            size
            for size in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:size])
        ),
        0,
    )
