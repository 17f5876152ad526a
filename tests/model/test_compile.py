"""torch.compile: one graph, and the loss and gradients of the eager model, with attention in blocks
and with recomputed blocks.

Each test runs in a fresh interpreter, without the checks of shapes that pytest puts around every
function: those are Python that a compiler stumbles over, and no part of what is installed.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import torch
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.nn import linear_cross_entropy

shape = {"vocab_size": 60, "width": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
model = build_transformer(ModelConfig(**shape, context_length=512)).train()
init_weights(model, 0)

def measure(hidden_states, ids):
    loss = linear_cross_entropy(hidden_states(ids[:, :-1]), model.output_weight, ids[:, 1:])
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

for steps, checkpointing in ((300, False), (32, True)):
    model.activation_checkpointing = checkpointing
    ids = torch.randint(0, 60, (2, steps + 1), generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(model.hidden_states, backend=sys.argv[1], fullgraph=True)
    for ours, eager in zip(measure(compiled, ids), measure(model.hidden_states, ids), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4)
"""


def compare(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, backend], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_traces_to_one_graph_with_the_same_gradients() -> None:
    """The tracing and the derived backward pass, executed by eager kernels: seconds instead of
    minutes.
    """
    compare("aot_eager")


@pytest.mark.slow
def test_generated_kernels_give_the_same_gradients() -> None:
    compare("inductor")
