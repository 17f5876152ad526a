"""Corpus work by Puna and by datatrove, on the same text in one run, a core each:

    pip install 'puna[corpus]' datatrove spacy          (Puna depends on neither of the last two)
    python benchmarks/corpora.py
    python benchmarks/corpora.py --text FOLDER --megabytes 64 --price 0.04

Two stages are measured, as each program runs them on one process with one thread, from documents in
memory to files on disk: tokenising with the same vocabulary, and the signatures of near-duplicates
with the same bands and runs of words. Puna's are the functions that its tasks call. The programs
take turns, round by round; shown are medians of processor time, since other programs on the machine
lengthen any other, and the ratio's quartiles over the rounds. Each round begins without remembered
words.

A terabyte's cost is arithmetic: 10^12 bytes / (bytes a second and core) / 3600 = hours of a core,
times `--price` in dollars. What reading the disk and waiting for the network cost is not in it.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when the library is imported
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import xxhash
from machine import RESULTS, machine, today, write_results

from puna.corpus.near_duplicates import NearDuplicateOptions, band_keys
from puna.data.manifest import storage_of
from puna.data.shards import ShardWriter
from puna.data.sources import read_texts
from puna.tokenizer.tokenizer import Tokenizer
from puna.tokenizer.word_ids import DocumentEncoder

VOCABULARY = 32_000
TERABYTE = 1e12
_BATCH = 256  # documents, about as many as a task takes at once


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", default="site-packages-docs", help="a source of `puna data`")
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--price", type=float, default=0.04, help="dollars an hour of a core")
    options = parser.parse_args()
    texts = list(read_texts([options.text], max_bytes=int(options.megabytes * 1e6)))
    size = sum(len(text.encode()) for text in texts)
    tokenizer = Tokenizer.train(itertools.islice(texts, 2000), VOCABULARY)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "tokenizer")
        for stage, programs in contestants(texts, tokenizer, Path(folder)).items():
            print(stage, file=sys.stderr, flush=True)
            rows.append(row(stage, programs, size, options.rounds, options.price))
    print(f"{size / 1e6:.1f} MB in {len(texts):,} documents of {options.text}")
    for line in rows:
        print(
            f"{line['stage']:12} puna {line['puna MB/s']:7.2f} MB/s   datatrove"
            f" {line['datatrove MB/s']:7.2f} MB/s   ratio {line['ratio']:5.2f}"
            f" ({line['ratio quartiles'][0]:.2f} to {line['ratio quartiles'][1]:.2f})   a terabyte:"
            f" {line['core hours a terabyte']:,.0f} core hours, ${line['dollars a terabyte']:,.0f}"
        )
    figures = {"machine": machine(torch.device("cpu")), "bytes": size, "rows": rows}
    write_results(RESULTS / f"{today()}-corpora.json", figures)


Work = Callable[[Path], None]


def contestants(
    texts: Sequence[str], tokenizer: Tokenizer, folder: Path
) -> dict[str, dict[str, Work]]:
    """Of each stage, the work of each program in a folder that it may fill."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.tokens import DocumentTokenizer

    def documents() -> Iterator[Any]:
        return (Document(text=text, id=str(number)) for number, text in enumerate(texts))

    def tokens_of_puna(out: Path) -> None:
        writer = ShardWriter(out, "train", 2**62, 0, lambda *_: None)
        encoder = DocumentEncoder(tokenizer, storage_of(tokenizer.vocab_size))
        for batch in batches(texts):
            for text, ids in zip(batch, encoder.encode(batch), strict=True):
                writer.add(ids, len(text.encode()))
        writer.finish()

    def tokens_of_datatrove(out: Path) -> None:
        step = DocumentTokenizer(
            str(out),
            tokenizer_name_or_path=str(folder / "tokenizer" / "tokenizer.json"),
            eos_token="<|end_of_text|>",
            shuffle_documents=False,
        )
        step.run(documents(), 0, 1)

    options = NearDuplicateOptions()

    def signatures_of_puna(out: Path) -> None:
        keys = [band_keys(batch, options) for batch in batches(texts)]
        np.save(out / "keys.npy", np.concatenate(keys, axis=1))

    def signatures_of_datatrove(out: Path) -> None:
        config = MinhashConfig(
            n_grams=options.words, num_buckets=options.bands, hashes_per_bucket=options.rows
        )
        step = MinhashDedupSignature(str(out), config=config)
        # datatrove 0.10 hands text to its default hash, which xxhash 4 refuses
        step._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
        step.run(documents(), 0, 1)

    return {
        "tokenising": {"puna": tokens_of_puna, "datatrove": tokens_of_datatrove},
        "signatures": {"puna": signatures_of_puna, "datatrove": signatures_of_datatrove},
    }


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))


def row(
    stage: str, programs: dict[str, Work], size: int, rounds: int, price: float
) -> dict[str, Any]:
    """Medians of rounds in which the programs take turns; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, work in programs.items():
            with tempfile.TemporaryDirectory() as out:
                began = time.process_time()
                work(Path(out))
                if turn:
                    seconds[name].append(time.process_time() - began)
    ratios = [
        theirs / ours for ours, theirs in zip(seconds["puna"], seconds["datatrove"], strict=True)
    ]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    rate = size / statistics.median(seconds["puna"])
    hours = TERABYTE / rate / 3600
    return {
        "stage": stage,
        **{
            f"{name} MB/s": size / statistics.median(taken) / 1e6 for name, taken in seconds.items()
        },
        "ratio": statistics.median(ratios),
        "ratio quartiles": [quartiles[0], quartiles[2]],
        "core hours a terabyte": hours,
        "dollars a terabyte": hours * price,
    }


if __name__ == "__main__":
    main()
