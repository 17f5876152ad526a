"""Throughput of a run between two log records, without the time that validation and checkpoints
take, and the MFU that follows from it.
"""

from puna.model.accounting import training_flops_per_token
from puna.training.recipe import Recipe


class ThroughputMeter:
    """The steps since the last measurement. peak: FLOP/s of the matrix products here, the
    denominator of MFU.
    """

    def __init__(self, recipe: Recipe, peak: float) -> None:
        self._tokens_per_step, self._peak = recipe.tokens_per_step, peak
        self._flops_per_token = training_flops_per_token(recipe.model, recipe.context_length)
        self._steps, self._seconds = 0, 0.0

    def add(self, seconds: float) -> None:
        """Count a step of so many seconds."""
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds

    def measure(self) -> dict[str, float]:
        """Tokens a second, MFU and its peak in GFLOP/s, of the steps since the last call. The peak
        stands in every record, because a resumed run has measured another one.
        """
        rate = self._steps * self._tokens_per_step / self._seconds
        self._steps, self._seconds = 0, 0.0
        return {
            "tokens_per_second": rate,
            "mfu": rate * self._flops_per_token / self._peak,
            "matmul_peak_gflops": self._peak / 1e9,
        }
