"""`baselines.json`: the validation text of a study, document by document, and what counting tokens
and compressing bytes make of it, so that a report shows what the models have learnt at all.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puna.errors import DataError
from puna.eval.compression import gzip_bits_per_byte, xz_bits_per_byte
from puna.eval.ngram import counting_baselines
from puna.study.run_metrics import StudyText
from puna.training.trainer import RunInputs

FILE = "baselines.json"


@dataclass(frozen=True)
class Baselines:
    """The validation text and its baselines.

    text_hash: that of the runs' records. documents: UTF-8 bytes of each. tokens: training tokens
    that the n-gram models counted. bits_per_byte: by name; n-gram models from the training tokens
    alone, compressors from the validation text itself.
    """

    text_hash: str
    documents: tuple[int, ...]
    tokens: int
    bits_per_byte: dict[str, float]


def measure_baselines(inputs: RunInputs, text: StudyText, steps: int) -> Baselines:
    """The baselines beside a run of `steps` steps: n-gram models count the tokens that it is
    trained on. About 5 s for 6 million tokens.
    """
    lengths = text.tokenizer.token_lengths()
    trained = np.concatenate([inputs.batch(step)[:, :-1].ravel() for step in range(steps)])
    sizes = np.bincount(text.documents[1:], lengths[text.ids[1:]])
    content = text.tokenizer.decode_bytes(text.ids.tolist(), skip_special=True)
    levels = {
        **counting_baselines(trained.astype(np.int64), text.ids, lengths),
        "gzip -9": gzip_bits_per_byte(content),
        "xz -9": xz_bits_per_byte(content),
    }
    rounded = {name: float(f"{level:.6g}") for name, level in levels.items()}
    return Baselines(text.hash, tuple(int(size) for size in sizes), len(trained), rounded)


def read_baselines(folder: Path) -> Baselines | None:
    """The baselines of a study, None where they were not measured. Raises DataError for a damaged
    file.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Baselines(
            str(found["text_hash"]),
            tuple(map(int, found["documents"])),
            int(found["tokens"]),
            {str(name): float(level) for name, level in found["bits_per_byte"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not hold baselines ({error!r}): delete it, and measure them again with"
            " puna study baselines"
        ) from error
