"""The works of an executor: what is computed, where it stands, and that drafts change no text."""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import pytest
import torch

from puna.inference.executor import ScheduledChunk, StepOutput
from puna.inference_benchmark import measured_process
from puna.inference_benchmark.measured_executor import MeasuredExecutor, blocks_for
from puna.inference_benchmark.measured_process import Computer, Setup
from puna.inference_benchmark.torch_programs import DynamicInt8
from puna.inference_benchmark.workload import WORKLOADS, Workload
from puna.model.config import ModelConfig
from puna.native.library import available_tiers

VOCABULARY = 50


class Recorder:
    """An executor that computes nothing and remembers the chunks; a token's logits are 0."""

    vocab_size, context_length, num_blocks, block_size = VOCABULARY, 10000, 1000, 16
    adapters = ()

    def __init__(self) -> None:
        self.steps: list[list[ScheduledChunk]] = []

    def run(self, chunks: Sequence[ScheduledChunk]) -> StepOutput:
        self.steps.append(list(chunks))
        rows = sum(chunk.rows for chunk in chunks)
        return StepOutput(torch.zeros(rows, VOCABULARY), [None] * len(chunks))


def test_a_prompt_is_one_step_with_logits_for_its_last_token() -> None:
    recorder = Recorder()
    assert MeasuredExecutor(recorder).seconds(WORKLOADS["prefill"]) > 0
    ((chunk,),) = recorder.steps
    assert (len(chunk.ids), chunk.start, chunk.rows, len(chunk.blocks)) == (512, 0, 1, 32)
    assert max(chunk.ids) < VOCABULARY


def test_a_long_context_is_computed_once() -> None:
    recorder = Recorder()
    measured = MeasuredExecutor(recorder)
    work = Workload("long", "decode", 3, context=1100)
    measured.seconds(work)
    assert [(chunk.start, len(chunk.ids)) for (chunk,) in recorder.steps] == [
        (0, 512),
        (512, 512),
        (1024, 76),
        (1100, 1),
        (1101, 1),
        (1102, 1),
    ]
    recorder.steps.clear()
    measured.seconds(work)
    assert [chunk.start for (chunk,) in recorder.steps] == [1100, 1101, 1102]


def test_streams_stand_in_blocks_of_their_own() -> None:
    recorder = Recorder()
    MeasuredExecutor(recorder).seconds(Workload("streams", "decode", 2, context=20, streams=3))
    assert [[len(chunk.ids) for chunk in step] for step in recorder.steps] == [
        [20, 20, 20],
        [1, 1, 1],
        [1, 1, 1],
    ]
    blocks = [block for chunk in recorder.steps[-1] for block in chunk.blocks]
    assert blocks == [*range(6)]
    assert blocks_for([Workload("streams", "decode", 2, context=20, streams=3)], 16) == 6


@pytest.mark.parametrize("repeats", [True, False])
def test_a_lookup_generates_as_many_tokens(repeats: bool) -> None:
    """With drafts in fewer steps where the text repeats; every step without drafts gives one."""
    work = Workload("lookup", "lookup", 40, context=32, repeats=repeats)
    steps = {}
    for speculate in (False, True):
        recorder = Recorder()
        MeasuredExecutor(recorder).seconds(work, speculate=speculate)
        steps[speculate] = len(recorder.steps)
        assert {token for step in recorder.steps for token in step[0].ids} <= (
            {20} if repeats else set(range(12))
        )
    assert steps[False] == 40
    assert steps[True] <= (10 if repeats else 40)


def test_the_process_answers_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(vocab_size=40, width=16, num_layers=1, num_heads=2, context_length=64)
    setup = Setup("float32", "bf16", 1, 4, config.model_dump(mode="json"), None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    works = [Workload("p", "prefill", 8), Workload("d", "decode", 2, context=4)]
    asked = "".join(json.dumps(work.request()) + "\n" for work in works)
    monkeypatch.setattr(sys, "stdin", io.StringIO(asked))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    measured_process.serve(setup)
    first, *answers = map(json.loads, sys.stdout.getvalue().splitlines())  # type: ignore[attr-defined]
    assert first == {"ready": True}
    assert len(answers) == 2
    assert all(answer["seconds"] > 0 for answer in answers)


@pytest.mark.parametrize("computer", ["float32", "native"])
def test_keys_and_values_are_kept_as_asked(
    computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if computer == "native" and not available_tiers():
        pytest.skip("the native core is not built")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    shape = ModelConfig(vocab_size=40, width=64, num_layers=1, num_heads=2, context_length=64)
    sizes = {}
    for int8_cache in (False, True):
        setup = Setup(computer, "bf16", 1, 4, shape.model_dump(mode="json"), None, int8_cache)
        executor = measured_process._opened(setup)._executor
        kept = executor._cache.keys if computer == "float32" else executor.runner._cache
        sizes[int8_cache] = kept[0].nbytes
    slots = 4 * 16 * 2  # of 32 entries
    assert sizes == (
        {False: slots * 32 * 4, True: slots * 32}
        if computer == "float32"  # the scales have memory of their own
        else {False: slots * 32 * 2, True: slots * (32 + 4)}
    )


def test_a_setup_survives_its_command_line() -> None:
    setup = Setup("native", "int4", 2, 9, {"width": 8}, "a folder", int8_cache=True)
    *_, text = setup.command()
    assert Setup(**json.loads(text)) == setup
    assert asdict(setup)["folder"] == "a folder"


def test_dynamic_int8_computes_the_products_of_a_prompt() -> None:
    """Its products are those of the weights that it packs, within the rounding of 8 bits."""
    config = ModelConfig(vocab_size=40, width=32, num_layers=2, num_heads=2, num_kv_heads=1)
    measured = DynamicInt8(config, torch.get_num_threads())
    assert measured.seconds(Workload("p", "prefill", 4)) > 0
