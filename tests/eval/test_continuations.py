"""Log-likelihoods against a plain loop over tokens in float64, at every length around the steps and
the context; texts against those that the model writes one prompt at a time.
"""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from said import said

from puna.errors import ConfigError, DataError, RequestError
from puna.eval import continuations
from puna.eval.continuations import (
    Pair,
    TextPrompt,
    encode_pair,
    generate_texts,
    rolling_windows,
    score_continuations,
)
from puna.inference.engine_config import EngineConfig
from puna.inference.language_model import LanguageModel, load

CONTEXT = 96  # of the tiny model


def random_ids(count: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 290, (count,), generator=generator).tolist()


def plainly(llama: LanguageModel, pair: Pair) -> tuple[float, bool]:
    """One target at a time, each from the ids before it that the model's context holds."""
    ids = (pair[0] + pair[1])[-(CONTEXT + 1) :]
    total, greedy = 0.0, True
    with torch.inference_mode():
        for target in range(len(ids) - len(pair[1]), len(ids)):
            logits = llama.model(torch.tensor([ids[:target]]))[0, -1].double()
            total += torch.log_softmax(logits, -1)[ids[target]].item()
            greedy &= int(logits.argmax()) == ids[target]
    return total, greedy


@pytest.mark.parametrize("step", [64, 1024])
def test_a_plain_loop_agrees(
    step: int, tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one id and one, of a full window, beyond it, and of a step that cuts a prompt in two."""
    monkeypatch.setattr(continuations, "_MOST_STEP_TOKENS", step)
    shapes = [
        (1, 1),
        (3, 2),
        (60, 5),
        (70, 20),
        (1, 96),
        (95, 2),
        (96, 1),
        (200, 7),
        (1, 64),
        (1, 65),
    ]
    pairs = [
        (random_ids(before, seed=before), random_ids(after, seed=7 + after))
        for before, after in shapes
    ]
    seen: list[tuple[int, int]] = []
    found = score_continuations(tiny_llama, pairs, lambda done, total: seen.append((done, total)))
    for pair, score in zip(pairs, found, strict=True):
        logprob, greedy = plainly(tiny_llama, pair)
        assert score.logprob == pytest.approx(logprob, rel=1e-5)
        assert score.is_greedy == greedy
        assert score.is_cut == (sum(map(len, pair)) > CONTEXT + 1)
    assert seen[-1] == (len(pairs), len(pairs))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_the_greedy_continuation_is_known(tiny_llama: LanguageModel) -> None:
    """What greedy decoding writes is greedy, and no longer so with another id at any place."""
    prompt = tiny_llama.encode_prompt("the llama reads")
    written = tiny_llama.complete("the llama reads", temperature=0.0, max_tokens=6, ignore_end=True)
    ids = written[0].ids
    others = [[*ids[:at], (ids[at] + 1) % 290, *ids[at + 1 :]] for at in range(len(ids))]
    found = score_continuations(tiny_llama, [(prompt, one) for one in [ids, *others]])
    assert [score.is_greedy for score in found] == [True, *[False] * len(ids)]


@pytest.mark.parametrize("pair", [([], [1]), ([1], []), ([1], [2] * (CONTEXT + 1))])
def test_a_pair_that_cannot_be_scored(pair: Pair, tiny_llama: LanguageModel) -> None:
    with pytest.raises(DataError, match=said("continuation of ... at least one ... 96")):
        score_continuations(tiny_llama, [pair])


def test_nothing_to_ask(tiny_llama: LanguageModel) -> None:
    assert score_continuations(tiny_llama, []) == generate_texts(tiny_llama, []) == []


@given(size=st.integers(0, 60), context=st.integers(1, 20))
def test_windows_predict_every_id_once_from_as_many_as_fit(size: int, context: int) -> None:
    ids = list(range(size))
    windows = rolling_windows(ids, -1, context)
    assert [id_ for _, predicted in windows for id_ in predicted] == ids
    whole = [-1, *ids]
    for before, predicted in windows:
        end = whole.index(predicted[-1]) + 1
        start = max(0, end - context - 1)
        assert whole[start:end] == before + predicted
        assert len(before) >= 1


def test_a_pair_of_texts_is_cut_where_the_context_ends(tiny_llama: LanguageModel) -> None:
    tokenizer = tiny_llama.tokenizer
    context, continuation = encode_pair(tokenizer, "the llama ", "reads")
    assert context == tokenizer.encode_document("the llama")
    assert context + continuation == tokenizer.encode_document("the llama reads")
    assert encode_pair(tokenizer, "", "reads") == ([tokenizer.bos_id], tokenizer.encode("reads"))
    with pytest.raises(DataError, match=said("'' ... no token of its own ... longer")):
        encode_pair(tokenizer, "the llama", "")


def test_texts_are_those_of_one_prompt_at_a_time(tiny_llama: LanguageModel) -> None:
    """More prompts than the engine runs at once, of several lengths, with a text that stops."""
    texts = [" ".join(["the llama reads old pages"] * (1 + number % 3)) for number in range(140)]
    prompts = [
        TextPrompt(tiny_llama.encode_prompt(text), {"max_tokens": 6, "stop": (" a",)})
        for text in texts
    ]
    written = generate_texts(tiny_llama, prompts)
    expected = {
        text: tiny_llama.generate(text, max_tokens=6, temperature=0.0, stop=(" a",))
        for text in set(texts)
    }
    assert [one.text for one in written] == [expected[text] for text in texts]
    assert not any(one.is_cut for one in written)


def test_a_long_prompt_is_cut_at_its_front(tiny_llama: LanguageModel) -> None:
    ids = random_ids(120)
    (long,) = generate_texts(tiny_llama, [TextPrompt(ids, {"max_tokens": 6})])
    (short,) = generate_texts(tiny_llama, [TextPrompt(ids[-90:], {"max_tokens": 6})])
    assert (long.text, long.is_cut, short.is_cut) == (short.text, True, False)


def test_options_that_cannot_be(tiny_llama: LanguageModel) -> None:
    with pytest.raises(RequestError, match=said("max_tokens 96 ... context of 96 ... fewer")):
        generate_texts(tiny_llama, [TextPrompt([1], {"max_tokens": 96})])
    with pytest.raises(ConfigError, match="beams"):
        generate_texts(tiny_llama, [TextPrompt([1], {"beams": 2})])
    # and the engine still serves
    assert generate_texts(tiny_llama, [TextPrompt([1], {"max_tokens": 1})])


def test_a_model_that_knows_nothing(uniform_llama: LanguageModel) -> None:
    """With all logits equal, -ln V a token, whatever it is."""
    (found,) = score_continuations(uniform_llama, [([1, 2], [3, 4, 5])])
    assert found.logprob == pytest.approx(-3 * math.log(uniform_llama.model.config.vocab_size))


def test_a_model_that_has_diverged(tiny_run: Path) -> None:
    """One error that says so, instead of figures that are no numbers."""
    llama = load(tiny_run / "model", "cpu", options=EngineConfig(isa="torch"))
    llama.model.output_weight.data[5] = math.nan
    with pytest.raises(DataError, match=said("NaN ... another checkpoint")):
        score_continuations(llama, [([1, 2], [3])])
    with pytest.raises(DataError, match=said("NaN ... another checkpoint")):
        generate_texts(llama, [TextPrompt([1, 2], {"max_tokens": 4})])
