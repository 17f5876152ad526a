"""The peer of train_step.py: the same step with transformers' LlamaForCausalLM, one JSON line on
standard output.

It knows nothing of Puna and runs in an environment of its own. Its loss, clipping and fused AdamW
are the library's.
"""

import argparse
import json
import resource
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--width", type=int, default=512)
parser.add_argument("--layers", type=int, default=8)
parser.add_argument("--heads", type=int, default=8)
parser.add_argument("--feed-forward", type=int, default=1376)
parser.add_argument("--vocabulary", type=int, default=8192)
parser.add_argument("--tied", action="store_true", help="the embedding is the output layer too")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--time", type=int, default=512)
parser.add_argument("--steps", type=int, default=5, help="timed, after two that warm up")
options = parser.parse_args()

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=options.vocabulary,
    hidden_size=options.width,
    intermediate_size=options.feed_forward,
    num_hidden_layers=options.layers,
    num_attention_heads=options.heads,
    num_key_value_heads=options.heads,
    tie_word_embeddings=options.tied,
    max_position_embeddings=options.time,
    attn_implementation="sdpa",
)
model = LlamaForCausalLM(config)
parameters = sum(weight.numel() for weight in model.parameters())
optimizer = torch.optim.AdamW(
    model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
)
forward = torch.compile(model) if options.compile else model
seconds = []
for _ in range(2 + options.steps):
    ids = torch.randint(0, config.vocab_size, (options.batch, options.time))
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
        loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - start)
median = sorted(seconds[2:])[options.steps // 2]
rate = options.batch * options.time / median
print(
    json.dumps(
        {
            "program": "transformers",
            "parameters": parameters,
            "tokens_per_second": round(rate, 1),
            "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
    )
)
