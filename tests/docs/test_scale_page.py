"""docs/scale.md: its table of three plans is what the arithmetic gives now."""

import pytest
from pages import read_page

from puna.model.accounting import (
    block_parameters,
    count_parameters,
    training_flops_per_token,
)
from puna.model.config import ModelConfig
from puna.plan.cost import gpu_rate
from puna.plan.sharding import GIGA, ShardedStep, bandwidth
from puna.training.compute_backend import Backend
from puna.training.recipe import OptimizerRecipe
from puna.training.step_memory import planned_memory, sharded_memory

CONTEXT, TOKENS_PER_PARAMETER, DAY = 8192, 20, 86400
TABLE = next(table for table in read_page("docs/scale.md").tables if "sent" in table.head)


def row(model: str, gpus: int) -> list[str]:
    """The row of a model on so many GPUs, with one sequence a GPU and micro-batch."""
    config = ModelConfig.model_validate({"preset": model})
    alone = planned_memory(
        config,
        1,
        CONTEXT,
        Backend("torch"),
        OptimizerRecipe(name="adamw"),
        half=True,
        checkpointing=True,
        device="cuda",
    )
    memory = sharded_memory(alone, config, gpus, half=True)
    parameters, rate = count_parameters(config).total, bandwidth(gpus)
    step = ShardedStep(parameters, block_parameters(config), gpus)
    sending = step.sending_seconds(rate)
    computing = training_flops_per_token(config, CONTEXT) * CONTEXT / gpu_rate("h100", 0.4)
    steps = TOKENS_PER_PARAMETER * parameters / (CONTEXT * gpus)
    state = memory.weights + memory.gradients + memory.optimizer_moments
    return [
        model,
        str(gpus),
        f"{state / GIGA:.1f}",
        f"{memory.gathered / GIGA:.1f}",
        f"{(memory.activations + memory.logits) / GIGA:.1f}",
        f"{memory.total / GIGA:.1f}",
        f"{step.traffic / GIGA:.1f}",
        f"{rate / GIGA:g}",
        f"{sending:.2f}",
        f"{computing:.2f}",
        f"{step.efficiency(computing, rate):.0%}",
        f"{steps * max(sending, computing) / DAY:.1f}",
        f"{12 * parameters / GIGA:.0f}",
    ]


@pytest.mark.parametrize("shown", TABLE.rows, ids=[row[0] for row in TABLE.rows])
def test_a_plan_is_what_the_arithmetic_gives(shown: tuple[str, ...]) -> None:
    assert list(shown) == row(shown[0], int(shown[1]))
