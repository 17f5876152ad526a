"""`puna.evaluate`: the library's numbers for a text, a file and a data folder."""

import gzip
import json
import lzma
import math
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import puna
from puna.data.shards import open_split
from puna.errors import DataError
from puna.eval.bits_per_byte import score_tokens
from puna.eval.held_out import HeldOutWindows
from puna.eval.ngram import ngram_bits_per_byte
from puna.eval.primed_baselines import primed_ppm_bytes
from puna.eval.training_text import TrainingText
from puna.inference.language_model import LanguageModel
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.run_inputs import RunInputs
from puna.workflow.evaluation import primed_baselines, score_beside_baselines

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


@pytest.mark.parametrize("masked", [False, True])
def test_one_figure_at_the_end_of_a_run_in_best_json_and_in_an_evaluation(
    masked: bool, tiny_recipe_file: Path, tiny_inputs: RunInputs, tmp_path: Path
) -> None:
    """They were three: the first N tokens while training, the first 10 N at its end, and all of
    the text, without the mask, afterwards.
    """
    overrides = [
        "train.steps=6",
        "train.validate_every=3",
        f"train.mask_documents={str(masked).lower()}",
        f"run={tmp_path / 'run'}",
    ]
    run = puna.train(tiny_recipe_file, overrides)
    best = json.loads((run.folder / "best.json").read_text())
    assert best["step"] == 6
    found = puna.evaluate(
        run.folder / "model", data=tiny_recipe_file.parent / "data", max_tokens=400, device="cpu"
    )
    assert (found.context, found.stride, found.mask_documents) == (32, 32, masked)
    assert found.bits_per_byte == best["bits_per_byte"] == run.summary["val_bits_per_byte"]
    assert found.loss == best["loss"] == run.summary["val_loss"]
    targets, all_targets = 400 // 32 * 32, tiny_inputs.validate(run.model.model).all_targets
    assert (found.targets, found.all_targets) == (targets, all_targets)
    assert (best["targets"], best["all_targets"]) == (targets, all_targets)
    assert (run.summary["val_targets"], run.summary["val_all_targets"]) == (targets, all_targets)
    assert found.bytes == run.summary["val_bytes"]
    assert found.gzip_bits_per_byte == run.summary["gzip_bits_per_byte"]
    assert found.primed is None
    if masked:
        across = puna.evaluate(
            run.folder / "model",
            data=tiny_recipe_file.parent / "data",
            mask_documents=False,
            max_tokens=400,
            device="cpu",
        )
        assert across.bits_per_byte != found.bits_per_byte
        assert not across.mask_documents


def test_baselines_are_those_of_the_runs_summary_and_those_of_the_text(
    tiny_run: Path, tiny_recipe_file: Path, tiny_llama: LanguageModel
) -> None:
    """They have read the training split of the data folder, and score the bytes that the model
    scores.
    """
    summary = json.loads((tiny_run / "summary.json").read_text())
    folder = tiny_recipe_file.parent / "data"
    found = puna.evaluate(
        tiny_run / "model", data=folder, max_tokens=400, baselines=True, device="cpu"
    )
    assert found.primed is not None
    assert found.primed.bits_per_byte == summary["primed_bits_per_byte"]
    assert found.primed.scored_bytes == found.bytes == summary["baseline_bytes"]
    train = open_split(folder, "train")
    assert found.primed.read_bytes == found.primed.all_bytes == train.num_bytes
    training = b"".join(
        tiny_llama.tokenizer.decode_bytes(ids.tolist(), skip_special=True)
        for ids in train.documents()
    )
    held_out = HeldOutWindows.of_splits([open_split(folder, "validation")], 400, context=32)
    text = tiny_llama.tokenizer.decode_bytes(held_out.targets.tolist(), skip_special=True)
    assert found.primed.bits_per_byte["PPMd"] == 8 * primed_ppm_bytes(training, text) / len(text)
    assert max(found.primed.bits_per_byte.values()) < found.xz_bits_per_byte
    ids = train.read(0, train.num_tokens)
    first = held_out.windows[0][:1]
    assert found.primed.bits_per_byte["5-gram"] == ngram_bits_per_byte(
        ids, np.append(first, held_out.targets), tiny_llama.tokenizer.token_lengths(), 5
    )


