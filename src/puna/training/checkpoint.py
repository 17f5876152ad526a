"""Checkpoints: a model folder plus the state of training, whole on disk or not there at all.

    RUN/checkpoints/step-00000200/   config.json, model.safetensors, tokenizer files, ...,
        optimizer.safetensors, training.json
    RUN/best.json                    which of them validated best

Only safetensors and JSON. Costs 16 bytes a parameter on disk, 12 of them for the optimizer.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from puna.durable import new_folder, write_json
from puna.errors import ModelFolderError, TrainingError
from puna.model.transformer import Transformer
from puna.model.weights import read_model, write_model, write_tensors
from puna.training.optimizer import Optimizers
from puna.training.time_plan import TimePlan
from puna.training.weight_sharding import copy_state, placed_as

OPTIMIZER, PROGRESS, SHARDS = "optimizer.safetensors", "training.json", "shards"
NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Progress:
    """The progress of a run. step: updates done, which is also the position in the data. seconds:
    spent in training steps. plan: of a run with a time budget.
    """

    step: int = 0
    seconds: float = 0.0
    recipe_hash: str = ""
    data_hash: str = ""
    plan: TimePlan | None = None

    @property
    def position(self) -> float:
        """Place in the recipe's schedule, in its steps."""
        return self.plan.position if self.plan else self.step

    def decided(self, validate_every: int) -> Self:
        """The progress before a step, its plan decided anew."""
        return self._with(self.plan and self.plan.decided(self.step, self.seconds, validate_every))

    def stepped(self, seconds: float) -> Self:
        """The progress after a step that took `seconds`."""
        after = self._with(self.plan and self.plan.stepped(self.step, seconds))
        return replace(after, step=self.step + 1, seconds=self.seconds + seconds)

    def spent(self, seconds: float) -> Self:
        """The progress after a checkpoint or baselines that took `seconds`."""
        return self._with(self.plan and self.plan.spent(seconds))

    def validated(self, seconds: float) -> Self:
        """The progress after a validation that took `seconds`."""
        return self._with(self.plan and self.plan.validated(seconds))

    def _with(self, plan: TimePlan | None) -> Self:
        return replace(self, plan=plan)


def save_checkpoint(
    run: Path,
    model: Transformer,
    optimizers: Optimizers,
    progress: Progress,
    *,
    write_tokenizer: Callable[[Path], None],
    special_ids: dict[str, Any],
    provenance: dict[str, Any],
) -> Path:
    """Write `step-N` aside, fsync it, rename it. A step that is there already is left alone."""
    path = run / "checkpoints" / f"step-{progress.step:08d}"
    if path.exists():
        return path
    with new_folder(path) as aside:
        write_model(aside, model, **special_ids, provenance=provenance)
        write_tokenizer(aside)
        write_tensors(aside / OPTIMIZER, optimizer_tensors(model, optimizers))
        write_json(aside / PROGRESS, asdict(progress))
    return path


def load_checkpoint(path: Path, model: Transformer, optimizers: Optimizers) -> Progress:
    """Fill the model and the optimizers from a checkpoint, in place."""
    try:
        progress = read_progress(path / PROGRESS)
        tensors = load_file(path / OPTIMIZER)
        weights = read_model(path)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError, ModelFolderError) as error:
        raise TrainingError(
            f"the checkpoint {path} cannot be read ({error}); delete it to resume from the one"
            " before"
        ) from error
    copy_state(model, weights)
    names = {id(weight): name for name, weight in model.named_parameters()}
    for optimizer in optimizers.optimizers:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                prefix = f"{names[id(weight)]}:"
                optimizer.state[weight] = {
                    key.removeprefix(prefix): placed_as(weight, value)
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
    return progress


def read_progress(path: Path) -> Progress:
    """The progress that a checkpoint's training.json holds. Raises OSError, ValueError, TypeError
    and KeyError.
    """
    values = json.loads(path.read_text())
    # a checkpoint of an earlier release has no plan
    if plan := values.pop("plan", None):
        plan = TimePlan(**plan | {"recent": tuple(plan["recent"])})
    return Progress(**values, plan=plan)


def optimizer_tensors(model: Transformer, optimizers: Optimizers) -> dict[str, Tensor]:
    """The optimizers' whole state as `parameter:key` tensors."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {
        f"{names[id(weight)]}:{key}": torch.as_tensor(value)
        for optimizer in optimizers.optimizers
        for weight, state in optimizer.state.items()
        for key, value in state.items()
    }


def checkpoints(run: Path) -> dict[int, Path]:
    """The whole checkpoints of a run by step, oldest first; what a kill left half written is not
    among them.
    """
    folder = run / "checkpoints"
    found = {
        int(match[1]): path
        for path in folder.glob("step-*")
        if (match := NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def prune(run: Path, keep_last: int, writing: Path | None = None) -> None:
    """Delete all checkpoints but the newest `keep_last` and the best, and what a kill left half
    written. writing: the folder that is being written, which stays.
    """
    found = checkpoints(run)
    keep = {*list(found)[-keep_last:], best(run)[0]}
    for step, path in found.items():
        if step not in keep:
            shutil.rmtree(path)
    for leftover in set((run / "checkpoints").glob(".step-*")) - {writing}:
        shutil.rmtree(leftover, ignore_errors=True)


def best(run: Path) -> tuple[int | None, float]:
    """Step and validation loss of the best checkpoint so far; (None, inf) before the first."""
    try:
        values = json.loads((run / "best.json").read_text())
    except FileNotFoundError:
        return None, float("inf")
    return values["step"], values["loss"]
