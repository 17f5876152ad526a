"""The texts of a quantization: windows to calibrate with, and held-out windows to measure on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from puna.data.manifest import MANIFEST_NAME
from puna.data.shards import open_split
from puna.data.sources import read_texts
from puna.errors import DataError
from puna.eval.held_out import HeldOutWindows, open_validation
from puna.tokenizer.tokenizer import Tokenizer

WINDOW = 512
"""Tokens of a calibration window and of a measured one, where the model's context has as many."""
CALIBRATION_TOKENS = 32_768
MEASURED_TOKENS = 32_768
OWN_TEXT = "python-stdlib"
"""Text that every machine has, measured where none is given."""
_TAIL = 10  # a tenth of a calibration text is held out where no other text is
_SPREAD = 64  # tokens of a training split that are read for each that calibrates
_BYTES_PER_TOKEN = 16  # read of a text for each token that is wanted; English has 4


@dataclass(frozen=True)
class CalibrationText:
    """windows: ids [N, T] to calibrate with, or None; digest: SHA-256 of their text. held_out: to
    measure on; name: of that text.
    """

    windows: torch.Tensor | None
    digest: str | None
    held_out: HeldOutWindows
    name: str


def calibration_text(
    tokenizer: Tokenizer,
    context: int,
    *,
    calibrate: Sequence[str],
    calibration_tokens: int = CALIBRATION_TOKENS,
    measure: Sequence[str],
    measured_tokens: int = MEASURED_TOKENS,
) -> CalibrationText:
    """Choose the windows of both texts, spread evenly over them.

    context: of the model. calibrate: sources as for `puna data prepare`, or one prepared data
    folder, whose training split calibrates and whose validation split is measured; empty, there is
    no calibration. measure: sources that are measured in place of that split, or of the last tenth
    of the calibration text; without either the Python standard library is. Raises DataError for
    texts that are too short, or of another tokenizer.
    """
    context = min(WINDOW, context)
    of_folder = len(calibrate) == 1 and (Path(calibrate[0]) / MANIFEST_NAME).is_file()
    windows, digest, held_out, name = None, None, None, ""
    if of_folder:
        split = open_validation(Path(calibrate[0]), tokenizer)
        train = open_split(calibrate[0], "train")
        ids = train.read(0, min(train.num_tokens, _SPREAD * calibration_tokens))
        if not measure:
            held_out = HeldOutWindows.of_splits([split], measured_tokens, context=context)
            name = f"the validation split of {calibrate[0]}"
    elif calibrate:
        ids = _encoded(calibrate, tokenizer, calibration_tokens + measured_tokens)
        if not measure:
            cut = len(ids) - len(ids) // _TAIL
            ids, tail = ids[:cut], ids[cut:]
            name = f"the last tenth of {', '.join(calibrate)}"
            held_out = _held_out(tail, measured_tokens, context, name)
    if calibrate:
        windows = _windows(ids, calibration_tokens, context, calibrate)
        seen = tokenizer.decode_bytes(windows.flatten().tolist(), skip_special=True)
        digest = hashlib.sha256(seen).hexdigest()
    if held_out is None:
        sources = measure or (OWN_TEXT,)
        name = ", ".join(sources)
        ids = _encoded(sources, tokenizer, measured_tokens)
        held_out = _held_out(ids, measured_tokens, context, name)
    return CalibrationText(windows, digest, held_out, name)


def _held_out(ids: NDArray[np.int64], tokens: int, context: int, name: str) -> HeldOutWindows:
    if len(ids) < 2:
        raise DataError(f"{name} has {len(ids)} tokens to measure on: give --measure TEXT")
    return HeldOutWindows.of_ids(ids, tokens, context=context)


def _encoded(sources: Sequence[str], tokenizer: Tokenizer, tokens: int) -> NDArray[np.int64]:
    """The ids of the first documents of the sources, as in training; enough of them for so many
    tokens to be spread over them. Raises DataError for sources without text.
    """
    texts = read_texts(sources, max_bytes=_BYTES_PER_TOKEN * tokens, spread=True)
    documents = [[*tokenizer.encode_document(text), tokenizer.eos_id] for text in texts]
    return np.array([number for ids in documents for number in ids][:-1], dtype=np.int64)


def _windows(
    ids: NDArray[np.int64], tokens: int, context: int, sources: Sequence[str]
) -> torch.Tensor:
    """Windows spread evenly over the ids, [N, T]."""
    length = min(context, len(ids), tokens)
    if length < 2:
        raise DataError(
            f"{', '.join(sources)} has {len(ids)} tokens, but a calibration takes thousands: give"
            " a longer text"
        )
    places = len(ids) // length
    count = min(places, max(1, tokens // length))
    starts = [i * places // count * length for i in range(count)]
    return torch.from_numpy(np.stack([ids[start : start + length] for start in starts]))
