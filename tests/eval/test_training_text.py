"""The text that primed baselines read: all of a split, or a sample of it of the asked-for size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from puna.data.shards import TokenStream, open_split
from puna.eval import training_text
from puna.eval.training_text import TrainingText
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.recipe import Recipe


@pytest.fixture
def tokenizer(tiny_recipe: Callable[..., Recipe]) -> Tokenizer:
    return Tokenizer.load(tiny_recipe().tokenizer.path)


@pytest.fixture
def split(tiny_corpus: Path) -> TokenStream:
    return open_split(tiny_corpus.parent / "data", "train")


def test_all_of_a_split_that_fits(split: TokenStream, tokenizer: Tokenizer) -> None:
    found = TrainingText.of_splits([split], [1.0], tokenizer, split.num_bytes)
    np.testing.assert_array_equal(found.ids, np.concatenate(list(split.documents())))
    assert len(found.content) == found.all_bytes == split.num_bytes
    assert found.content == tokenizer.decode_bytes(found.ids.tolist(), skip_special=True)


def test_a_part_is_spread_over_the_split_from_its_first_token_to_its_last(
    split: TokenStream, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_text, "STRETCH", 16)
    size = split.num_bytes // 4
    found = TrainingText.of_splits([split], [1.0], tokenizer, size)
    assert len(found.content) == pytest.approx(size, rel=0.1)
    assert found.all_bytes == split.num_bytes
    ids = split.read(0, split.num_tokens)
    np.testing.assert_array_equal(found.ids[:8], ids[:8])
    np.testing.assert_array_equal(found.ids[-8:], ids[-8:])
    quarter = split.num_tokens // 4
    thirds = [len(found.ids) * part // 3 for part in (1, 2)]
    for at in thirds:  # in the middle too, and nothing twice
        stretch = found.ids[at // 16 * 16 : at // 16 * 16 + 8].tolist()
        places = [i for i in range(len(ids) - 8) if ids[i : i + 8].tolist() == stretch]
        assert any(abs(place / len(ids) - at / len(found.ids)) < 0.1 for place in places)
    assert len(found.ids) <= quarter


def test_several_splits_are_read_by_weight(split: TokenStream, tokenizer: Tokenizer) -> None:
    size = split.num_bytes // 2
    found = TrainingText.of_splits([split, split], [3.0, 1.0], tokenizer, size)
    assert found.all_bytes == 2 * split.num_bytes
    tokens = size * split.num_tokens / split.num_bytes
    assert len(found.ids) == pytest.approx(tokens, abs=4)
    again = np.flatnonzero(
        [np.array_equal(found.ids[i : i + 8], found.ids[:8]) for i in range(len(found.ids))]
    )
    assert again[-1] == pytest.approx(0.75 * tokens, abs=4)  # where the second begins


def test_of_a_split_something_is_always_read(split: TokenStream, tokenizer: Tokenizer) -> None:
    assert len(TrainingText.of_splits([split], [1.0], tokenizer, 1).ids) == 1
