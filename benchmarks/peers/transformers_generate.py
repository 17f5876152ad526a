"""transformers' LlamaForCausalLM in bfloat16 as a program of `puna bench inference`.

    python transformers_generate.py THREADS CONFIG

CONFIG is JSON for LlamaConfig; weights are random. It answers each line on standard input, a work
as JSON, with one on standard output, {"seconds": s}; the first line it writes is {"ready": true}.
It knows nothing of Puna and runs in an environment of its own.
"""

import json
import sys
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

OPTIONS = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
PROMPT = 8


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(**json.loads(sys.argv[2]), attn_implementation="sdpa")
    model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    say(ready=True)
    for line in sys.stdin:
        with torch.inference_mode():
            say(seconds=measured(model, json.loads(line)))


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def measured(model: LlamaForCausalLM, work: dict[str, Any]) -> float:
    """Seconds of a prompt with logits for its last token, or of so many new tokens."""
    tokens = work["tokens"]
    ids = torch.randint(0, model.config.vocab_size, (1, tokens))
    begin = time.perf_counter()
    if work["kind"] == "prefill":
        model(ids, use_cache=True, logits_to_keep=1)
    else:
        model.generate(ids[:, :PROMPT], max_new_tokens=tokens, min_new_tokens=tokens, **OPTIONS)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
