"""The price of keys and values in int8: bits per byte of a model on a text, read through the cache
in each format, on the native core.

    python benchmarks/kv_cache.py MODEL --text TEXT [--tokens 16384] [--context 256]
        [--name NAME]

Every window of the text is one prompt, so each token is predicted over keys and values as the cache
holds them. Weights are float32 and bfloat16, whose plain caches have the same format. The text is a
source as for `puna data prepare`, or the validation split of a prepared data folder. Prints the
table and writes a dated JSON beside the other results; threads are OMP_NUM_THREADS.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, machine, today, write_results

from puna.data.manifest import MANIFEST_NAME
from puna.eval.bits_per_byte import sum_target_losses
from puna.eval.held_out import HeldOutWindows, encode_sources, open_validation
from puna.formats.model_path import read_tokenizer
from puna.inference.executor import ScheduledChunk
from puna.inference.native_executor import NativeExecutor, open_native
from puna.tokenizer.tokenizer import Tokenizer

BLOCK = 16


def main() -> None:
    """Measure each format of the weights with both caches."""
    options = _options()
    tokenizer = read_tokenizer(options.model)
    windows = _windows(options.text, tokenizer, options.tokens, options.context)
    lengths = tokenizer.token_lengths()
    rows: list[dict[str, object]] = []
    for weights in ("float32", "bfloat16"):
        base = None
        for int8_cache in (False, True):
            executor = open_native(
                options.model,
                weights,
                threads=torch.get_num_threads(),
                num_blocks=-(-options.context // BLOCK),
                block_size=BLOCK,
                int8_cache=int8_cache,
            )
            losses = np.concatenate([_losses(executor, window) for window in windows.windows])
            found = sum_target_losses(losses, windows.targets, lengths).bits_per_byte
            base = found if base is None else base
            cache = "int8" if int8_cache else weights
            rows.append(
                {
                    "weights": weights,
                    "cache": cache,
                    "bits per byte": found,
                    "change": found / base - 1,
                }
            )
            print(f"{weights:8}  {cache:8}  {found:.5f}  {found / base - 1:+.4%}", flush=True)
    name = options.name or options.model.stem
    write_results(
        RESULTS / f"{today()}-kv-cache-{name}.json",
        machine(torch.device("cpu")),
        model=name,
        measured=f"{len(windows.targets)} tokens of {Path(options.text).name},"
        f" up to {options.context} in the cache",
        rows=rows,
    )


def _windows(text: str, tokenizer: Tokenizer, tokens: int, context: int) -> HeldOutWindows:
    if (Path(text) / MANIFEST_NAME).is_file():
        split = open_validation(Path(text), tokenizer)
        return HeldOutWindows.of_splits([split], tokens, context=context)
    return HeldOutWindows.of_ids(encode_sources([text], tokenizer).ids, tokens, context=context)


def _losses(executor: NativeExecutor, window: np.ndarray) -> np.ndarray:
    """-ln p of every id but the first, float32 [T]."""
    ids = window[:-1].tolist()
    blocks = range(-(-len(ids) // BLOCK))
    logits = torch.from_numpy(executor.run([ScheduledChunk(ids, 0, blocks, len(ids))]).logits)
    losses = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(window[1:]), reduction="none"
    )
    return losses.numpy()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--name", help="of the model in the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
