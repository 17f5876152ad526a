"""The peers: llama.cpp and ik_llama.cpp, each by its own benchmark programs, and transformers.

They are found in a folder that the user made (docs/inference-benchmark.md says how):

    llama.cpp/build/bin/       llama-bench, llama-batched-bench, llama-completion
    ik_llama.cpp/build/bin/    llama-bench, llama-batched-bench, llama-cli
    transformers_generate.py   a program of benchmarks/peers
    venv/bin/python            an environment with transformers, for it
    models/NAME-TYPE.gguf      the model in the types bf16, q8_0 and q4_0

Their benchmarks call the C interface, so nothing of a binding's own is counted.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from puna.errors import ConfigError
from puna.inference_benchmark.programs import (
    AnsweringProgram,
    Measure,
    Program,
    ProgramError,
    run,
    seconds_to_output,
)
from puna.inference_benchmark.subject import Subject
from puna.inference_benchmark.verdict import IK, IK_REPACKED, LLAMA, TRANSFORMERS
from puna.inference_benchmark.workload import Format, Workload

GGUF_TYPES: Mapping[Format, str] = MappingProxyType(
    {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
)
"""The type of a GGUF file that stands beside each format of Puna's."""

BATCHED_COLUMNS = ("pp", "tg", "pl", "n_kv", "t_pp", "speed_pp", "t_tg", "speed_tg", "t", "speed")
"""Columns of the table of ik_llama.cpp's llama-batched-bench, by llama.cpp's names in JSON."""


def model_file(peers: Path, subject: Subject, weights: Format) -> Path:
    """The GGUF file of a subject in the type of a format."""
    return peers / "models" / f"{subject.name}-{GGUF_TYPES[weights]}.gguf"


def find_peers(peers: Path, subject: Subject, formats: Sequence[Format]) -> tuple[str, ...]:
    """Names of the peers in the folder. Raises ConfigError where neither llama.cpp nor ik_llama.cpp
    is there, or the model is missing in one of the formats.
    """
    found = tuple(name for name in (LLAMA, IK) if _tool(peers, name, "llama-bench").is_file())
    if not found:
        raise ConfigError(
            f"{peers} has neither {LLAMA}/build/bin/llama-bench nor {IK}/build/bin/llama-bench:"
            " build one of them there, as docs/inference-benchmark.md shows"
        )
    for weights in formats:
        path = model_file(peers, subject, weights)
        if not path.is_file():
            raise ConfigError(f"there is no {path}: {_remedy(path, subject, weights)}")
    script, python = _transformers(peers)
    return (*found, TRANSFORMERS) if script.is_file() and python.exists() else found


def _remedy(path: Path, subject: Subject, weights: Format) -> str:
    if subject.folder is None:
        return f"make it with python benchmarks/peers/gguf_random.py {path.parent} {subject.name}"
    kind = GGUF_TYPES[weights]
    return f"make it with puna export {subject.folder} {path} --to gguf --type {kind}"


def peer_programs(
    peers: Path, found: Sequence[str], subject: Subject, weights: Format, threads: int
) -> list[Program]:
    """The peers that are measured beside this format."""
    model = model_file(peers, subject, weights)
    programs: list[Program] = []
    if LLAMA in found:
        programs.append(LlamaTools(peers, LLAMA, model, threads))
    if IK in found:
        programs.append(LlamaTools(peers, IK, model, threads))
        programs.append(LlamaTools(peers, IK, model, threads, repacked=True))
    if TRANSFORMERS in found and weights == "bf16":
        script, python = _transformers(peers)
        config = subject.config
        shape = {
            "vocab_size": config.vocab_size,
            "hidden_size": config.width,
            "intermediate_size": config.feed_forward_width,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_width,
            "tie_word_embeddings": config.tie_embeddings,
            "max_position_embeddings": config.context_length,
        }
        command = [str(python), str(script), str(threads), json.dumps(shape)]
        programs.append(AnsweringProgram(TRANSFORMERS, command, ("prefill", "decode")))
    return programs


def _tool(peers: Path, name: str, tool: str) -> Path:
    return peers / name / "build" / "bin" / tool


def _transformers(peers: Path) -> tuple[Path, Path]:
    return peers / "transformers_generate.py", peers / "venv" / "bin" / "python"


