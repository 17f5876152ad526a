"""The cost of a model over its life: FLOPs by two rules of thumb, and hours of a GPU for them.

Training is 6 N D FLOPs and inference 2 N a token, for N parameters and D tokens (Kaplan et al.
2020, section 2.1; a multiply-add counts as two). Attention's own 4 L H C per pair of tokens is left
out, so long contexts cost more than is said here; of a shape that is already known,
`puna.model.accounting.training_flops_per_token` counts everything. Money, memory and the network
are not here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from puna.errors import PlanError

TERA = 1e12
GPU_PEAKS: Mapping[str, float] = MappingProxyType(
    {
        # FLOP/s of dense bfloat16 matrix products with float32 sums, by the maker's data sheet or
        # white paper. Data sheets print twice as much where they assume a weight matrix that is
        # half zeros.
        "a100": 312 * TERA,  # NVIDIA A100 data sheet; 40 and 80 GB, SXM and PCIe alike
        "b200": 2250 * TERA,  # NVIDIA HGX B200 data sheet: 36 PFLOP/s with sparsity for eight
        "h100": 989 * TERA,  # NVIDIA H100 data sheet, SXM: 1,979 with sparsity
        "h100-pcie": 756 * TERA,  # the same: 1,513 with sparsity
        "h200": 989 * TERA,  # NVIDIA H200 data sheet, SXM: the H100's chip with more memory
        "l4": 121 * TERA,  # NVIDIA L4 data sheet: 242 with sparsity
        "l40s": 362 * TERA,  # NVIDIA L40S data sheet
        "mi300x": 1307 * TERA,  # AMD Instinct MI300X data sheet
        "rtx-3090": 71 * TERA,  # NVIDIA Ampere GA102 white paper
        "rtx-4090": 165 * TERA,  # NVIDIA Ada white paper
        "v100": 125 * TERA,  # NVIDIA V100 data sheet, SXM2; float16, it has no bfloat16
    }
)


@dataclass(frozen=True)
class Training:
    """N parameters that are shown D tokens."""

    parameters: float
    tokens: float

    @property
    def flops(self) -> float:
        """6 N D: 2 forward and 4 backward for every parameter and token."""
        return 6 * self.parameters * self.tokens

    def lifetime_flops(self, inference_tokens: float) -> float:
        """6 N D + 2 N D_inference, where D_inference counts every token that is read or written
        after training.
        """
        return self.flops + 2 * self.parameters * inference_tokens


def check_positive(**values: float) -> None:
    """Raise PlanError for the first of the named values that is no positive, finite number."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise PlanError(
                f"{name.replace('_', ' ')} is {value:g}, but must be a number above zero, such as"
                " 1e12"
            )


def gpu_rate(gpu: str, mfu: float) -> float:
    """FLOP/s that one GPU of this name does of a model's own arithmetic: its peak times the share
    `mfu` that a run reaches.

    Published runs reach 0.35 to 0.55 of the peak in training. Raises PlanError that lists the
    names, and for a share outside (0, 1].
    """
    if gpu.lower() not in GPU_PEAKS:
        raise PlanError(
            f"unknown GPU {gpu!r}; the known ones are {', '.join(GPU_PEAKS)}: take one with the"
            " same peak, or give --flops"
        )
    if not 0 < mfu <= 1:
        raise PlanError(
            f"mfu is {mfu:g}, but it is a share of the peak: more than 0, at most 1, such as 0.4"
        )
    return GPU_PEAKS[gpu.lower()] * mfu
