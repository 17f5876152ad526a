"""Throughput of Puna's training step on random tokens: one JSON line on standard output.

    python benchmarks/train_step.py --precision bfloat16 --compile
    python benchmarks/train_step.py --preset puna-110m --device cuda --precision bfloat16 --batch 32

Without a preset: 33.7M parameters (512 wide, 8 layers, vocabulary 8192), 8 x 512 tokens a step.
"""

import argparse
import json
import time

import torch

from puna.device import autocast, choose_device, measure_matmul_peak, synchronise
from puna.model.accounting import count_parameters, training_flops_per_token
from puna.model.config import ModelConfig
from puna.model.init import init_weights
from puna.model.transformer import build_transformer
from puna.train.optimizer import build_optimizers
from puna.train.recipe import OptimizerRecipe
from puna.train.step import train_step

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--preset")
parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
parser.add_argument("--compile", action="store_true")
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
config = ModelConfig.model_validate({"preset": options.preset} if options.preset else shape)
device = choose_device(options.device)
model = build_transformer(config, device).train()
init_weights(model, seed=0)
optimizers = build_optimizers(model, OptimizerRecipe())
hidden_states = torch.compile(model.hidden_states) if options.compile else model.hidden_states
seconds = []
for _ in range(2 + options.steps):
    ids = torch.randint(0, config.vocab_size, (options.batch, options.time + 1), device=device)
    synchronise(device)
    start = time.perf_counter()
    train_step(
        model,
        hidden_states,
        optimizers,
        [ids],
        factor=1.0,
        clip_norm=1.0,
        autocast=autocast(device, options.precision),
    )
    synchronise(device)
    seconds.append(time.perf_counter() - start)
median = sorted(seconds[2:])[options.steps // 2]
rate = options.batch * options.time / median
peak = measure_matmul_peak(device, options.precision)
flops = rate * training_flops_per_token(config, options.time)
print(
    json.dumps(
        {
            "program": "puna",
            "parameters": count_parameters(config).total,
            "tokens_per_second": round(rate, 1),
            "gflops": round(flops / 1e9, 1),
            "matmul_peak_gflops": round(peak / 1e9, 1),
            "mfu": round(flops / peak, 4),
        }
    )
)
