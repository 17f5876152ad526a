"""Training with shared weights (FSDP): bytes on each GPU, bytes between them, and the time that the
network lets a step take. Arithmetic, not a measurement.

Of N parameters over S GPUs each keeps N/S weights, gradients and moments in float32. Besides, the
weights that are gathered at once: the embeddings, last norm and output layer in float32 with their
gradients, and in bfloat16 two blocks, the one that computes and the next, with the gradients of one
in float32.

Every micro-batch gathers the blocks twice in bfloat16, before the forward and the backward pass,
the rest once in float32, and sums all gradients in float32. With a ring each GPU sends (S - 1)/S of
the bytes (Thakur et al. 2005, Optimization of Collective Communication Operations in MPICH).
Computing and sending overlap: a step takes as long as the slower of the two, at best.
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

    parameters: of the model; block: of one of its blocks; rest: of what is in no block. gpus: S.
    moment_bytes: of the optimizer's state of the whole model. activation_bytes: of the micro-batch
    on one GPU, the loss's chunks included. Raises PlanError for fewer than 2 GPUs.
    """

    parameters: int
    block: int
    rest: int
    gpus: int
    moment_bytes: int
    activation_bytes: int

    def __post_init__(self) -> None:
        if self.gpus < 2:
            raise PlanError(f"{self.gpus} GPU shares weights with no other: give --gpus 2 or more")

    @property
    def state(self) -> int:
        """Bytes of the weights, gradients and moments that a GPU keeps."""
        return (8 * self.parameters + self.moment_bytes) // self.gpus

    @property
    def gathered(self) -> int:
        """Bytes of the weights that are whole for a while, and of their gradients."""
        return 8 * self.rest + (2 * 2 + 4) * self.block

    @property
    def total(self) -> int:
        """Bytes on each GPU at the worst moment."""
        return self.state + self.gathered + self.activation_bytes

    @property
    def traffic(self) -> float:
        """Bytes that each GPU sends for a micro-batch."""
        blocks = self.parameters - self.rest
        gathered = 2 * 2 * blocks + 4 * self.rest
        return (gathered + 4 * self.parameters) * (self.gpus - 1) / self.gpus

    def sending_seconds(self, bytes_a_second: float) -> float:
        """The time that the network needs for a micro-batch."""
        return self.traffic / bytes_a_second

    def efficiency(self, computing_seconds: float, bytes_a_second: float) -> float:
        """The share of the time in which a GPU computes, at best: 1 where sending hides behind
        it.
        """
        return computing_seconds / max(computing_seconds, self.sending_seconds(bytes_a_second))
