"""One run of a study as a record: its looks, its end by document, through kills and divergence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from said import said
from small_study import write_study

import puna.study.job
from puna.cli.study import open_inputs
from puna.data.prepare import prepare
from puna.errors import TrainingError
from puna.study.arms import resolve_arms
from puna.study.definition import read_study
from puna.study.job import Job, run_job
from puna.study.results import append_record, read_results
from puna.study.run_metrics import METRICS, MeasuredModel
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.recipe import Recipe
from puna.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("tiny_inputs", "constant_code_hash")

SHORT = ["train.steps=8", "train.validate_every=4", "optimizer.warmup_steps=1"]
TOKENS = 4 * 32  # a step
UNEQUAL = ("started", "machine", "code_hash")
JOB = Job("one", 3)


def write_looking(folder: Path, base: Path, **changes: Any) -> Path:
    """Eight steps with looks after 2 and 4, which a checkpoint every third step never meets."""
    short = [*SHORT, "train.checkpoint_every=3"]
    return write_study(
        folder,
        base,
        **{
            "arms": {"one": short, "same": short},
            "also": ["bits_per_byte_2x", "bits_per_byte_numbers"],
            "looks": [0.25, 0.5],
            "probes": ["activation_norms"],
            "outcomes": {"failed": {"metric": "bits_per_byte_numbers", "above": 3.0}},
            "times": {"to 2": {"metric": "loss", "level": 2.0}},
            **changes,
        },
    )


@pytest.fixture
def looking(tiny_recipe_file: Path, tmp_path: Path) -> Path:
    return write_looking(tmp_path / "study", tiny_recipe_file)


def run(folder: Path) -> dict[str, Any]:
    """The record of JOB, without what differs from one machine or moment to another."""
    study = read_study(folder)
    record = run_job(
        resolve_arms(study, folder)["one"], JOB, study, folder, {"rule": study.hash}, open_inputs
    )
    return {key: value for key, value in record.items() if key not in UNEQUAL}


@pytest.fixture(scope="module")
def whole(tiny_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a run that nothing ends."""
    return run(write_looking(tmp_path_factory.mktemp("whole") / "study", tiny_recipe_file))


def test_looks_have_the_tokens_metrics_and_probes_that_are_asked_for(whole: dict[str, Any]) -> None:
    """Of `also` only what an outcome or a time is made from is measured there."""
    first, second = whole["looks"]
    assert [first["tokens"], second["tokens"]] == [2 * TOKENS, 4 * TOKENS]
    for look in (first, second):
        assert set(look) == {
            "tokens", "bits_per_byte", "bits_per_byte_numbers", "loss", "probes"
        }  # fmt: skip
        assert set(look["probes"]) == {"activation_norms"}
    assert set(METRICS) & set(whole) == {
        *("bits_per_byte", "bits_per_byte_2x", "bits_per_byte_numbers"),
        *("bits_per_byte_numbers", "loss"),
    }
    probes = [whole["probes"]["start"], first["probes"], second["probes"], whole["probes"]["end"]]
    assert len({str(probe) for probe in probes}) == 4
    losses = [look["loss"] for look in (first, second, whole)]
    assert sorted(losses, reverse=True) == losses
    assert whole["tokens"] == 8 * TOKENS


def test_a_look_leaves_the_training_as_it_is(whole: dict[str, Any], looking: Path) -> None:
    """The look after step 4 is the validation after step 4 of a run without looks."""
    write_looking(looking, Path(read_study(looking).base), looks=[])
    without = run(looking)
    assert without["looks"] == []
    for key in ("bits_per_byte", "documents", "curve", "gradient_norms"):
        assert without[key] == whole[key], key
    assert [tokens for tokens, _ in whole["curve"]] == [4 * TOKENS, 8 * TOKENS]


class Kill(BaseException):
    """What ends a run without its leave."""


