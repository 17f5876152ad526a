"""Many prompts at once through the engine: how likely given continuations are, and greedy or
sampled ones until a stop text. The two questions that every task asks of a model.

Log-likelihoods go through the engine's executor, the code that serves, without its scheduler: it
gives logits for the wanted rows alone, neither pads nor samples, and takes the context + 1 ids of a
full window, of which the last is only predicted. The softmax is over all rows of the model, as in
training and in transformers; the engine itself leaves out rows that no token has. Texts go through
the engine.

Not here: what is asked, and what an answer is worth. Costs one forward pass over each prompt, and
memory for the keys and values of one step, or of the longest prompt.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch

from puna.config import validate
from puna.errors import DataError, RequestError
from puna.inference.detokenizer import Detokenizer
from puna.inference.executor import ScheduledChunk
from puna.inference.language_model import LanguageModel
from puna.inference.request import Event, GenerationOptions, Request
from puna.inference.torch_executor import TorchExecutor
from puna.tokenizer.tokenizer import Tokenizer

OnProgress = Callable[[int, int], None]
"""Takes how many of how many prompts are done."""
Progress = Callable[[str], AbstractContextManager[OnProgress | None]]
"""Shows the progress of the work of this name."""
Pair = tuple[list[int], list[int]]
"""The ids of a context and of its continuation."""

_BLOCK = 16
_MOST_STEP_TOKENS = 1024
_LOGITS = 1 << 26
"""Logits of a step at most, 256 MB of them: fewer tokens a step for a large vocabulary."""
_NO_NUMBER = (
    "the model's predictions are NaN or infinite, so its weights are damaged or its training has"
    " diverged: choose another checkpoint"
)
_WAITING = 2
"""Requests given to the engine, as a multiple of those that it runs at once."""


@dataclass(frozen=True, slots=True)
class ScoredContinuation:
    """logprob: the sum of ln p of its tokens, float64. is_greedy: True where each of them is the
    likeliest after those before it. is_cut: True where the front of the context was left out.
    """

    logprob: float
    is_greedy: bool
    is_cut: bool


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A prompt of ids to continue, and the options that differ from the greedy ones."""

    ids: Sequence[int]
    options: Mapping[str, Any]


def no_progress(_: str) -> AbstractContextManager[None]:
    """Progress that nobody sees."""
    return nullcontext()


