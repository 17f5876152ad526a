"""Programs that answer, that break off, and that are started: with small scripts in their place."""

import sys
from collections.abc import Iterator

import pytest
from said import said

from puna.inference_benchmark.comparison import measured_row
from puna.inference_benchmark.programs import (
    AnsweringProgram,
    ProgramError,
    last_line,
    run,
    seconds_to_output,
)
from puna.inference_benchmark.verdict import OURS, PLAIN, MachineLimits
from puna.inference_benchmark.workload import WORKLOADS, Workload

READY = "import json, sys; print('{\"ready\": true}', flush=True)\n"
ANSWER = (
    "for line in sys.stdin:\n"
    "    asked = json.loads(line)\n"
    "    seconds = 0.5 if asked.get('speculate') else 2.0\n"
    "    print(json.dumps({'seconds': seconds}), flush=True)\n"
)


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.fixture
def answering() -> Iterator[AnsweringProgram]:
    program = AnsweringProgram(OURS, script(READY + ANSWER), list(WORKLOADS))
    yield program
    program.close()


def test_rates_are_tokens_of_all_streams_over_seconds(answering: AnsweringProgram) -> None:
    tokens = {"prefill": 512, "decode-8k": 64, "streams": 8 * 64}
    rates = {name: answering.entries(WORKLOADS[name])[OURS]() for name in tokens}
    assert rates == {name: count / 2 for name, count in tokens.items()}


def test_a_lookup_has_two_entries(answering: AnsweringProgram) -> None:
    """The first token of a generation is before the measured time."""
    entries = answering.entries(WORKLOADS["lookup-repeating"])
    assert {name: measure() for name, measure in entries.items()} == {
        OURS: 127 / 0.5,
        PLAIN: 127 / 2,
    }


def test_a_program_has_part_in_its_works_alone() -> None:
    program = AnsweringProgram("other", script(READY), ["prefill"])
    assert not program.entries(WORKLOADS["decode"])
    program.close()  # never started


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit('no such model')", "ended with code 1 ... no such model"),
        ('print(\'{"error": "no kernel for it"}\', flush=True)', "no kernel for it"),
        (READY, "ended with code 0"),
    ],
)
def test_a_program_that_breaks_off_says_why(text: str, message: str) -> None:
    program = AnsweringProgram(OURS, script(text), ["decode"])
    with pytest.raises(ProgramError, match=said(message)):
        program.entries(WORKLOADS["decode"])[OURS]()
    program.close()


def test_rounds_alternate_and_the_first_one_warms_up() -> None:
    order: list[str] = []
    figures = iter(range(1, 100))

    def measure(name: str) -> float:
        order.append(name)
        if name == "b" and len(order) > 4:
            raise ProgramError("out of memory")
        return float(next(figures))

    row = measured_row(
        WORKLOADS["decode"],
        "int8",
        {"a": lambda: measure("a"), "b": lambda: measure("b"), "c": lambda: measure("c")},
        lambda: MachineLimits(reading=float(len(order))),
        3,
    )
    assert order == ["a", "b", "c", "a", "b", "c", "a", "c", "a", "c"]
    assert row.runs == {"a": [4.0, 6.0, 8.0], "b": [], "c": [5.0, 7.0, 9.0]}
    assert row.failed == {"b": "out of memory"}
    assert row.medians == {"a": 6.0, "c": 7.0}
    assert row.limits == MachineLimits(reading=6.0)  # before the rounds at 3, 6 and 8 turns


def test_commands_are_run_and_their_errors_told() -> None:
    assert run(script("print('found')")).strip() == "found"
    both = script("import sys; print('out'); print('beside', file=sys.stderr)")
    assert run(both).split() == ["out"]
    assert run(both, errors=True).split() == ["out", "beside"]
    with pytest.raises(ProgramError, match=said("code 3 ... at the end")):
        run(script("import sys; sys.stderr.write('first\\nat the end\\n\\n'); sys.exit(3)"))
    with pytest.raises(ProgramError, match="no-such-program"):
        run(["/no-such-program"])


def test_a_start_ends_at_the_first_byte() -> None:
    assert seconds_to_output(script("print('t', flush=True)")) > 0
    with pytest.raises(ProgramError, match=said("code 0 ... wrote nothing")):
        seconds_to_output(script(""))
    with pytest.raises(ProgramError, match=said("code 1 ... no model")):
        seconds_to_output(script("print('t'); raise SystemExit('no model')"))
    with pytest.raises(ProgramError, match="no-such-program"):
        seconds_to_output(["/no-such-program"])


def test_the_last_line_is_short() -> None:
    assert last_line("one\ntwo \n\n") == "two "
    assert len(last_line("x" * 500)) == 200
    assert last_line("") == ""


def test_positions_of_a_work() -> None:
    assert Workload("w", "decode", 64, context=4096).positions == 4160