class LlamaTools:
    """llama.cpp's or ik_llama.cpp's benchmark programs, started for each measurement; they warm up
    by themselves.

    repacked: weights rearranged when they are read, which ik_llama.cpp does if asked.
    """

    def __init__(
        self, peers: Path, name: str, model: Path, threads: int, *, repacked: bool = False
    ) -> None:
        self._peers, self._name, self._repacked = peers, name, repacked
        self._model = ["-m", str(model), "-t", str(threads)]
        self._flags = ["-rtr", "1" if repacked else "0"] if name == IK else []

    def entries(self, work: Workload) -> Mapping[str, Measure]:
        """As `Program.entries`. Repacking takes longer than a start saves, so it has no part in
        that; several streams are measured once, without it.
        """
        entry = IK_REPACKED if self._repacked else self._name
        if work.kind == "lookup" or (self._repacked and (work.kind == "start" or work.streams > 1)):
            return {}
        if work.kind == "start":
            return {entry: lambda: seconds_to_output(self.start_command(work))}
        if work.streams > 1:
            # ik_llama.cpp's table stands among its messages
            return {entry: lambda: batched_rate(run(self.batched_command(work), errors=True), work)}
        return {entry: lambda: bench_rate(run(self.bench_command(work)), work)}

    def close(self) -> None:
        """As `Program.close`: none is left."""

    def bench_command(self, work: Workload) -> list[str]:
        """llama-bench for one stream: one repetition, as JSON."""
        new = str(work.tokens)
        if work.kind == "prefill":
            sizes = ["-p", new, "-n", "0"]
        elif self._name == IK and work.context:
            sizes = ["-p", "0", "-n", "0", "-gp", f"{work.context},{new}"]
        else:
            sizes = ["-p", "0", "-n", new, *(["-d", str(work.context)] if work.context else [])]
        return [*self._command("llama-bench"), *sizes, "-r", "1", "-o", "json", *self._flags]

    def batched_command(self, work: Workload) -> list[str]:
        """llama-batched-bench for several, none with another's prompt."""
        sizes = {"-npp": work.context, "-ntg": work.tokens, "-npl": work.streams}
        context = work.streams * work.positions
        form = [] if self._name == IK else ["--output-format", "jsonl"]
        flags = [text for flag, size in sizes.items() for text in (flag, str(size))]
        return [*self._command("llama-batched-bench"), "-c", str(context), *flags, *form]

    def start_command(self, work: Workload) -> list[str]:
        """The program that writes a text, for one token."""
        tool = "llama-cli" if self._name == IK else "llama-completion"
        prompt = ["-p", "t" * work.context, "-n", str(work.tokens), "-c", "512"]
        quiet = [] if self._name == IK else ["-no-cnv"]
        return [*self._command(tool), *prompt, "--no-warmup", "--no-display-prompt", *quiet]

    def _command(self, tool: str) -> list[str]:
        return [str(_tool(self._peers, self._name, tool)), *self._model]


def bench_rate(text: str, work: Workload) -> float:
    """Tokens a second in the JSON of llama-bench. Raises ProgramError for other text."""
    answer = _single(text)
    try:
        computed = int(answer["n_gen"]) or int(answer["n_prompt"])
        rate = float(answer["avg_ts"])
    except (KeyError, TypeError, ValueError):
        raise ProgramError("llama-bench answered without n_prompt, n_gen or avg_ts") from None
    if computed != work.tokens or rate <= 0:
        raise ProgramError(f"llama-bench measured {computed} tokens, {rate} a second")
    return rate


def peer_version(peers: Path, name: str, subject: Subject, weights: Format) -> str:
    """The commit that a peer was built from as its llama-bench says, or transformers' version; the
    reason where it does not say.
    """
    try:
        if name == TRANSFORMERS:
            probe = "from importlib.metadata import version; print(version('transformers'))"
            return run([str(_transformers(peers)[1]), "-c", probe]).strip()
        tool = [
            str(_tool(peers, name, "llama-bench")),
            "-m",
            str(model_file(peers, subject, weights)),
        ]
        answer = _single(run([*tool, "-p", "1", "-n", "0", "-r", "1", "-o", "json"]))
        return str(answer.get("build_commit"))
    except ProgramError as error:
        return f"unknown: {error}"


def _single(text: str) -> dict[str, Any]:
    """The one test in llama-bench's JSON, around which ik_llama.cpp writes lines of its own."""
    try:
        answers = json.loads(text[text.index("[\n") : text.rindex("]") + 1])
    except ValueError:
        raise ProgramError("llama-bench wrote no JSON") from None
    if len(answers) != 1:
        raise ProgramError(f"llama-bench answered {len(answers)} tests in place of one")
    return dict(answers[0])


def batched_rate(text: str, work: Workload) -> float:
    """Tokens a second of all streams in what llama-batched-bench writes: a line of JSON, or a
    table. Raises ProgramError for other text.
    """
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("{"):
            try:
                answer = json.loads(line)
            except ValueError:
                continue
        elif len(cells) == len(BATCHED_COLUMNS) and cells[0].isdecimal():
            answer = dict(zip(BATCHED_COLUMNS, cells, strict=True))
        else:
            continue
        if (int(answer.get("pl", 0)), int(answer.get("tg", 0))) == (work.streams, work.tokens):
            return float(answer["speed_tg"])
    raise ProgramError(f"llama-batched-bench wrote no row of {work.streams} streams")