def test_baselines_take_the_first_tokens_of_a_long_text(
    tiny_recipe_file: Path, tiny_llama: LanguageModel
) -> None:
    split = open_split(tiny_recipe_file.parent / "data", "validation")
    held_out = HeldOutWindows.of_splits([split], 400, context=32)
    whole = tiny_llama.tokenizer.decode_bytes(held_out.targets.tolist(), skip_special=True)
    training = TrainingText.of_splits([split], [1.0], tiny_llama.tokenizer, 10**6)
    primed = primed_baselines(tiny_llama.tokenizer, held_out, training, max_baseline_bytes=100)
    found = score_beside_baselines(
        tiny_llama, held_out, context=32, stride=32, primed=primed, max_baseline_bytes=100
    )
    assert found.bytes == len(whole)
    assert found.primed == primed
    size = primed.scored_bytes
    assert 90 < size <= 100
    assert found.xz_bits_per_byte == 8 * len(lzma.compress(whole[:size], preset=9)) / size


def test_several_data_folders_give_equal_parts(
    tiny_recipe_file: Path, tiny_llama: LanguageModel
) -> None:
    folder = tiny_recipe_file.parent / "data"
    one = puna.evaluate(tiny_llama, data=folder, context=32, max_tokens=320)
    two = puna.evaluate(tiny_llama, data=[folder, folder], context=32, max_tokens=640)
    assert (two.targets, two.all_targets) == (2 * one.targets, 2 * one.all_targets)
    assert two.bits_per_byte == pytest.approx(one.bits_per_byte, rel=1e-6)


def test_a_model_of_another_program_is_scored_in_its_whole_context(
    tiny_run: Path, tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run / "model", tmp_path / "model")
    (tmp_path / "model" / "puna.json").unlink()
    found = puna.evaluate(tmp_path / "model", TEXT, device="cpu")
    assert found == puna.evaluate(tiny_llama, TEXT)
    assert (found.context, found.stride, found.mask_documents) == (96, 96, False)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_tokenizer_that_loses_text_is_judged_on_the_texts_own_bytes(
    as_file: bool, tiny_llama: LanguageModel, tmp_path: Path
) -> None:
    """One that composes accents has fewer bytes to predict, which made its model look better."""
    definition = json.loads(tiny_llama.tokenizer.to_json()) | {"normalizer": {"type": "NFC"}}
    composing = LanguageModel(tiny_llama.model, Tokenizer.from_json(json.dumps(definition)))
    text = unicodedata.normalize("NFD", "über naïve llamas reads\n") * 9
    (tmp_path / "text").write_text(text, encoding="utf-8")
    given: dict[str, Any] = {"file": tmp_path / "text"} if as_file else {"text": text}
    found = puna.evaluate(composing, **given)
    composed = unicodedata.normalize("NFC", text)
    same = puna.evaluate(tiny_llama, composed)
    assert (found.loss, found.tokens, found.bytes) == (same.loss, same.tokens, same.bytes)
    assert (same.kept, found.kept) == (1.0, len(composed.encode()) / len(text.encode()))
    nats = found.loss * found.tokens
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()))


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
        ({"text": TEXT, "baselines": True}, "there is no data: give data, or leave baselines"),
        ({"text": TEXT, "context": 0}, "context is 0, but a window has at least 1 token"),
        ({"text": TEXT, "context": 8, "stride": 9}, "stride 9 exceeds the window of 8"),
        ({"text": TEXT, "stride": 0}, "stride is 0, but windows move on by at least 1 token"),
        ({"file": "gone.txt"}, "the source gone.txt is neither a file, a folder nor a glob"),
    ],
)
def test_what_cannot_be_scored_says_why(
    arguments: dict[str, Any], message: str, tiny_llama: LanguageModel
) -> None:
    with pytest.raises(DataError, match=message):
        puna.evaluate(tiny_llama, **arguments)


def test_a_run_measures_its_primed_baselines_once(
    tiny_recipe_file: Path, tiny_inputs: object, tmp_path: Path
) -> None:
    """Before its first step, and never again: a resumed run takes what it finds."""
    overrides = [f"run={tmp_path / 'run'}", "train.validation_tokens=200"]
    stopped = puna.train(tiny_recipe_file, overrides, stop=lambda: True)
    kept = json.loads((tmp_path / "run" / "baselines.json").read_text())
    kept["bits_per_byte"]["xz -9e"] = 1.5
    (tmp_path / "run" / "baselines.json").write_text(json.dumps(kept))
    assert not stopped.finished
    finished = puna.train(tiny_recipe_file, overrides, resume=True)
    assert finished.summary["primed_bits_per_byte"] == kept["bits_per_byte"]
