"""How fast the engine continues one prompt and many, beside transformers' generate, and what
speculation buys and costs.

    python benchmarks/engine.py [MODEL] [--rounds 3] [--new 128]

MODEL is a model folder that transformers opens too; the quickstart's if left out. Greedy, in the
file's dtype. Rounds alternate, the medians are compared: the ratios travel, the figures belong to
this machine. Results go to benchmarks/results/, dated.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine, today, write_results

from puna.device import watch_others
from puna.inference.engine_config import EngineConfig
from puna.inference.language_model import LanguageModel, load
from puna.inference.request import GenerationOptions, Request

PROMPT_TOKENS = 32
TEXTS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "repeating": ([*range(20, 36)] * 4, {}),  # a small model falls into a loop after it
    # Any of 12 ids, all equally likely: what stood together before stands together often, and what
    # followed says nothing
    "misleading": (
        random.Random(0).choices(range(12), k=64),
        {"temperature": 20.0, "seed": 1, "logit_bias": dict.fromkeys(range(12), 100.0)},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=Path("runs/quickstart/model"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--new", type=int, default=128, help="tokens that each stream is continued by"
    )
    options = parser.parse_args()
    rows: dict[str, Callable[[], float]] = {}
    for streams in (1, 2, 8, 32, 64):
        rows[f"puna, {streams} streams"] = lambda streams=streams: ours(
            options.model, prompts(streams), options.new
        )
    for streams in (1, 8):
        rows[f"transformers, {streams} streams"] = lambda streams=streams: theirs(
            options.model, prompts(streams), options.new
        )
    for text, (prompt, chosen) in TEXTS.items():
        for speculate in (False, True):
            rows[f"{text} text, speculation {'on' if speculate else 'off'}"] = (
                lambda prompt=prompt, chosen=chosen, speculate=speculate: ours(
                    options.model, [prompt], options.new, speculate=speculate, **chosen
                )
            )
    rates: dict[str, list[float]] = {name: [] for name in rows}
    others = watch_others()
    for number in range(options.rounds + 1):
        for name, measure in rows.items():
            rate = measure()
            if number:  # the first round warms up
                rates[name].append(rate)
    taken = others()
    print(f"other programs took {taken} cores")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, rate in medians.items():
        print(f"{name:36} {rate:8.0f} tokens/s  ({', '.join(f'{one:.0f}' for one in rates[name])})")
    ratios = {
        "8 streams to 1": medians["puna, 8 streams"] / medians["puna, 1 streams"],
        "64 streams to 1": medians["puna, 64 streams"] / medians["puna, 1 streams"],
        "puna to transformers, 1 stream": (
            medians["puna, 1 streams"] / medians["transformers, 1 streams"]
        ),
        "puna to transformers, 8 streams": (
            medians["puna, 8 streams"] / medians["transformers, 8 streams"]
        ),
        **{
            f"speculation on to off, {text} text": (
                medians[f"{text} text, speculation on"] / medians[f"{text} text, speculation off"]
            )
            for text in TEXTS
        },
    }
    for name, ratio in ratios.items():
        print(f"{name:36} {ratio:8.2f}")
    where = machine(torch.device("cpu"))
    rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
    write_results(
        RESULTS / f"{today()}-engine.json",
        where,
        cores_of_others=taken,
        tokens_per_second=rates,
        ratios=rounded,
    )


def prompts(streams: int) -> list[list[int]]:
    """Prompts of random ids, no two alike."""
    rng = random.Random(streams)
    return [rng.choices(range(1000), k=PROMPT_TOKENS) for _ in range(streams)]


opened: dict[Any, Any] = {}


def ours(folder: Path, made: Sequence[Sequence[int]], new: int, **chosen: Any) -> float:
    """Tokens a second of all streams together, prompts included in the time."""
    if folder not in opened:
        opened[folder] = load(folder, options=EngineConfig(prefix_caching=False))
    model: LanguageModel = opened[folder]
    options = GenerationOptions(
        **{"max_tokens": new, "temperature": 0.0, "speculate": False, "ignore_end": True, **chosen}
    )
    start, generated = time.perf_counter(), 0
    for number, prompt in enumerate(made):
        model.engine.add(Request(str(number), tuple(prompt), options))
    while model.engine.busy:
        generated += sum(len(event.ids) for event in model.engine.step())
    return generated / (time.perf_counter() - start)


def theirs(folder: Path, made: Sequence[Sequence[int]], new: int) -> float:
    """The same by transformers' generate with its own key/value cache, all prompts as one batch."""
    from transformers import AutoModelForCausalLM

    if "theirs" not in opened:
        opened["theirs"] = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor(made)
    start = time.perf_counter()
    with torch.inference_mode():
        out = opened["theirs"].generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
    return (out.numel() - ids.numel()) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
