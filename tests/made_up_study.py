"""Folders of studies that nobody ran: every number comes from a seeded generator, so that a test
knows what a report has to say.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

LAYERS = 4
PROBES = {
    "activation_norms": ("residual", "attention", "feed_forward"),
    "gradient_norms": ("block", "up_proj", "down_proj"),
    "dead_units": ("share",),
    "attention_entropy": ("entropy", "normalised"),
}
RECIPE: dict[str, Any] = {
    "data": {"mixture": [{"path": "data/none", "sources": ["none"]}]},
    "tokenizer": {"path": "data/none/tokenizer", "vocab_size": 300},
    "model": {
        "width": 32,
        "num_layers": LAYERS,
        "num_heads": 2,
        "feed_forward_width": 64,
        "context_length": 64,
    },
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 4},
    "train": {"steps": 488, "batch_size": 8, "context_length": 64, "device": "cpu"},
}
# bytes, and how much harder than the mean each is; the sum of both products is 0
DOCUMENTS = ((1000, 1.0), (2000, -1.0), (4000, 0.25))
EFFECT = 0.02  # between one arm and the next, where a test does not say
NOISE = 0.012


def make_study(
    folder: Path,
    arms: Sequence[str],
    *,
    truth: Callable[[int, int], float] | None = None,
    diverged: Mapping[str, Sequence[int]] | None = None,
    probes: Sequence[str] = (),
    timed: Sequence[str] = ("eager", "compiled"),
    others: float | None = 0.02,
    overrides: Mapping[str, Sequence[str]] | None = None,
    grid: Sequence[tuple[int, int]] | None = None,
    origin: Mapping[str, Any] | None = None,
    baselines: bool = False,
    **keys: Any,
) -> Path:
    """A finished study in `folder`. truth: the metric by the positions of arm and seed; diverged:
    seeds by arm; grid: N and D of each arm.

    origin: further keys of every record, such as its rule and commit. baselines: write
    baselines.json too. keys: of study.yaml.
    """
    seeds = keys.pop("seeds", [0, 1, 2, 3])
    rng = np.random.default_rng(7)
    shared = dict(zip(seeds, NOISE * rng.normal(size=len(seeds)), strict=True))
    study = {
        "question": "Does it matter?",
        "base": "recipe.yaml",
        "baseline": arms[0],
        "arms": {arm: list((overrides or {}).get(arm, [])) for arm in arms},
        "seeds": seeds,
        "probes": list(probes),
        "step_times": list(timed),
        **keys,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(
        yaml.safe_dump(study, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    metrics = dict.fromkeys(
        (study.get("metric", "bits_per_byte"), *study.get("also", ()), "loss", "bits_per_byte")
    )
    lines = []
    for index, arm in enumerate(arms):
        parameters, tokens = grid[index] if grid else (1_000_000 + 1000 * index, 488 * 8 * 64)
        for turn, seed in enumerate(seeds):
            failed = seed in (diverged or {}).get(arm, ())
            if truth:
                value = truth(index, turn)
            elif grid:
                value = 1.5 + 300 / parameters**0.45 + 400 / tokens**0.4 + 0.004 * rng.normal()
            else:
                value = (
                    2.9
                    + EFFECT * math.sin(2.5 * index) * math.sqrt(index)
                    + shared[seed]
                    + NOISE / 2 * rng.normal()
                )
            lines.append(
                {
                    "arm": arm,
                    "seed": seed,
                    **{name: None if failed else round(value, 6) for name in metrics},
                    "diverged": "its gradients were not finite for 20 steps" if failed else "",
                    "parameters": parameters,
                    "flops_per_token": 6.0e6 + 2e5 * index,
                    "tokens": tokens // 2 if failed else tokens,
                    "stage": next(iter(study.get("stages", {"": ()}))),
                    # the metric's bits on documents of known sizes, each with a share of its own
                    "documents": []
                    if failed
                    else [value * size + (0.05 * size * bend) for size, bend in DOCUMENTS],
                    "looks": [
                        {"tokens": int(share * tokens), **dict.fromkeys(metrics, value + 1 - share)}
                        for share in study.get("looks", ())
                    ],
                    "curve": curve(value, tokens, failed, rng),
                    "gradient_norms": [[1, 2.0], [488, 0.5]],
                    "probes": {
                        "start": probed(probes, index, rng),
                        "end": {} if failed else probed(probes, index + 5, rng),
                    },
                    "machine": {
                        "train_seconds": 60.0 + index,
                        "processor": "Made-up 1",
                        "torch": "2.13.0",
                        "seconds": 70.0,
                        "peak_memory_mb": 400 + 3 * index + turn,
                        "threads": 1,
                    },
                    "recipe_hash": "a",
                    "code_hash": "b",
                    "data_hash": "c",
                    "text_hash": "d",
                    **(origin or {}),
                }
            )
    (folder / "results.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    if baselines:
        levels = {"unigram": 4.0, "bigram": 3.0, "5-gram": 2.5, "zstd -22": 2.2, "PPMd": 2.0}
        found = {
            "text_hash": "d",
            "documents": [size for size, _ in DOCUMENTS],
            "tokens": 249_856,
            "bits_per_byte": levels,
            "read_bytes": 800_000,
            "all_bytes": 1_600_000,
        }
        (folder / "baselines.json").write_text(json.dumps(found), encoding="utf-8")
    if timed:
        drift = 1 + 0.1 * rng.random(15)
        modes = {
            mode: {
                arm: [round(base * (1 + 0.04 * math.sin(3 * index)) * d, 3) for d in drift]
                for index, arm in enumerate(arms)
            }
            for mode, base in zip(timed, (180.0, 120.0), strict=False)
        }
        machine = {
            "processor": "Made-up 1",
            "cores": 2,
            "torch": "2.13.0",
            "threads": 1,
            "date": "2026-11-21",
            "others": others,
            "rounds": 15,
        }
        (folder / "step_times.json").write_text(json.dumps({**machine, **modes}), encoding="utf-8")
    return folder


def curve(last: float, tokens: int, failed: bool, rng: np.random.Generator) -> list[list[float]]:
    """Eight looks that end at the metric; a run that failed has half of them."""
    at = np.linspace(tokens / 8, tokens, 8)[: 4 if failed else 8]
    return [
        [
            int(now),
            float(round(last + 1.6 * ((tokens / now) ** 0.7 - 1) / 4 + 0.004 * rng.normal(), 6)),
        ]
        for now in at
    ]


def probed(
    probes: Sequence[str], index: int, rng: np.random.Generator
) -> dict[str, dict[str, list[float]]]:
    found = {
        probe: {
            name: [
                float(
                    (1 + number)
                    * (1 + 0.2 * layer)
                    * (1 + 0.05 * index)
                    * (1 + 0.02 * rng.normal())
                )
                for layer in range(LAYERS)
            ]
            for number, name in enumerate(PROBES[probe])
        }
        for probe in probes
    }
    if "attention_entropy" in found:
        found["attention_entropy"]["heads_of_layer_0"] = [0.5, 0.6]
    return found
