"""Held-out windows: spread over all of the text, the same at every look, each target once; and the
texts that they are cut from.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from said import said

from puna.data.shards import TokenStream, open_split
from puna.errors import DataError
from puna.eval.bits_per_byte import score_tokens
from puna.eval.held_out import HeldOutWindows, document_separator, encode_sources, open_validation
from puna.inference.language_model import LanguageModel
from puna.tokenizer.tokenizer import Tokenizer


def split(ids: NDArray[np.int64]) -> TokenStream:
    """A split of these ids, without a folder."""
    return cast(
        TokenStream,
        SimpleNamespace(
            num_tokens=len(ids), read=lambda start, count: ids[start : start + count].copy()
        ),
    )


def starts(held_out: HeldOutWindows) -> list[int]:
    """Of windows of ascending ids."""
    return [int(window[0]) for window in held_out.windows]


def test_few_windows_are_the_middles_of_equal_parts() -> None:
    """100 windows of ten targets; four of them lie at the middles of quarters of the text. The
    first forty tokens, a text's beginning, would say nothing of the rest.
    """
    found = HeldOutWindows.of_ids(np.arange(1001), 40, context=10)
    assert starts(found) == [120, 370, 620, 870]
    assert found.targets.tolist() == [
        *range(121, 131), *range(371, 381), *range(621, 631), *range(871, 881)
    ]  # fmt: skip
    assert found.all_targets == 1000


@given(
    st.integers(2, 400),
    st.integers(1, 500),
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
)
def test_no_target_counts_twice_and_none_more_than_asked_for(
    num_tokens: int, limit: int, windows: tuple[int, int]
) -> None:
    context, stride = windows
    found = HeldOutWindows.of_ids(np.arange(num_tokens), limit, context=context, stride=stride)
    targets = found.targets.tolist()
    assert len(set(targets)) == len(targets) <= limit
    assert all(len(window) <= context + 1 for window in found.windows)
    if limit >= num_tokens - 1:
        assert targets == list(range(1, num_tokens))
    for window, seen in zip(found.windows, found.seen, strict=True):
        assert window.tolist() == list(range(window[0], window[0] + len(window)))
        assert seen == (0 if window[0] == 0 and limit >= num_tokens - 1 else context - stride)


@pytest.mark.parametrize("limit", [64, 1000, 3000])
def test_as_many_tokens_lie_in_every_part_of_the_text(limit: int) -> None:
    """Whatever is asked for, the counts of windows in equal fifths of the text differ by at most
    one.
    """
    found = HeldOutWindows.of_ids(np.arange(16 * 1000 + 1), limit, context=16)
    counts = np.histogram(starts(found), bins=5, range=(0, 16_000))[0]
    assert counts.sum() == limit // 16
    assert counts.max() - counts.min() <= 1


def test_each_split_gives_an_equal_part_and_a_short_one_all_that_it_has() -> None:
    long, short = split(np.arange(1000, 2001)), split(np.arange(0, 31))
    found = HeldOutWindows.of_splits([long, short], 200, context=10)
    in_short = found.targets < 1000
    assert found.targets[in_short].tolist() == list(range(1, 31))
    assert (~in_short).sum() == 100
    assert found.all_targets == 1000 + 30


@pytest.mark.parametrize("stride", [8, 5, 1])
def test_all_of_a_text_has_the_score_of_the_text(stride: int, tiny_llama: LanguageModel) -> None:
    lengths = tiny_llama.tokenizer.token_lengths()
    ids = np.random.default_rng(0).integers(0, 300, 71)
    whole = HeldOutWindows.of_ids(ids, 10**9, context=8, stride=stride)
    expected = score_tokens(tiny_llama.model, ids, lengths, context=8, stride=stride)
    found = whole.score(tiny_llama.model, lengths)
    assert (found.tokens, found.bytes) == (expected.tokens, expected.bytes)
    assert found.nats == pytest.approx(expected.nats, rel=1e-6)


def test_a_sample_of_sorted_documents_is_nearer_to_the_whole_than_its_beginning(
    tiny_llama: LanguageModel,
) -> None:
    """Easy documents, then hard ones, as where folders sort by kind: the beginning knows nothing
    of the second half.
    """
    lengths, tokenizer = tiny_llama.tokenizer.token_lengths(), tiny_llama.tokenizer
    easy = tokenizer.encode("the llama reads old pages in light of the river and stone. " * 40)
    hard = np.random.default_rng(0).integers(0, 256, len(easy)).tolist()
    ids = np.array(easy + hard)

    def bits(held_out: HeldOutWindows) -> float:
        return held_out.score(tiny_llama.model, lengths).bits_per_byte

    whole = bits(HeldOutWindows.of_ids(ids, len(ids), context=32))
    spread = bits(HeldOutWindows.of_ids(ids, len(ids) // 4, context=32))
    beginning = bits(HeldOutWindows.of_ids(ids[: len(ids) // 4], len(ids), context=32))
    assert spread == pytest.approx(whole, rel=0.1)
    assert beginning < 0.6 * whole


@pytest.mark.parametrize("ids", [[], [5]])
def test_too_short_a_text(ids: list[int]) -> None:
    with pytest.raises(DataError, match=said(f"{len(ids)} tokens ... two")):
        HeldOutWindows.of_ids(np.array(ids, dtype=np.int64), 100, context=8)


def test_documents_are_parted_by_the_begin_token_or_else_the_end_token() -> None:
    def tokenizer(**ids: Any) -> Tokenizer:
        return cast(Tokenizer, SimpleNamespace(**ids))

    assert document_separator(tokenizer(bos_id=0, eos_id=7)) == 0
    assert document_separator(tokenizer(bos_id=None, eos_id=7)) == 7


def test_another_tokenizer_is_rejected(tiny_recipe_file: Path, tiny_llama: LanguageModel) -> None:
    folder = tiny_recipe_file.parent / "data"
    opened = open_validation(folder, tiny_llama.tokenizer)
    assert opened.num_tokens == open_split(folder, "validation").num_tokens
    other = Tokenizer.train(["something else entirely " * 20], 270)
    with pytest.raises(DataError, match="was prepared with another tokenizer than the model's"):
        open_validation(folder, other)


def test_a_text_is_one_document(tmp_path: Path, tiny_llama: LanguageModel) -> None:
    path = tmp_path / "text"
    path.write_text("the llama 🦙\r\nreads\n", encoding="utf-8", newline="")
    tokenizer = tiny_llama.tokenizer
    ids = encode_sources([str(path)], tokenizer).ids
    assert ids.dtype == np.int64
    assert ids[0] == tokenizer.bos_id
    assert tokenizer.decode_bytes(ids[1:].tolist()) == path.read_bytes(), (
        "bits per byte count the file's own bytes"
    )


@pytest.mark.parametrize("form", ["a folder", "two files", "a glob", "JSON lines"])
def test_several_documents_lie_as_in_a_prepared_folder(
    form: str, tmp_path: Path, tiny_llama: LanguageModel
) -> None:
    texts = {"a": "the llama", "b": "reads old pages"}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "texts.jsonl").write_text(
        "".join(f'{{"text": "{text}"}}\n' for text in texts.values())
    )
    if form == "a folder":
        (tmp_path / "texts.jsonl").unlink()
    sources: Sequence[Path] = {
        "a folder": [tmp_path],
        "two files": [tmp_path / "a.txt", tmp_path / "b.txt"],
        "a glob": [tmp_path / "*.txt"],
        "JSON lines": [tmp_path / "texts.jsonl"],
    }[form]
    tokenizer = tiny_llama.tokenizer
    documents = tokenizer.encode_documents(list(texts.values()), end=True)
    expected = list(itertools.chain.from_iterable(documents))[:-1]
    assert encode_sources([str(source) for source in sources], tokenizer).ids.tolist() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither a file, a folder nor a glob"),
        (b"", "gives no text ... leave it out"),
        (b"fine \xff", "gives no text: ... is not UTF-8; mend that"),
    ],
)
def test_a_text_that_cannot_be_scored(
    content: bytes | None, message: str, tmp_path: Path, tiny_llama: LanguageModel
) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said(message)):
        encode_sources([str(path)], tiny_llama.tokenizer)


@given(st.integers(2, 400), st.integers(1, 500), st.integers(1, 40), st.integers(1, 5))
def test_parts_are_shaped_alike_and_count_each_target_once(
    num_tokens: int, limit: int, context: int, size: int
) -> None:
    """Processes whose weights are gathered from all wait for ever where one asks more often."""
    splits = [split(np.arange(num_tokens)), split(1000 + np.arange(2 * num_tokens + 3))]
    whole = HeldOutWindows.of_splits(splits, 2 * limit, context=context)
    parts = [whole.part(rank, size) for rank in range(size)]
    targets = np.concatenate([part.targets for part in parts])
    assert sorted(targets.tolist()) == sorted(whole.targets.tolist())
    shapes = [[len(window) for window in part.windows] for part in parts]
    assert shapes == [shapes[0]] * size
    longest = -(-len(whole.windows) // size)
    assert len(shapes[0]) <= longest + len({len(window) for window in whole.windows})
    assert {part.all_targets for part in parts} == {whole.all_targets}
