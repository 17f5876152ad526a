"""Journal of a folder in preparation: the finished shards, replaced after each, so that an
interrupted `prepare` continues after the last of them.

It stands beside the shards and is deleted when the manifest, which is written last, takes its
place.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from puna import durable
from puna.config import Config
from puna.data.manifest import (
    MANIFEST_NAME,
    SPLITS,
    Inputs,
    Manifest,
    Shard,
    SplitName,
    storage_of,
)
from puna.data.shards import check_sizes, is_intact
from puna.errors import DataError

JOURNAL_NAME = "journal.json"


class Journal(Config):
    """Inputs that an unfinished folder was begun from, and the shards that are finished."""

    inputs: Inputs
    shards: dict[SplitName, tuple[Shard, ...]]


def completed_manifest(out: Path, inputs: Inputs) -> Manifest:
    """The manifest of a folder that is complete. Raises DataError where it was made from other
    inputs or a shard has another size.
    """
    manifest = Manifest.load(out)
    _require_same(out, manifest.inputs, inputs)
    check_sizes(out, manifest)
    (out / JOURNAL_NAME).unlink(missing_ok=True)
    return manifest


def forget_others(out: Path, inputs: Inputs) -> None:
    """Begin a folder again where its shards are of other inputs, or where no validation text was
    set aside in it: delete them. A kill at any moment leaves a folder that can be begun.
    """
    if (out / MANIFEST_NAME).exists():
        manifest = Manifest.load(out)
        before, lacking = manifest.inputs, manifest.lacks_validation
    elif (out / JOURNAL_NAME).exists():
        before, lacking = _read_journal(out).inputs, False
    else:
        return
    if lacking or before != inputs:
        write_journal(out, inputs, {split: [] for split in SPLITS})
        (out / MANIFEST_NAME).unlink(missing_ok=True)
        for split in SPLITS:
            for path in [*out.glob(f"{split}-*.tokens"), *out.glob(f"{split}-*.offsets")]:
                path.unlink()


def begun_shards(out: Path, inputs: Inputs) -> dict[SplitName, list[Shard]]:
    """The finished shards of a folder that was begun from the same inputs; an empty folder is
    begun. Raises DataError for other inputs, a damaged journal, and a folder of other files.
    """
    if (out / JOURNAL_NAME).exists():
        journal = _read_journal(out)
        if any(journal.shards.values()):
            _require_same(out, journal.inputs, inputs)
            return {split: _intact(out, journal.shards[split], inputs) for split in SPLITS}
    elif any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise DataError(
            f"{out} holds files, but no shards that could be continued; give an empty or new folder"
        )
    shards: dict[SplitName, list[Shard]] = {split: [] for split in SPLITS}
    write_journal(out, inputs, shards)
    return shards


def _read_journal(out: Path) -> Journal:
    path = out / JOURNAL_NAME
    try:
        return Journal.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is damaged; delete {out} and prepare it again") from error


def _intact(out: Path, shards: Sequence[Shard], inputs: Inputs) -> list[Shard]:
    """The shards before the first that is missing or has another size; that and the later ones are
    written again.
    """
    storage = storage_of(inputs.vocab_size)
    return list(itertools.takewhile(lambda shard: is_intact(out, shard, storage), shards))


def _require_same(out: Path, before: Inputs, now: Inputs) -> None:
    differences = before.differences(now)
    if differences:
        raise DataError(
            f"{out} was begun from other inputs: {'; '.join(differences)}; give another folder, or"
            f" delete {out}"
        )


def write_journal(out: Path, inputs: Inputs, shards: dict[SplitName, list[Shard]]) -> None:
    """Replace the journal, whole or not at all."""
    journal = Journal(inputs=inputs, shards={split: tuple(shards[split]) for split in SPLITS})
    durable.write_json(out / JOURNAL_NAME, journal.model_dump(mode="json"))
