"""`baselines.json`: the validation text of a study, document by document, and what counting tokens
and compressing bytes make of it, so that a report shows what the models have learnt at all.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puna.errors import DataError
from puna.eval.ngram import counting_baselines
from puna.eval.primed_baselines import measure_primed_baselines
from puna.eval.training_text import TrainingText
from puna.study.run_metrics import StudyText

FILE = "baselines.json"


@dataclass(frozen=True)
class Baselines:
    """The validation text and its baselines.

    text_hash: that of the runs' records. documents: UTF-8 bytes of each. tokens: training tokens
    that the n-gram models counted. bits_per_byte: by name. read_bytes, all_bytes: UTF-8 bytes of
    the training text that the baselines have read first, and that there are; 0 in a file of an
    earlier release, whose compressors had read nothing.
    """

    text_hash: str
    documents: tuple[int, ...]
    tokens: int
    bits_per_byte: dict[str, float]
    read_bytes: int = 0
    all_bytes: int = 0


def measure_baselines(training: TrainingText, text: StudyText) -> Baselines:
    """Unigram, bigram and the baselines of `primed_baselines`, all of which have read `training`
    first. Costs what those cost, and a second or two.
    """
    lengths = text.tokenizer.token_lengths()
    sizes = np.bincount(text.documents[1:], lengths[text.ids[1:]])
    primed = measure_primed_baselines(training, text.ids, text.tokenizer)
    levels = counting_baselines(training.ids, text.ids, lengths) | primed.bits_per_byte
    return Baselines(
        text.hash,
        tuple(int(size) for size in sizes),
        len(training.ids),
        {name: float(f"{level:.6g}") for name, level in levels.items()},
        primed.read_bytes,
        primed.all_bytes,
    )


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
            int(found.get("read_bytes", 0)),
            int(found.get("all_bytes", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not hold baselines ({error!r}): delete it, and measure them again with"
            " puna study baselines"
        ) from error
