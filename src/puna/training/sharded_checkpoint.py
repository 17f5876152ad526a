"""Checkpoints of several ranks: each writes its part of the weights and of the optimizers' state,
beside the training that goes on, one checkpoint at a time.

    RUN/checkpoints/step-00000200/   training.json, shards/shard-RRRRR-model-....safetensors

torch.distributed.checkpoint (DCP) cuts, copies, writes and reads, in its Hugging Face form: the
header of each safetensors file says where its tensors stand in the whole ones, so that any number
of ranks reads them. Nothing is pickled on disk; DCP's own form has a pickled `.metadata`.

All files are fsynced; the first rank gives the folder its name once every rank has written. A rank
that cannot write, or a time limit, ends the run with the rank and the reason. What it is not: a
model folder. A run ends with one, made from the weights that the first rank gathers.
"""

import shutil
import time
import warnings
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor

from puna.durable import sync_path, write_json
from puna.errors import TrainingError
from puna.model.transformer import Transformer
from puna.training.checkpoint import (
    PROGRESS,
    SHARDS,
    Progress,
    load_checkpoint,
    optimizer_tensors,
    read_progress,
)
from puna.training.distributed import Ranks
from puna.training.optimizer import Optimizers


class ShardedCheckpoints:
    """The checkpoints that these ranks write in a run's folder, which all of them see."""

    def __init__(self, run: Path, ranks: Ranks) -> None:
        from torch import distributed

        self._run, self._ranks = run, ranks
        # collectives of its own: those of training go on meanwhile
        self._group = distributed.new_group(backend="gloo", timeout=ranks.timeout)
        self._writing: Future[Any] | None = None
        self._step, self._begin = -1, 0.0

    @property
    def _path(self) -> Path:
        return self._run / "checkpoints" / f"step-{self._step:08d}"

    @property
    def aside(self) -> Path:
        """The folder that is being written."""
        return self._path.with_name(f".{self._path.name}.partial")

    def save(self, model: Transformer, optimizers: Optimizers, progress: Progress) -> None:
        """Copy the state to the host's memory and begin to write it. All ranks have to call it,
        after `finished(wait=True)`. A step that is there already is left alone.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        assert self._writing is None
        self._step = progress.step
        if self._ranks.any(self._ranks.is_first and self._path.exists()):
            return

        def prepare() -> None:
            shutil.rmtree(self.aside, ignore_errors=True)
            (self.aside / SHARDS).mkdir(parents=True)
            write_json(self.aside / PROGRESS, asdict(progress))

        self._ranks.on_first(f"checkpoint {progress.step}", prepare)
        writer = HuggingFaceStorageWriter(str(self.aside / SHARDS), save_distributed=True)
        self._begin = time.monotonic()
        self._writing = cast(
            "Future[Any]",
            async_save(
                state_tensors(model, optimizers), storage_writer=writer, process_group=self._group
            ),
        )

    def finished(self, *, wait: bool = False) -> Path | None:
        """The checkpoint that became whole since this was last asked; None where none did.

        wait: for the one that is being written. Raises TrainingError for one that cannot be written
        within the ranks' timeout, or at all.
        """
        from torch.distributed.checkpoint.api import CheckpointException

        if self._writing is None:
            return None
        left = self._ranks.timeout.total_seconds() - (time.monotonic() - self._begin)
        if not wait and not self._writing.done() and left > 0:
            return None
        try:
            self._writing.result(timeout=max(0.0, left))
        except TimeoutError as error:
            raise TrainingError(
                f"checkpoint step {self._step} was not written within"
                f" {self._ranks.timeout.total_seconds():g} s: a disk hangs, or is too slow for"
                " --timeout"
            ) from error
        except (Exception, CheckpointException) as error:  # the latter is a BaseException
            raise TrainingError(
                f"checkpoint step {self._step} could not be written: {_reasons(error)}; the one"
                " before is whole"
            ) from error
        self._writing = None
        if self._ranks.is_first:
            for folder in (self.aside / SHARDS, self.aside):
                sync_path(folder)
            self.aside.rename(self._path)
            sync_path(self._path.parent)
        return self._path


def _reasons(error: BaseException) -> str:
    """The ranks that failed, each with its reason, in words."""
    failures = getattr(error, "failures", {})  # of DCP's CheckpointException
    words = [f"rank {rank}: {failure[0]}" for rank, failure in sorted(failures.items())]
    return ", ".join(words) or f"{type(error).__name__}: {error}"


def state_tensors(model: Transformer, optimizers: Optimizers) -> dict[str, Tensor]:
    """Weights by name, and the optimizers' state as `parameter:key`; this rank's parts of them."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return weights | optimizer_tensors(model, optimizers)


def load(path: Path, model: Transformer, optimizers: Optimizers, ranks: Ranks) -> Progress:
    """Fill the model and the optimizers, in place, from a checkpoint of one process or of any
    number of ranks. Raises TrainingError for one that is damaged.
    """
    if not (path / SHARDS).exists():
        return load_checkpoint(path, model, optimizers)
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        _load_shards(path, model, optimizers, ranks)
        return read_progress(path / PROGRESS)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        SafetensorError,
        CheckpointException,
    ) as error:
        raise TrainingError(
            f"the checkpoint {path} cannot be read ({_reasons(error)}); delete it to resume from"
            " the one before"
        ) from error


def _load_shards(path: Path, model: Transformer, optimizers: Optimizers, ranks: Ranks) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_state

    reader = HuggingFaceStorageReader(str(path / SHARDS))
    stored = {
        name: tuple(cast(Any, found).size)
        for name, found in reader.read_metadata().state_dict_metadata.items()
    }
    weights = dict(model.named_parameters())
    if missing := sorted(weights.keys() - stored.keys()):
        raise ValueError(f"{SHARDS} hold no {missing[0]}")
    state: dict[str, Tensor] = {name: weight.detach() for name, weight in weights.items()}
    owner = {
        id(weight): optimizer
        for optimizer in optimizers.optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    # in an order that is the same on all ranks
    for name in sorted(stored.keys() - weights.keys()):
        parameter, _, key = name.partition(":")
        weight = weights[parameter]
        whole = stored[name] != tuple(weight.shape)
        value = torch.zeros(stored[name]) if whole else torch.zeros_like(weight.detach())
        owner[id(weight)].state[weight][key] = state[name] = value
    with warnings.catch_warnings():
        # a process alone is meant
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        load_state(state, storage_reader=reader, no_dist=ranks.size == 1)
