"""vLLM itself on models of type `puna`: `make test-vllm`, in an environment that has vLLM and,
without its dependencies, Puna. Each part is a folder that vLLM opens through the installed plugin;
its greedy text and the log-probabilities of the whole vocabulary are held against `Transformer`.
"""

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # an error reaches this process as it is
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

from parts_beyond_llama import NEW_TOKENS, PARTS, greedy, large_model, random_ids

from puna.errors import ModelFolderError
from puna.model.transformer import Transformer
from puna.model.weights import write_model

# vLLM's attention on CPUs wants heads whose width is a multiple of 32
WIDE = {"width": 64, "head_width": 32}
REFUSED = {
    "alibi": "position alibi adds a bias to scores",
    "alibi in a window": "position alibi adds a bias to scores",
}
ALLOWED = 1e-5
"""Of a log-probability in float32."""


def compared(ours: Transformer, folder: Path, options: dict[str, Any]) -> str:
    """The verdict on one folder, `ok` at its start where all agrees."""
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(
        str(folder),
        dtype="float32",
        skip_tokenizer_init=True,
        max_num_seqs=4,
        max_logprobs=-1,
        **options,
    )
    ids = random_ids(3, 40)
    prompts = [ids[:1, :5], ids[1:2, :20], ids[2:, :40]]
    sampling = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=-1, detokenize=False
    )
    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=prompt[0].tolist()) for prompt in prompts],
        sampling,
        use_tqdm=False,
    )
    worst = 0.0
    for prompt, output in zip(prompts, outputs, strict=True):
        text = greedy(ours, prompt)
        if list(output.outputs[0].token_ids) != text:
            return f"another text: {list(output.outputs[0].token_ids)} instead of {text}"
        whole = prompt.new_tensor([prompt[0].tolist() + text])
        expected = ours(whole).log_softmax(-1)[0, prompt.shape[1] - 1 : -1]
        for row, found in zip(expected, output.outputs[0].logprobs, strict=True):
            if len(found) < len(row):
                return f"{len(found)} log-probabilities instead of {len(row)}"
            worst = max(worst, *(abs(row[k].item() - v.logprob) for k, v in found.items()))
    return f"{'ok' if worst <= ALLOWED else 'off'}, log-probabilities differ by {worst:.1e}"


def verdict(name: str, options: dict[str, Any]) -> str:
    """The verdict on one part; a refusal is `ok` where it is due."""
    ours = large_model(**{**WIDE, **PARTS[name]})
    with TemporaryDirectory() as folder:
        write_model(Path(folder), ours)
        try:
            found = compared(ours, Path(folder), options)
        except ModelFolderError as error:
            due = REFUSED.get(name)
            return f"{'ok, refused' if due and due in str(error) else 'failed'}: {error}"
    return f"not refused: {found}" if name in REFUSED else found


def main() -> int:
    """Compare the parts that are named, or all; 1 where one is off."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; left out: all")
    parser.add_argument("--compile", action="store_true", help="in vLLM's compiled form")
    parser.add_argument("--processes", type=int, default=1, help="share the layers out (tensors)")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}: name one of {', '.join(PARTS)}")
    options = {"enforce_eager": not asked.compile, "tensor_parallel_size": asked.processes}
    found = {}
    for name in asked.parts or PARTS:
        found[name] = verdict(name, options)
        print(f"{name:22} {found[name]}", flush=True)
    return int(not all(said.startswith("ok") for said in found.values()))


if __name__ == "__main__":
    sys.exit(main())
