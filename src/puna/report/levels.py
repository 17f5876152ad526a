"""The section `Levels`: the arms' bits per byte among those of counting and compression, so that a
reader sees what the models have learnt at all.
"""

import math

from puna.number_format import part_in_megabytes
from puna.report.section import Section, StudyResults, plain, table
from puna.study.baselines import Baselines


def levels(results: StudyResults) -> Section | None:
    """A table from the lowest to the highest; None where the baselines were not measured, or the
    runs did not log bits per byte.
    """
    baselines = results.baselines
    if baselines is None or "bits_per_byte" not in results.study.metrics:
        return None
    means = {
        plain(arm): math.fsum(by_seed.values()) / len(by_seed)
        for arm, by_seed in results.runs.values("bits_per_byte").items()
    }
    counted = {f"*{plain(name)}*": level for name, level in baselines.bits_per_byte.items()}
    known = {name: level for name, level in (means | counted).items() if not math.isnan(level)}
    rows = [
        [name, f"{level:.4f}"] for name, level in sorted(known.items(), key=lambda item: item[1])
    ]
    documents = len(baselines.documents)
    diverged = len(means) - sum(name in known for name in means)
    text = (
        f"On all of the validation text, {sum(baselines.documents):,} bytes in {documents}"
        f" documents. In italics, what needs no model: n-gram models (Witten and Bell 1991,"
        f" interpolated) that counted {_counted(baselines)}, which learn from the text itself as"
        " they go."
    )
    if diverged:
        text += f" Left out: {diverged} arms of which runs diverged."
    return Section("Levels", f"{table('lr', ['', 'bits per byte'], rows)}\n\n{text}")


def _counted(baselines: Baselines) -> str:
    """The training text of the n-gram models and the compressors, in words."""
    if not baselines.read_bytes:  # a file of an earlier release
        return (
            f"the {baselines.tokens:,} tokens that the baseline's first run was trained on, and"
            " compressors"
        )
    read = part_in_megabytes(baselines.read_bytes, baselines.all_bytes)
    return (
        f"the {baselines.tokens:,} tokens of {read} of the training text, and compressors that"
        " have read these first"
    )
