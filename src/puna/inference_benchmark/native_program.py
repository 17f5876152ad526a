"""The native executor on a shape or a folder. Imports no torch of its own: a start is measured with
it too.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from puna.inference.executor import Executor
from puna.inference_benchmark.workload import Format

if TYPE_CHECKING:
    from puna.model.config import ModelConfig

BLOCK_SIZE = 16

WEIGHTS: Mapping[Format, str] = MappingProxyType(
    {"bf16": "bfloat16", "int8": "int8", "int4": "int4"}
)
"""The executor's names of the formats."""


def native_executor(
    source: "ModelConfig | Path",
    weights: Format,
    threads: int,
    num_blocks: int,
    *,
    int8_cache: bool = False,
) -> Executor:
    """The native executor of a folder's model, or of a shape's random weights. int8_cache: keys and
    values in int8. Raises NativeError where the core does not run it.
    """
    module = importlib.import_module("puna.inference.native_executor")
    make = module.open_native if isinstance(source, Path) else module.random_native
    executor: Executor = make(
        source,
        weights=WEIGHTS[weights],
        threads=threads,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        int8_cache=int8_cache,
    )
    return executor
