"""The process that measures one of Puna's executors: `python -m` this module, with a `Setup` as
JSON. It answers each line on standard input with one on standard output.

A workload, as `Workload.request` has it, is answered with {"seconds": s}; before the first, one of
{"ready": true} and {"error": reason} says whether the executor is there.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from puna.errors import PunaError
from puna.inference_benchmark.measured_executor import MeasuredExecutor
from puna.inference_benchmark.native_program import BLOCK_SIZE, native_executor
from puna.inference_benchmark.workload import Format, Workload
from puna.model.config import ModelConfig

Computer = Literal["native", "bfloat16", "float32", "dynamic int8"]
"""The native executor, PyTorch's in a dtype, or PyTorch's dynamic int8 products alone."""


@dataclass(frozen=True)
class Setup:
    """An executor to measure. config: the shape, which has random weights without a folder.
    int8_cache: keys and values in int8.
    """

    computer: Computer
    weights: Format
    threads: int
    num_blocks: int
    config: dict[str, Any]
    folder: str | None
    int8_cache: bool = False

    def command(self) -> list[str]:
        """The command that starts the process."""
        return [sys.executable, "-m", __name__, json.dumps(asdict(self))]


def serve(setup: Setup) -> None:
    """Answer until the end of standard input."""
    try:
        measured = _opened(setup)
    except PunaError as error:
        _say(error=str(error))
        return
    _say(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        speculate = request.pop("speculate", False)
        _say(seconds=measured.seconds(Workload(**request), speculate=speculate))


def _say(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _opened(setup: Setup) -> Any:
    config = ModelConfig(**setup.config)
    folder = Path(setup.folder) if setup.folder else None
    if setup.computer == "native":
        executor = native_executor(
            folder or config,
            setup.weights,
            setup.threads,
            setup.num_blocks,
            int8_cache=setup.int8_cache,
        )
        return MeasuredExecutor(executor)
    from puna.inference_benchmark import torch_programs

    if setup.computer == "dynamic int8":
        return torch_programs.DynamicInt8(config, setup.threads)
    return MeasuredExecutor(
        torch_programs.torch_executor(
            config,
            folder,
            setup.computer,
            setup.threads,
            setup.num_blocks,
            BLOCK_SIZE,
            int8_cache=setup.int8_cache,
        )
    )


if __name__ == "__main__":
    serve(Setup(**json.loads(sys.argv[1])))
