"""Throughput of Puna's training step on random tokens: one JSON line on standard output.

    python benchmarks/train_step.py --precision bfloat16 --compile
    python benchmarks/train_step.py --preset puna-110m --device cuda --precision bfloat16 --batch 32

Without a preset: 33.7M parameters (512 wide, 8 layers, vocabulary 8192), 8 x 512 tokens a step.
"""

import argparse
import json
import resource
import statistics

import torch

from puna.config import validate
from puna.device import (
    choose_device,
    choose_precision,
    keep_freed_memory,
    measure_matmul_peak,
)
from puna.model.accounting import count_parameters, training_flops_per_token
from puna.spinning import limit_spinning
from puna.training.recipe import Recipe
from puna.training.step_time import StepTimer

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--preset")
parser.add_argument("--vocabulary", type=int, help="of a preset, in place of its own")
parser.add_argument("--layers", type=int, help="likewise")
parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="float32")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--isa", default="auto", help="torch, or a tier of the native core")
parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw")
parser.add_argument("--device", default="cpu")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--time", type=int, default=512)
parser.add_argument("--steps", type=int, default=5, help="timed, after two that warm up")
options = parser.parse_args()

shape = {
    "width": 512,
    "num_layers": 8,
    "num_heads": 8,
    "vocab_size": 8192,
    "feed_forward_multiple": 32,
    "context_length": 512,
}
asked = {"vocab_size": options.vocabulary, "num_layers": options.layers}
preset = {"preset": options.preset, **{key: value for key, value in asked.items() if value}}
recipe = validate(
    Recipe,
    {
        "data": {"mixture": [{"path": "unused"}]},
        "tokenizer": {"path": "unused"},
        "model": preset if options.preset else shape,
        "optimizer": {"name": options.optimizer, "warmup_steps": 0},
        "train": {
            "steps": 1,
            "batch_size": options.batch,
            "context_length": options.time,
            "device": options.device,
            "precision": options.precision,
            "compile": options.compile,
            "isa": options.isa,
        },
    },
    origin="benchmark",
)
config = recipe.model
keep_freed_memory()  # as `puna train` does, and
limit_spinning()
device = choose_device(options.device)
timer = StepTimer(recipe)
size = (options.batch, options.time + 1)
seconds = [
    timer.seconds(lambda: torch.randint(0, config.vocab_size, size, device=device))
    for _ in range(2 + options.steps)
]
median = statistics.median(seconds[2:])
rate = options.batch * options.time / median
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
peak = measure_matmul_peak(device, choose_precision(options.precision, device))
flops = rate * training_flops_per_token(config, options.time)
print(
    json.dumps(
        {
            "program": "puna",
            "isa": timer.loss.backend.words,
            "parameters": count_parameters(config).total,
            "tokens_per_second": round(rate, 1),
            "peak_megabytes": memory,
            "gflops": round(flops / 1e9, 1),
            "matmul_peak_gflops": round(peak / 1e9, 1),
            "mfu": round(flops / peak, 4),
        }
    )
)
