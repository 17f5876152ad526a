"""What the engine continues prompts with, for tests that ask for ids and nothing else."""

from collections.abc import Sequence
from typing import Any

from puna.inference.engine import Engine
from puna.inference.request import GenerationOptions, Request
from puna.inference.torch_executor import TorchExecutor
from puna.model.transformer import Transformer


def continued(
    model: Transformer, prompts: Sequence[Sequence[int]], **options: Any
) -> list[list[int]]:
    """The new ids of each prompt, all prompts in one batch."""
    config = model.config
    executor = TorchExecutor(model, num_blocks=len(prompts) * -(-config.context_length // 16))
    engine = Engine(executor)
    for number, prompt in enumerate(prompts):
        engine.add(Request(str(number), tuple(prompt), GenerationOptions(**options)))
    ids: list[list[int]] = [[] for _ in prompts]
    while engine.busy:
        for event in engine.step():
            ids[int(event.request)] += event.ids
    return ids
