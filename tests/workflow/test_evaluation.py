"""`puna.evaluate`: the library's numbers for a text, a file and a data folder."""

import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import puna
from puna.errors import DataError
from puna.eval.bits_per_byte import score_tokens
from puna.inference.language_model import LanguageModel

TEXT = "the llama reads old pages 🦙\n" * 9


def test_a_text_a_file_and_a_folder_give_the_scorers_numbers(
    tiny_run: Path, tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    found = puna.evaluate(tiny_run / "model", TEXT, context=16, stride=8, device="cpu")
    assert found == puna.evaluate(tiny_llama, file=tmp_path / "text", context=16, stride=8)
    ids = tiny_llama.encode_prompt(TEXT)
    score = score_tokens(
        tiny_llama.model,
        np.array(ids),
        tiny_llama.tokenizer.token_lengths(),
        context=16,
        stride=8,
    )
    assert (found.loss, found.bits_per_byte) == (score.loss, score.bits_per_byte)
    assert (found.tokens, found.perplexity) == (len(ids) - 1, score.perplexity)
    raw = TEXT.encode()
    assert found.bytes == len(raw)
    assert found.gzip_bits_per_byte == 8 * len(gzip.compress(raw, 9, mtime=0)) / len(raw)
    assert found.xz_bits_per_byte == 8 * len(lzma.compress(raw, preset=9)) / len(raw)


def test_a_data_folder_gives_the_runs_own_score(
    tiny_run: Path, tiny_recipe_file: Path, tiny_llama: LanguageModel
) -> None:
    from puna.workflow.training_run import read_summary

    found = puna.evaluate(
        tiny_llama, data=tiny_recipe_file.parent / "data", context=32, max_tokens=4000
    )
    summary = read_summary(tiny_run)
    assert summary is not None
    assert found.bits_per_byte == pytest.approx(summary["val_bits_per_byte"], rel=1e-6)
    assert found.bytes == summary["val_bytes"]
    assert (found.context, found.stride) == (32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give exactly one of text, file and data"),
        ({"text": "a", "file": "b"}, "give exactly one of text, file and data"),
        ({"text": "", "context": 16}, "the text has 1 tokens"),
        (
            {"text": TEXT, "context": 97},
            "context 97 exceeds the model's context of 96: give at most",
        ),
        ({"text": TEXT, "context": 0}, "context is 0, but a window has at least 1 token"),
        ({"text": TEXT, "context": 8, "stride": 9}, "stride 9 exceeds the window of 8"),
        ({"text": TEXT, "stride": 0}, "stride is 0, but windows move on by at least 1 token"),
        ({"file": "gone.txt"}, "there is no file gone.txt"),
    ],
)
def test_what_cannot_be_scored_says_why(
    arguments: dict[str, Any], message: str, tiny_llama: LanguageModel
) -> None:
    with pytest.raises(DataError, match=message):
        puna.evaluate(tiny_llama, **arguments)
