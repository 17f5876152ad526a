"""The executor's interface: computes what a step has scheduled. It knows ids, positions and blocks,
and no sequence outlives the call.

An executor owns the weights and the cache's memory; the allocation of blocks and the use of the
logits are its caller's business. No torch: torch_executor.py and native_executor.py compute.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Logits = Tensor | NDArray[Any]


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """The next tokens of one sequence, to be computed in one step."""

    ids: Sequence[int]
    """At least one."""
    start: int
    """The position of the first; the keys and values of all before it are in the cache, or computed
    in this step.
    """
    blocks: Sequence[int]
    """The sequence's blocks in order, as many as hold these tokens too."""
    rows: int
    """Logits are wanted after this many of the ids, the last ones; 0: none."""
    adapter: str | None = None
    """The LoRA adapter; None: the model as it is."""
    pooled: bool = False
    """True where the sum of the final hidden states is wanted."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Result of a step."""

    logits: "Logits"
    """float32 [R, V]; the wanted rows of the first chunk, of the second, and so on."""
    pooled: "Sequence[Logits | None]"
    """For each chunk the sum of its ids' final hidden states, float32 [D], where it was asked
    for.
    """


@runtime_checkable
class Executor(Protocol):
    """Computes steps, with a cache of `num_blocks` blocks of `block_size` tokens."""

    vocab_size: int
    context_length: int
    num_blocks: int
    block_size: int
    adapters: Collection[str]

    def run(self, chunks: Sequence[ScheduledChunk]) -> StepOutput:
        """Compute these tokens. Writes their keys and values into the chunks' blocks; nothing else
        changes.
        """
        ...
