"""Training with shared weights (FSDP): bytes between the GPUs, and the time that the network lets a
step take. Arithmetic, not a measurement; the bytes on each GPU are
`puna.training.step_memory.sharded_memory`.

Every micro-batch gathers the blocks twice in bfloat16, before the forward and the backward pass,
the rest once in float32, and sums all gradients in float32. With a ring each of S GPUs sends
(S - 1)/S of the bytes (Thakur et al. 2005, Optimization of Collective Communication Operations in
MPICH). Computing and sending overlap: a step takes as long as the slower of the two, at best.
"""

from dataclasses import dataclass

from puna.errors import PlanError

GIGA = 1e9
NODE = 8  # GPUs that a node's own links join
NODE_BYTES = 450 * GIGA  # a second and GPU each way: NVLink of an H100 or H200, data sheet
NETWORK_BYTES = 50 * GIGA  # the same between nodes: one 400 Gbit/s adapter a GPU


def bandwidth(gpus: int) -> float:
    """Bytes a second that each of so many GPUs sends: over a node's own links, or over the network
    where there are more than a node has.
    """
    return NODE_BYTES if gpus <= NODE else NETWORK_BYTES


@dataclass(frozen=True)
class ShardedStep:
    """One micro-batch of a model on GPUs that share its weights.

    parameters: of the model; blocks: of its blocks together. gpus: S. Raises PlanError for fewer
    than 2 GPUs.
    """

    parameters: int
    blocks: int
    gpus: int

    def __post_init__(self) -> None:
        if self.gpus < 2:
            raise PlanError(f"{self.gpus} GPU shares weights with no other: give --gpus 2 or more")

    @property
    def traffic(self) -> float:
        """Bytes that each GPU sends for a micro-batch."""
        gathered = 2 * 2 * self.blocks + 4 * (self.parameters - self.blocks)
        return (gathered + 4 * self.parameters) * (self.gpus - 1) / self.gpus

    def sending_seconds(self, bytes_a_second: float) -> float:
        """The time that the network needs for a micro-batch."""
        return self.traffic / bytes_a_second

    def efficiency(self, computing_seconds: float, bytes_a_second: float) -> float:
        """The share of the time in which a GPU computes, at best: 1 where sending hides behind
        it.
        """
        return computing_seconds / max(computing_seconds, self.sending_seconds(bytes_a_second))
