"""The decode loop: one prompt in ids, its continuations token by token. It knows ids, not text."""

import secrets
from collections.abc import Iterator, Sequence

import torch

from puna.errors import RequestError
from puna.inference.kv_cache import KVCache
from puna.inference.request import GenerationOptions
from puna.inference.sampling import sample
from puna.model.transformer import Transformer


def decode(
    model: Transformer,
    prompt: Sequence[int],
    options: GenerationOptions,
    stop_ids: frozenset[int] = frozenset(),
    vocab_size: int | None = None,
) -> Iterator[list[int | None]]:
    """Yield, step by step, the next id of each of the `options.n` continuations; None for one that has ended.

    A continuation ends with a stop id (which is yielded), after `max_tokens`, or at the model's context length. The prompt is computed
    once for all. vocab_size: the ids that have a text, which may be fewer than the model has rows for; no other is chosen.
    Raises RequestError, before the first step, for an empty prompt, one that fills the context, or ids out of range.
    """
    config = model.config
    vocab_size = vocab_size or config.vocab_size
    if not prompt:
        raise RequestError("the prompt is empty, but a model continues something: give at least one token")
    if len(prompt) >= config.context_length:
        raise RequestError(
            f"the prompt has {len(prompt)} tokens, but the model's context of {config.context_length} must hold it and "
            "at least one more: shorten the prompt"
        )
    if not 0 <= min(prompt) <= max(prompt) < vocab_size:
        raise RequestError(f"the prompt holds ids outside 0 to {vocab_size - 1}: it was made by another tokenizer")
    return _decode(model, prompt, options, stop_ids, vocab_size)


def _decode(
    model: Transformer, prompt: Sequence[int], options: GenerationOptions, stop_ids: frozenset[int], vocab_size: int
) -> Iterator[list[int | None]]:
    device = model.output_weight.device
    steps = min(options.max_tokens, model.config.context_length - len(prompt))
    seed = options.seed if options.seed is not None else secrets.randbits(62)
    generators = [torch.Generator(device).manual_seed(seed + row) for row in range(options.n)]
    running = [True] * options.n
    with torch.inference_mode():
        cache = KVCache.empty(model.config, 1, len(prompt) + steps, device, model.output_weight.dtype)
        ids = torch.tensor([prompt], device=device)
        last = model.hidden_states(ids, cache=cache)[:, -1:]
        seen, last, cache = ids.repeat(options.n, 1), last.repeat(options.n, 1, 1), cache.repeat(options.n)
    for step in range(steps):
        with torch.inference_mode():
            if step:
                position = torch.tensor([cache.length], device=device)
                last = model.hidden_states(seen[:, -1:], position, cache)
            logits = torch.nn.functional.linear(last[:, -1], model.output_weight[:vocab_size])
            chosen = sample(logits, seen, options, generators)
            seen = torch.cat((seen, chosen[:, None]), dim=1)
        ids_now = chosen.tolist()
        yield [token if alive else None for token, alive in zip(ids_now, running, strict=True)]
        running = [alive and token not in stop_ids for token, alive in zip(ids_now, running, strict=True)]
        if not any(running):
            return
