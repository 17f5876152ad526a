"""Peers: found in their folder, asked with the right sizes, their answers read; answers recorded
from runs of llama.cpp (0c1e57098) on a random model of 15M.
"""

import json
import sys
from pathlib import Path

import pytest
from said import said

from puna.errors import ConfigError
from puna.inference_benchmark.peers import (
    LlamaTools,
    batched_rate,
    bench_rate,
    find_peers,
    model_file,
    peer_programs,
    peer_version,
)
from puna.inference_benchmark.programs import ProgramError
from puna.inference_benchmark.subject import Subject, find_subject
from puna.inference_benchmark.verdict import IK, IK_REPACKED, LLAMA, TRANSFORMERS
from puna.inference_benchmark.workload import WORKLOADS, Workload

RECORDED = Path(__file__).with_name("recorded")
SHAPE = find_subject("15M")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all peers, whose tools write their arguments in place of an answer."""
    for name in (LLAMA, IK):
        tools = tmp_path / name / "build" / "bin"
        tools.mkdir(parents=True)
        for tool in ("llama-bench", "llama-batched-bench", "llama-completion", "llama-cli"):
            script = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
            (tools / tool).write_text(script)
            (tools / tool).chmod(0o755)
    (tmp_path / "models").mkdir()
    for weights in ("bf16", "int8", "int4"):
        model_file(tmp_path, SHAPE, weights).touch()
    return tmp_path


def test_all_that_is_there_is_found(folder: Path) -> None:
    assert find_peers(folder, SHAPE, ["bf16", "int4"]) == (LLAMA, IK)
    (folder / "transformers_generate.py").touch()
    (folder / "venv/bin").mkdir(parents=True)
    (folder / "venv/bin/python").touch()
    assert find_peers(folder, SHAPE, ["bf16"]) == (LLAMA, IK, TRANSFORMERS)
    (folder / IK / "build/bin/llama-bench").unlink()
    assert find_peers(folder, SHAPE, ["bf16"]) == (LLAMA, TRANSFORMERS)


def test_a_missing_file_is_told_with_the_command_that_makes_it(folder: Path) -> None:
    model_file(folder, SHAPE, "int4").unlink()
    with pytest.raises(ConfigError, match=said("15M-q4_0.gguf ... gguf_random.py ... 15M")):
        find_peers(folder, SHAPE, ["bf16", "int4"])
    own = Subject("mine", SHAPE.config, Path("runs/mine"))
    with pytest.raises(ConfigError, match=said("puna export runs/mine ... gguf --type q8_0")):
        find_peers(folder, own, ["int8"])


def test_transformers_stands_beside_bfloat16_alone(folder: Path) -> None:
    found = (LLAMA, IK, TRANSFORMERS)
    assert len(peer_programs(folder, found, SHAPE, "bf16", 2)) == 4
    assert len(peer_programs(folder, found, SHAPE, "int8", 2)) == 3
    assert len(peer_programs(folder, (LLAMA,), SHAPE, "int8", 2)) == 1


def asked(folder: Path, name: str, work: str, *, repacked: bool = False) -> list[str]:
    """The arguments of the tool for a workload, read off its complaint about its own answer."""
    tools = LlamaTools(folder, name, model_file(folder, SHAPE, "int8"), 3, repacked=repacked)
    workload = WORKLOADS[work]
    lines = {
        "start": tools.start_command,
        "streams": tools.batched_command,
    }
    return lines.get(work, tools.bench_command)(workload)


def options(arguments: list[str]) -> str:
    """The arguments after model and threads."""
    assert arguments[1:5] == ["-m", arguments[2], "-t", "3"]
    assert arguments[2].endswith("15M-q8_0.gguf")
    return " ".join(arguments[5:])


def test_the_sizes_that_llama_cpp_is_asked_for(folder: Path) -> None:
    assert options(asked(folder, LLAMA, "prefill")) == "-p 512 -n 0 -r 1 -o json"
    assert options(asked(folder, LLAMA, "decode")) == "-p 0 -n 64 -r 1 -o json"
    assert options(asked(folder, LLAMA, "decode-4k")) == "-p 0 -n 64 -d 4096 -r 1 -o json"
    streams = options(asked(folder, LLAMA, "streams"))
    assert streams == "-c 768 -npp 32 -ntg 64 -npl 8 --output-format jsonl"
    assert options(asked(folder, LLAMA, "start")).startswith("-p tttttttt -n 1 -c 512")


def test_the_sizes_that_ik_llama_cpp_is_asked_for(folder: Path) -> None:
    assert options(asked(folder, IK, "prefill")) == "-p 512 -n 0 -r 1 -o json -rtr 0"
    again = options(asked(folder, IK, "decode-8k", repacked=True))
    assert again == "-p 0 -n 0 -gp 8192,64 -r 1 -o json -rtr 1"
    assert options(asked(folder, IK, "streams")) == "-c 768 -npp 32 -ntg 64 -npl 8"


def test_entries_of_a_row(folder: Path) -> None:
    plain = LlamaTools(folder, IK, Path("m"), 2)
    repacked = LlamaTools(folder, IK, Path("m"), 2, repacked=True)
    assert {name: list(plain.entries(work)) for name, work in WORKLOADS.items()} == {
        name: [] if name.startswith("lookup") else [IK] for name in WORKLOADS
    }
    assert [name for name, work in WORKLOADS.items() if repacked.entries(work)] == [
        "prefill",
        "decode",
        "decode-4k",
        "decode-8k",
    ]
    assert list(repacked.entries(WORKLOADS["decode"])) == [IK_REPACKED]


@pytest.mark.parametrize(
    ("file", "work"),
    [
        ("llama-bench-prefill.json", "prefill"),
        ("llama-bench-decode.json", "decode"),
        ("llama-bench-decode-4k.json", "decode-4k"),
    ],
)
def test_llama_bench_is_read(file: str, work: str) -> None:
    """The rate of the one sample: tokens over its nanoseconds."""
    text = recorded(file)
    (answer,) = json.loads(text[text.index("[\n") : text.rindex("]") + 1])
    (nanoseconds,) = answer["samples_ns"]
    tokens = WORKLOADS[work].tokens
    for wrapped in (text, f"read [1/2]\n{text}\nbuild: 1\n"):  # ik_llama.cpp writes around it
        rate = bench_rate(wrapped, WORKLOADS[work])
        assert rate == pytest.approx(tokens / nanoseconds * 1e9, rel=1e-3)


def test_llama_batched_bench_is_read() -> None:
    work = WORKLOADS["streams"]
    line = json.loads(recorded("llama-batched-bench.txt").strip().splitlines()[-1])
    assert batched_rate(recorded("llama-batched-bench.txt"), work) == pytest.approx(
        8 * 64 / line["t_tg"], rel=1e-3
    )
    # ik_llama.cpp's table, by the format in its source
    row = "|    32 |     64 |    8 |    768 | 1.060 | 241.51 | 11.273 | 45.42 | 12.3 | 62.3 |"
    assert batched_rate(f"|    PP |     TG |\n{row}\n", work) == 45.42


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("error: unknown model", "no JSON"),
        ("[\n]", "0 tests"),
        ('[\n{"n_gen": 64}]', "without n_prompt, n_gen or avg_ts"),
        ('[\n{"n_gen": 32, "n_prompt": 0, "avg_ts": 9.0}]', "measured 32 tokens"),
        ('[\n{"n_gen": 64, "n_prompt": 0, "avg_ts": 0.0}]', "0.0 a second"),
    ],
)
def test_other_answers_of_llama_bench(text: str, message: str) -> None:
    with pytest.raises(ProgramError, match=said(message)):
        bench_rate(text, WORKLOADS["decode"])


def test_other_answers_of_llama_batched_bench() -> None:
    other = Workload("other", "decode", 64, context=32, streams=4)
    for text in ("", "| PP | TG |", "{no json}", recorded("llama-batched-bench.txt")):
        with pytest.raises(ProgramError, match="no row of 4 streams"):
            batched_rate(text, other)


def test_a_tool_that_answers_otherwise(folder: Path) -> None:
    tools = LlamaTools(folder, LLAMA, model_file(folder, SHAPE, "int8"), 1)
    with pytest.raises(ProgramError, match="no JSON"):
        tools.entries(WORKLOADS["decode"])[LLAMA]()
    assert tools.entries(WORKLOADS["start"])[LLAMA]() > 0
    assert peer_version(folder, LLAMA, SHAPE, "int8").startswith("unknown: ")
