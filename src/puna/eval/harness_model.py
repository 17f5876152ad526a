"""A model of Puna's as lm-evaluation-harness asks for one. Importing it takes the extra `eval`;
`harness.py` does so where it is asked for.

What is asked follows the harness's own `hf` model, so that figures compare with published ones:

- A text gets the begin token that the tokenizer adds, unless it begins with one already.
- Special tokens that a text spells are read as such: chats arrive laid out as text.
- A text of its own (`loglikelihood_rolling`) is predicted from the begin token, and where the
  tokenizer adds one to it, that one counts as predicted too.
- Too long a context is cut at its front.

Source: lm-evaluation-harness 0.4.13, `lm_eval.api.model.TemplateLM` and `HFLM`.
"""

from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from puna.errors import ConfigError
from puna.eval.continuations import (
    Progress,
    TextPrompt,
    generate_texts,
    no_progress,
    prefix_id,
    rolling_windows,
    score_continuations,
)
from puna.inference.language_model import LanguageModel
from puna.tokenizer.chat_template import Message

_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""One thing under four names, the first that is given counts."""
_DEFAULT_MAX_TOKENS = 256
_SAMPLING = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty"})


class HarnessModel(TemplateLM):
    """An opened model, asked in batches. progress: opened with the name of each kind of request,
    takes how many of how many prompts are done. cut: prompts so far whose front was left out, as
    the model's context does not hold them.
    """

    def __init__(self, llama: LanguageModel, progress: Progress = no_progress) -> None:
        super().__init__()
        self._llama, self._progress, self.cut = llama, progress, 0
        self._context_length = llama.model.config.context_length

    @property
    def eot_token_id(self) -> int:
        return self._role("eos_token", self._llama.tokenizer.eos_id)

    @property
    def prefix_token_id(self) -> int:
        return self._role("bos_token", prefix_id(self._llama.tokenizer))

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        return self._context_length

    @property
    def tokenizer_name(self) -> str:
        """The name that cached requests of this tokenizer go by."""
        return self._llama.tokenizer.hash

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """The ids of a text, with the begin token where the tokenizer adds one, or as told."""
        tokenizer = self._llama.tokenizer
        begins = tokenizer.encode_document("")
        if add_special_tokens is None:
            prefix = tokenizer.decode([self.prefix_token_id])
            add_special_tokens = not string.startswith(prefix)
        return (begins if add_special_tokens else []) + tokenizer.encode_with_special(string)

    def loglikelihood(self, requests: list[Instance], **_: object) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation behind its context, and if it is greedy."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_options: object
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        with self._progress("continuations") as on_progress:
            scores = score_continuations(self._llama, pairs, on_progress)
        self.cut += sum(score.is_cut for score in scores)
        found = [(score.logprob, score.is_greedy) for score in scores]
        for (texts, _, _), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], **_: object) -> list[float]:
        """The log-likelihood of each text, in windows of the model's context."""
        windows = [
            rolling_windows(self.tok_encode(text), self.prefix_token_id, self._context_length)
            for (text,) in (request.args for request in requests)
        ]
        flat = [window for of_text in windows for window in of_text]
        with self._progress("texts") as on_progress:
            scores = iter(score_continuations(self._llama, flat, on_progress))
        found = [sum(next(scores).logprob for _ in of_text) for of_text in windows]
        for request, total in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def generate_until(self, requests: list[Instance], **_: object) -> list[str]:
        """The continuation of each context up to a stop text."""
        asked = [request.args for request in requests]
        prompts = [
            TextPrompt(self.tok_encode(context), generation_options(told))
            for context, told in asked
        ]
        with self._progress("generation") as on_progress:
            written = generate_texts(self._llama, prompts, on_progress)
        self.cut += sum(one.is_cut for one in written)
        found = [one.text for one in written]
        for arguments, text in zip(asked, found, strict=True):
            self.cache_hook.add_partial("generate_until", arguments, text)
        return found

    def chat_template(self, *_: object) -> str:
        """The template in Jinja, for the record."""
        return str(self._llama.tokenizer.config.get("chat_template") or "")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as a text that spells its special tokens; without add_generation_prompt the last
        message is left open, to be gone on with.
        """
        open_text = ""
        if not add_generation_prompt:
            *chat_history, last = chat_history
            open_text = last["content"]
        messages = [Message(one["role"], one["content"]) for one in chat_history]  # type: ignore[arg-type]
        return self._llama.tokenizer.decode(self._llama.encode_chat(messages)) + open_text

    def _role(self, role: str, otherwise: int) -> int:
        """The id of the token that tokenizer_config.json gives this role."""
        tokenizer = self._llama.tokenizer
        token = tokenizer.config.get(role)
        name = token.get("content") if isinstance(token, Mapping) else token
        return tokenizer.special_tokens.get(str(name), otherwise)


def generation_options(told: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a task's `generation_kwargs` stand for. Without `do_sample`, or where it is
    false, the likeliest tokens are taken. Raises ConfigError for a key that stands for none.
    """
    kwargs = dict(told)
    until = kwargs.pop("until", None) or []
    limits = [kwargs.pop(name, None) for name in _MAX_TOKENS]
    samples = bool(kwargs.pop("do_sample", kwargs.get("temperature", 0.0)))
    strange = sorted(set(kwargs) - _SAMPLING)
    if strange:
        raise ConfigError(
            f"generation_kwargs holds {strange[0]}, which stands for no option here: choose from"
            f" until, do_sample, {', '.join((*_MAX_TOKENS, *sorted(_SAMPLING)))}"
        )
    limit = next((limit for limit in limits if limit is not None), _DEFAULT_MAX_TOKENS)
    options = {
        "stop": tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        "max_tokens": int(limit),
    }
    return options | (kwargs if samples else {"temperature": 0.0})