def at_measurement(
    monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]
) -> list[int]:
    """Have `act` called before the measurement of that number; the list grows with every one."""
    measured: list[int] = []
    measure = puna.study.job._Measurement.__call__

    def counted(self: Any, metrics: Any, *, documents: bool = False) -> dict[str, Any]:
        measured.append(self.trainer.progress.step)
        if len(measured) == number:
            act()
        return measure(self, metrics, documents=documents)

    monkeypatch.setattr(puna.study.job._Measurement, "__call__", counted)
    return measured


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_run_killed_at_a_look_or_its_end_leaves_the_same_record(
    number: int, whole: dict[str, Any], looking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks that were taken are not taken again."""

    def die() -> None:
        raise Kill

    measured = at_measurement(monkeypatch, number, die)
    with pytest.raises(Kill):
        run(looking)
    assert run(looking) == whole
    taken = [2, 4, 8]
    assert measured == taken[:number] + taken[number - 1 :]


def test_a_run_killed_between_looks_goes_on_from_the_checkpoint_before(
    whole: dict[str, Any], looking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After step 3, whose checkpoint is the newest; the look after 2 is in looks.json."""
    with monkeypatch.context() as patch:

        def killed_later(self: Trainer, meter: Any) -> Any:
            if self.progress.step == 3:
                raise Kill
            return step(self, meter)

        step = Trainer._step
        patch.setattr(Trainer, "_step", killed_later)
        with pytest.raises(Kill):
            run(looking)
    assert (JOB.folder(looking) / "looks.json").exists()
    assert run(looking) == whole


def test_an_interrupted_run_saves_and_goes_on(
    whole: dict[str, Any], looking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_measurement(monkeypatch, 1, puna.study.job._interrupted.set)
    try:
        with pytest.raises(TrainingError, match=said("was stopped at step 2 ... to go on")):
            run(looking)
    finally:
        puna.study.job._interrupted.clear()
    assert run(looking) == whole


def test_a_run_that_diverges_keeps_its_looks(
    looking: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged() -> None:
        raise TrainingError("20 steps in a row had gradients that are not finite")

    at_measurement(monkeypatch, 3, diverged)
    record = run(looking)
    assert record["looks"] == whole["looks"]
    assert "not finite" in record["diverged"]
    assert record["bits_per_byte"] is None
    assert (record["documents"], record["probes"]["end"]) == ([], {})


def test_a_model_that_overflows_is_a_record_like_others(
    looking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradients were finite, or not for long enough; null stands for what is no number."""

    def overflow(measured: MeasuredModel) -> Any:
        return np.full(len(measured.text.ids) - 1, np.nan, dtype=np.float32)

    monkeypatch.setattr(MeasuredModel, "losses", property(overflow))
    record = run(looking)
    assert (record["bits_per_byte"], record["loss"], record["diverged"]) == (None, None, "")
    assert set(record["documents"]) == {None}
    append_record(looking / "results.jsonl", record)
    assert read_results(looking)[0]["bits_per_byte"] is None


def test_the_bits_of_the_documents_add_up_to_those_of_the_text(
    whole: dict[str, Any], tiny_recipe: Callable[..., Recipe], looking: Path
) -> None:
    """And there is one number for each document of the validation split."""
    _, text = open_inputs(tiny_recipe(), read_study(looking))
    assert len(whole["documents"]) == len(np.unique(text.documents))
    size = text.tokenizer.token_lengths()[text.ids[1:]].sum()
    assert sum(whole["documents"]) == pytest.approx(whole["bits_per_byte"] * size, rel=1e-6)


def test_the_hash_of_the_text_is_that_of_its_bytes_whatever_the_tokenizer(
    tiny_recipe: Callable[..., Recipe], tiny_corpus: Path, looking: Path, tmp_path: Path
) -> None:
    study, ours = read_study(looking), tiny_recipe()
    other = Tokenizer.train(["another text entirely " * 20], 270)
    other.save(tmp_path / "tokenizer")
    prepare([str(tiny_corpus)], other, tmp_path / "data", validation_fraction=0.1)
    theirs = tiny_recipe(
        f"tokenizer.path={tmp_path / 'tokenizer'}", f"data.mixture=[{{path: {tmp_path / 'data'}}}]"
    )
    texts = [open_inputs(recipe, study)[1] for recipe in (ours, theirs)]
    assert len(texts[0].ids) != len(texts[1].ids)
    assert texts[0].hash == texts[1].hash
    beyond = study.model_copy(update={"out_of_domain": (str(tiny_corpus),)})
    assert open_inputs(ours, beyond)[1].hash != texts[0].hash


def test_a_job_is_the_one_that_left_its_record_and_has_a_folder_of_its_own(tmp_path: Path) -> None:
    point = ("model.init=fan_in", "optimizer.learning_rate=0.002")
    jobs = [
        Job("a", 0),
        Job("a", 1),
        Job("a", 0, "full"),
        Job("a", 0, "", point),
        Job("a", 0, "", point[:1]),
        Job("a/b", 0),
    ]
    assert len({job.folder(tmp_path) for job in jobs}) == len({job.name for job in jobs}) == 6
    assert {job.folder(tmp_path).parent for job in jobs} == {tmp_path / "runs"}
    for job in jobs:
        kept = {"arm": job.arm, "seed": job.seed, "stage": job.stage, "point": list(job.point)}
        assert Job.of(kept) == job
    assert Job.of({"arm": "a", "seed": 1}) == Job("a", 1)  # a record of before there were stages


def test_a_record_says_where_its_numbers_come_from(whole: dict[str, Any]) -> None:
    for key in ("recipe_hash", "data_hash", "text_hash", "rule"):
        assert len(whole[key]) == 16, key
    assert [step for step, _ in whole["gradient_norms"]] == [5, 8]
