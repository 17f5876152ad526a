"""The decode loop and its cache: equal to computing everything anew, and bounded."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch

from puna.errors import RequestError
from puna.inference.decode import decode
from puna.inference.kv_cache import KVCache, LayerCache
from puna.inference.language_model import LanguageModel
from puna.inference.request import GenerationOptions
from puna.model.transformer import Transformer

PROMPT = [5, 80, 13, 200, 7]


@pytest.fixture(scope="module")
def model(tiny_llama: LanguageModel) -> Transformer:
    return tiny_llama.model


@pytest.fixture
def no_steps(model: Transformer) -> Iterator[None]:
    """Any use of the model fails."""

    def fail(*_: object) -> None:
        raise AssertionError("the model was used")

    hook = model.embed_tokens.register_forward_pre_hook(fail)
    yield
    hook.remove()


@pytest.mark.parametrize("cuts", [(0, split, 16) for split in range(1, 16)] + [tuple(range(17)), (0, 3, 4, 9, 16)])
@torch.inference_mode()
def test_cached_and_uncached_logits_agree_at_every_split(cuts: tuple[int, ...], model: Transformer) -> None:
    ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    cache = KVCache.empty(model.config, 2, 16)
    pieces = [model(ids[:, a:b], torch.arange(a, b), cache) for a, b in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), rtol=1e-5, atol=1e-5)
    assert cache.length == 16


@torch.inference_mode()
def test_a_repeated_cache_is_independent_of_its_source(model: Transformer) -> None:
    one = KVCache.empty(model.config, 1, 8)
    model(torch.tensor([PROMPT]), cache=one)
    three = one.repeat(3)
    before = [layer.keys[:, :, :5].clone() for layer in one]
    model(torch.tensor([[1], [2], [3]]), torch.tensor([5]), three)
    assert (one.length, three.length, len(three)) == (5, 6, model.config.num_layers)
    assert all(layer.keys[:, :, :5].equal(keys) for layer, keys in zip(one, before, strict=True))
    assert three[0].keys.shape == (3, 1, 8, 16)


def test_a_cache_that_is_full_says_so() -> None:
    cache = LayerCache(torch.empty(1, 1, 4, 2), torch.empty(1, 1, 4, 2))
    cache.append(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2))
    with pytest.raises(ValueError, match="5 positions do not fit a cache of 4"):
        cache.append(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert cache.length == 3


@torch.inference_mode()
def test_greedy_decoding_is_the_argmax_of_the_whole_computed_anew(model: Transformer) -> None:
    ids = list(PROMPT)
    for found in decode(model, PROMPT, GenerationOptions(temperature=0.0, max_tokens=20)):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert found == ids[-1:]
    assert len(ids) == len(PROMPT) + 20


def test_continuations_are_those_of_their_own_seeds(model: Transformer) -> None:
    together = list(decode(model, PROMPT, GenerationOptions(seed=11, n=3, max_tokens=12)))
    for row in range(3):
        alone = list(decode(model, PROMPT, GenerationOptions(seed=11 + row, max_tokens=12)))
        assert [ids[row] for ids in together] == [ids[0] for ids in alone]
    fresh = [list(decode(model, PROMPT, GenerationOptions(max_tokens=12))) for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_a_continuation_that_met_its_end_is_silent_and_the_others_go_on(model: Transformer) -> None:
    free = list(zip(*decode(model, PROMPT, GenerationOptions(seed=1, n=4, max_tokens=30)), strict=True))
    end = free[2][4]
    found = list(zip(*decode(model, PROMPT, GenerationOptions(seed=1, n=4, max_tokens=30), frozenset([end])), strict=True))
    for row, tokens in enumerate(free):
        length = tokens.index(end) + 1 if end in tokens else 30
        ended = [None] * (len(found[row]) - length)
        assert list(found[row]) == [*tokens[:length], *ended]
    assert len(list(decode(model, PROMPT, GenerationOptions(seed=3, max_tokens=30), frozenset([end])))) == free[2].index(end) + 1


def test_the_context_ends_a_generation(model: Transformer) -> None:
    prompt = [1] * 90
    assert len(list(decode(model, prompt, GenerationOptions(max_tokens=50, seed=0)))) == 6
    assert len(list(decode(model, [1] * 95, GenerationOptions(max_tokens=50, seed=0)))) == 1


def test_ids_without_a_text_are_never_chosen(model: Transformer) -> None:
    hot = GenerationOptions(temperature=50.0, seed=0, n=20, max_tokens=10)
    assert max(max(ids) for ids in decode(model, [1], hot)) > 40  # type: ignore[type-var]
    assert max(max(ids) for ids in decode(model, [1], hot, vocab_size=40)) < 40  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([1] * 96, "the prompt has 96 tokens, but the model's context of 96 must hold it and at least one more"),
        ([1] * 500, "the prompt has 500 tokens"),
        ([1, 300], "ids outside 0 to 299"),
        ([-1, 3], "ids outside 0 to 299"),
    ],
)
def test_an_impossible_prompt_is_refused_before_the_first_step(prompt: list[int], message: str, model: Transformer, no_steps: None) -> None:
    with pytest.raises(RequestError, match=message):
        decode(model, prompt, GenerationOptions())