def prefix_id(tokenizer: Tokenizer) -> int:
    """The id that a text without context is predicted from: the begin token, or the end token in a
    vocabulary that has no other.
    """
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """The ids of both, cut apart after the context's own number of tokens.

    Spaces at the context's end go to the continuation, where they belong to its first word's token.
    An empty context is the begin token. Source: lm-evaluation-harness 0.4, `TemplateLM`. Usual
    mistake: two encodings put together, which no tokenizer gives for the text. Raises DataError for
    a continuation without a token of its own.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if context:
        first = tokenizer.encode_document(context)
        rest = tokenizer.encode_document(context + continuation)[len(first) :]
    else:
        first, rest = [prefix_id(tokenizer)], tokenizer.encode(continuation)
    if not rest:
        raise DataError(
            f"the continuation {continuation[:40]!r} has no token of its own behind its context:"
            " give a longer one"
        )
    return first, rest


def rolling_windows(ids: Sequence[int], prefix: int, context: int) -> list[Pair]:
    """Windows that predict each of the ids once, from as many before it as fit: the first from the
    prefix, the last with a full context.

    Source: lm-evaluation-harness 0.4, `loglikelihood_rolling`.
    """
    first = list(ids[:context])
    windows = [([prefix], first)] if first else []
    for start in range(context, len(ids), context):
        end = min(start + context, len(ids))
        windows.append((list(ids[end - context - 1 : start]), list(ids[start:end])))
    return windows


@torch.inference_mode()
def score_continuations(
    llama: LanguageModel, pairs: Sequence[Pair], on_progress: OnProgress | None = None
) -> list[ScoredContinuation]:
    """The log-likelihood of each continuation behind its context, in the order of the pairs.

    A pair longer than the model's context and one is cut at its front. Arithmetic: logits in the
    model's dtype, the softmax in float32, sums in float64. Raises DataError for a pair without
    context or continuation, or with a continuation beyond the model's context, and for a model
    whose predictions are no numbers.
    """
    context_length = llama.model.config.context_length
    for context, continuation in pairs:
        if not context or not 0 < len(continuation) <= context_length:
            raise DataError(
                f"a continuation of {len(continuation)} tokens behind {len(context)}: both need at"
                f" least one, and the model's context of {context_length} must hold the"
                " continuation"
            )
    rows = llama.model.config.vocab_size
    step = max(64, min(_MOST_STEP_TOKENS, _LOGITS // rows))
    # longest first, so that the time left is no underestimate
    order = sorted(range(len(pairs)), key=lambda index: -sum(map(len, pairs[index])))
    inputs = [_clipped(pairs[index], context_length) for index in order]
    longest = max((len(ids) - 1 for ids, _ in inputs), default=0)
    executor = TorchExecutor(
        llama.model, num_blocks=-(-max(longest, step) // _BLOCK), block_size=_BLOCK, vocab_size=rows
    )
    found: dict[int, tuple[float, bool]] = {}
    for batch in _batches(inputs, step):
        scores = _score_batch(executor, [inputs[index] for index in batch], step)
        found.update(zip((order[index] for index in batch), scores, strict=True))
        if not all(math.isfinite(logprob) for logprob, _ in scores):
            raise DataError(_NO_NUMBER)
        if on_progress is not None:
            on_progress(len(found), len(pairs))
    return [
        ScoredContinuation(*found[index], is_cut=sum(map(len, pairs[index])) > context_length + 1)
        for index in range(len(pairs))
    ]


def _clipped(pair: Pair, context_length: int) -> tuple[list[int], int]:
    """The last ids of a pair that a model of this context predicts or predicts from, and how many
    of them are the continuation's.
    """
    context, continuation = pair
    return (context + continuation)[-(context_length + 1) :], len(continuation)


def _blocks(ids: Sequence[int]) -> int:
    """Blocks of cache for all ids but the last, which is only predicted."""
    return -(-(len(ids) - 1) // _BLOCK)


def _batches(inputs: Sequence[tuple[list[int], int]], step: int) -> Iterator[range]:
    """Neighbours that fit into one step; a longer one by itself."""
    start = used = 0
    for index, (ids, _) in enumerate(inputs):
        size = _blocks(ids) * _BLOCK
        if index > start and used + size > step:
            yield range(start, index)
            start, used = index, 0
        used += size
    if inputs:
        yield range(start, len(inputs))


def _score_batch(
    executor: TorchExecutor, batch: Sequence[tuple[list[int], int]], step: int
) -> list[tuple[float, bool]]:
    """Compute a batch in one step, or its only sequence in several."""
    logprobs, greedy = [0.0] * len(batch), [True] * len(batch)
    for start in range(0, max(len(ids) for ids, _ in batch) - 1, step):
        chunks: list[ScheduledChunk] = []
        targets: list[list[int]] = []
        first_block = 0
        for ids, count in batch:
            piece = ids[start : min(start + step, len(ids) - 1)]
            blocks = range(first_block, first_block + _blocks(ids))
            first_block = blocks.stop
            # of the piece's rows those that predict the continuation, its last `count` ids
            rows = max(0, min(len(piece), start + len(piece) - (len(ids) - 1 - count)))
            chunks.append(ScheduledChunk(piece, start, blocks, rows))
            end = start + len(piece) + 1
            targets.append(ids[end - rows : end])
        logits = executor.run(chunks).logits
        assert isinstance(logits, torch.Tensor)
        wanted = torch.tensor([id_ for ids in targets for id_ in ids], device=logits.device)
        scores = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(-1)
        matches = logits.argmax(-1) == wanted
        row = 0
        for index, ids in enumerate(targets):
            own = slice(row, row + len(ids))
            logprobs[index] += scores[own].double().sum().item()
            greedy[index] &= bool(matches[own].all())
            row = own.stop
    return list(zip(logprobs, greedy, strict=True))


class WrittenText(NamedTuple):
    """A continuation, without what stopped it. is_cut: True where the front of the prompt was left
    out.
    """

    text: str
    is_cut: bool


def generate_texts(
    llama: LanguageModel, prompts: Sequence[TextPrompt], on_progress: OnProgress | None = None
) -> list[WrittenText]:
    """The text that the model continues each prompt with, in the order of the prompts.

    The options of a prompt are those of `GenerationOptions`, with temperature 0 where they say
    none. A prompt too long for the context and its `max_tokens` is cut at its front. Raises
    ConfigError for an option that does not exist, RequestError for what the engine cannot serve,
    DataError for a model whose predictions are no numbers.
    """
    done: dict[str, WrittenText] = {}
    detokenizers: dict[str, Detokenizer] = {}
    cut: set[str] = set()
    context_length = llama.model.config.context_length

    def requests() -> Iterator[Request]:
        for number, prompt in enumerate(prompts):
            options = validate(
                GenerationOptions, {"temperature": 0.0, **prompt.options}, "generation options"
            )
            if options.max_tokens >= context_length:
                raise RequestError(
                    f"max_tokens {options.max_tokens} leaves nothing of the model's context of"
                    f" {context_length} for a prompt: ask for fewer"
                )
            ids = tuple(prompt.ids)[-(context_length - options.max_tokens) :]
            if len(ids) < len(prompt.ids):
                cut.add(str(number))
            detokenizers[str(number)] = Detokenizer(llama.tokenizer, options.stop)
            yield Request(str(number), ids, options, llama.tokenizer.end_ids)

    def take(event: Event) -> bool:
        detokenizer = detokenizers[event.request]
        detokenizer.feed(event)
        if detokenizer.finish is None:
            return False
        text = detokenizers.pop(event.request).text
        done[event.request] = WrittenText(text, event.request in cut)
        if on_progress is not None:
            on_progress(len(done), len(prompts))
        return True

    _run(llama, requests(), take)
    return [done[str(number)] for number in range(len(prompts))]


def _run(llama: LanguageModel, requests: Iterator[Request], take: Callable[[Event], bool]) -> None:
    """Give the engine requests while it works on others; take: True where an event ends its
    request.
    """
    engine, running = llama.engine, set[str]()
    try:
        while True:
            room = _WAITING * llama.options.max_running - len(running)
            for request in islice(requests, room):
                engine.add(request)
                running.add(request.id)
            if not running:
                return
            for event in engine.step():
                if event.request in running and take(event):
                    engine.cancel(event.request)  # a stop text ends what would go on
                    running.discard(event.request)
    except BaseException as error:  # Ctrl-C too: half-written blocks must not stay cached
        engine.fail("an evaluation failed or was interrupted")
        if isinstance(error, ValueError):  # no token can be chosen
            raise DataError(_NO_NUMBER) from error
        raise
