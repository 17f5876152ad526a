"""A process that opens a model in the native core, computes one short prompt and writes the id of
the likeliest next token: what passes between a command and its first word, without the tokenizer.

    python -m puna.inference_benchmark.first_token FOLDER FORMAT THREADS
"""

import sys
from pathlib import Path
from typing import cast

from puna.inference.executor import ScheduledChunk
from puna.inference_benchmark.native_program import native_executor
from puna.inference_benchmark.workload import WORKLOADS, Format


def first_token(folder: Path, weights: Format, threads: int) -> int:
    """The likeliest id after a prompt of some ids."""
    prompt = list(range(100, 100 + WORKLOADS["start"].context))
    executor = native_executor(folder, weights, threads, num_blocks=1)
    return int(executor.run([ScheduledChunk(prompt, 0, [0], 1)]).logits[0].argmax())


if __name__ == "__main__":
    chosen = cast(Format, sys.argv[2])
    sys.stdout.write(f"{first_token(Path(sys.argv[1]), chosen, int(sys.argv[3]))}\n")
