"""baselines.json: measured on the text that the runs are scored on, written and read back."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from said import said

from puna.cli.study import open_inputs
from puna.errors import DataError
from puna.eval.ngram import ngram_bits_per_byte
from puna.eval.primed_baselines import measure_primed_baselines
from puna.study.baselines import Baselines, measure_baselines, read_baselines
from puna.study.definition import Study
from puna.training.recipe import Recipe
from puna.workflow.run_data import open_data

PRIMED = ("xz -9e", "zstd -22", "PPMd", "5-gram")
STUDY = Study(question="?", base="", baseline="a", arms={"a": (), "b": ()}, seeds=(0, 1))


def test_baselines_are_those_of_a_run_s_report_on_the_study_s_text(
    tiny_recipe: Callable[..., Recipe], tiny_corpus: Path, tmp_path: Path
) -> None:
    _, text = open_inputs(tiny_recipe(), STUDY)
    training = open_data(tiny_recipe()).training_text(3_000)
    found = measure_baselines(training, text)
    content = text.tokenizer.decode_bytes(text.ids.tolist(), skip_special=True)
    assert sum(found.documents) == len(content)
    assert len(found.documents) == text.documents[-1] + 1
    assert found.tokens == len(training.ids)
    assert (found.read_bytes, found.all_bytes) == (len(training.content), training.all_bytes)
    assert found.read_bytes < found.all_bytes
    assert list(found.bits_per_byte) == ["unigram", "bigram", *PRIMED]
    primed = measure_primed_baselines(training, text.ids, text.tokenizer).bits_per_byte
    for name, level in primed.items():
        assert found.bits_per_byte[name] == pytest.approx(level, rel=1e-5)
    lengths = text.tokenizer.token_lengths()
    bigram = ngram_bits_per_byte(training.ids, text.ids, lengths, 2)
    assert found.bits_per_byte["bigram"] == pytest.approx(bigram, rel=1e-5)
    (tmp_path / "baselines.json").write_text(json.dumps(asdict(found)))
    assert read_baselines(tmp_path) == found


def test_a_file_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """Its compressors had read nothing."""
    old = {"text_hash": "d", "documents": [3], "tokens": 9, "bits_per_byte": {"gzip -9": 2.0}}
    (tmp_path / "baselines.json").write_text(json.dumps(old))
    assert read_baselines(tmp_path) == Baselines("d", (3,), 9, {"gzip -9": 2.0}, 0, 0)


def test_a_damaged_file_is_named_and_none_is_none(tmp_path: Path) -> None:
    assert read_baselines(tmp_path) is None
    (tmp_path / "baselines.json").write_text('{"text_hash": "d"}')
    with pytest.raises(DataError, match=said("does not hold baselines ... puna study baselines")):
        read_baselines(tmp_path)
