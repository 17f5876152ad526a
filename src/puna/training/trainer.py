"""The training run: steps, log, validation, checkpoints, resume.

It knows tensors and files, not terminals: events go to an `Observer`. What it needs of other
packages is passed in: batches as a function of the step, validation as a function of the model.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from puna.device import (
    autocast,
    choose_device,
    choose_precision,
    measure_matmul_peak,
    synchronise,
    watch_others,
)
from puna.durable import write_json
from puna.errors import TrainingError
from puna.nn.mask import document_numbers
from puna.run_log import RunLog
from puna.training import checkpoint
from puna.training.batch_loss import batch_loss
from puna.training.checkpoint import Progress
from puna.training.distributed import ALONE, Ranks, is_sharded
from puna.training.initial_weights import copy_weights
from puna.training.optimizer import build_optimizers
from puna.training.parallel_layout import micro_batches
from puna.training.recipe import Recipe
from puna.training.run_inputs import Observer, RunInputs
from puna.training.run_lock import lock_run
from puna.training.sharded_checkpoint import ShardedCheckpoints, load
from puna.training.step import StepResult, train_step
from puna.training.step_memory import reject_too_large
from puna.training.stored_recipe import (
    RECIPE,
    Changes,
    changes_on_resume,
    read_changes,
    recipe_hash,
    store_changes,
    store_recipe,
)
from puna.training.throughput import ThroughputMeter
from puna.training.time_plan import plan_for
from puna.training.weight_sharding import build_model, gather_model, reshard

MAX_NON_FINITE_STEPS = 20  # in a row, before the run gives up


class Trainer:
    """One run of one recipe in one folder. `train` does it; `model` is then the trained model.

    peak: FLOP/s, the denominator of MFU. others_while_measured: the cores that other programs took
    while it was measured; None off Linux. changes: what a resume changed. ranks: that train
    together, each with a trainer and the inputs that are its part; all of them do the same but for
    files, which the first writes. Raises TrainingError for a recipe that does not fit in memory or
    with `train.init_from`, and ConfigError for a device that is not there.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        inputs: RunInputs,
        observers: tuple[Observer, ...] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.run, self.inputs, self.observers = recipe, run, inputs, observers
        self.ranks = ranks
        self.device = choose_device(ranks.device_name(recipe.train.device))
        self.precision = choose_precision(recipe.train.precision, self.device)
        reject_too_large(recipe, self.device, self.precision, ranks)
        self.model = build_model(recipe, ranks, self.device, self.precision)
        # a run that has checkpoints has weights of its own
        if recipe.train.init_from and not checkpoint.checkpoints(run):
            copy_weights(self.model, Path(recipe.train.init_from))
        self.model.activation_checkpointing = recipe.train.activation_checkpointing
        self.progress = Progress(
            recipe_hash=recipe_hash(recipe),
            data_hash=inputs.data_hash,
            plan=plan_for(recipe, inputs.validation_tokens),
        )
        self.changes: Changes = {}
        others = watch_others()
        (self.peak,) = ranks.sum(measure_matmul_peak(self.device, self.precision))
        self.others_while_measured = others()
        documents = self.documents if recipe.train.mask_documents else None
        self.loss = batch_loss(self.model, recipe, self.device, self.precision, documents)
        # shards are gathered in the format of the products, also where nothing else is cast
        sharded = is_sharded(self.model.output_weight)
        self.sharded_autocast = autocast(self.device, self.precision if sharded else "float32")
        self.shards = ShardedCheckpoints(run, ranks) if ranks.size > 1 else None
        self.optimizers = build_optimizers(self.model, recipe.optimizer, self.loss.kernels, ranks)

    def documents(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """The document of each position, for attention that does not cross from one to another."""
        begin, (end, *_) = self.inputs.special_ids["bos_id"], self.inputs.special_ids["eos_ids"]
        return document_numbers(ids, end if begin is None else begin)

    def start(self, resume: bool) -> None:
        """Take the run folder: a new one is begun, an existing one is continued from its newest
        checkpoint, with the values that a resume may change (`CHANGEABLE`).

        The folder is this process's until the trainer has gone. Raises TrainingError where another
        process has it, and where it holds another run, or none to resume.
        """
        self.changes, newest = self.ranks.on_first("start", lambda: self._take(resume))
        # without one it was killed before its first: it begins again
        if newest is not None:
            self._continue(load(Path(newest), self.model, self.optimizers, self.ranks))
        if self.ranks.is_first:
            store_changes(self.run, self.recipe, self.progress.step, self.changes)

    def _take(self, resume: bool) -> tuple[Changes, str | None]:
        """The changes of a resume and the newest checkpoint, once the folder is this run's."""
        if resume and not (self.run / RECIPE).exists():
            raise TrainingError(
                f"{self.run} holds no run to resume; leave out --resume to start one"
            )
        self._lock = lock_run(self.run)
        if not resume:
            store_recipe(self.run, self.recipe)
            return {}, None
        found = checkpoint.checkpoints(self.run)
        changes = changes_on_resume(self.run, self.recipe)
        return changes, str(list(found.values())[-1]) if found else None

    def _continue(self, saved: Progress) -> None:
        if saved.data_hash != self.progress.data_hash:
            raise TrainingError(
                f"the data or the tokenizer changed since {self.run} was started; a resumed run"
                " would mix the two"
            )
        if saved.step > self.recipe.train.steps:
            raise TrainingError(
                f"train.steps {self.recipe.train.steps} lies before step {saved.step}, which"
                f" {self.run} has reached: give at least that"
            )
        self.progress = replace(
            saved,
            recipe_hash=self.progress.recipe_hash,
            plan=plan_for(self.recipe, self.inputs.validation_tokens, saved.step, saved.plan),
        )

    @property
    def planned_steps(self) -> int:
        """Steps that the run will have when it ends: the recipe's, or as many as its minutes let
        expect now.
        """
        plan = self.progress.plan
        return plan.steps if plan else self.recipe.train.steps

    def train(self, stop: Callable[[], bool] = lambda: False, until: int | None = None) -> bool:
        """Train to the last step, or to step `until`, or until `stop` says so; True if the recipe
        is finished.

        However it returns, a checkpoint of the last step is on disk.
        """
        recipe = self.recipe
        log = RunLog(self.run / "metrics.jsonl") if self.ranks.is_first else None
        meter = ThroughputMeter(recipe, self.peak)
        non_finite = 0
        self.model.train()
        try:
            # a kill between a save and its validation: a resumed run catches up on it here
            if self._validation_due():
                self._validate(log)
            last = until or math.inf
            while self.progress.step < min(self.planned_steps, last) and not self.ranks.any(stop()):
                factor, result = self._step(meter)
                non_finite = 0 if result.applied else non_finite + 1
                if non_finite == MAX_NON_FINITE_STEPS:
                    raise TrainingError(
                        f"{MAX_NON_FINITE_STEPS} steps in a row had gradients that are not finite,"
                        f" up to step {self.progress.step}: lower optimizer.learning_rate or"
                        " optimizer.clip_norm, or use train.precision=float32"
                    )
                step = self.progress.step
                if (
                    step % recipe.train.log_every == 0
                    or step == self.planned_steps
                    or not result.applied
                ):
                    self._record(log, self._train_record(factor, result, meter))
                # saved before validating: a failure there loses no step
                if self._validation_due() or step % recipe.train.checkpoint_every == 0:
                    self.save()
                if self._validation_due():
                    self._validate(log)
                self._collect()
            self.save()
            self._collect(wait=True)
        finally:
            if log is not None:
                log.close()
        self.model = gather_model(self.model, self.ranks, self.device)
        self.model.eval()
        return self.progress.step == self.planned_steps

    def _step(self, meter: ThroughputMeter) -> tuple[float, StepResult]:
        recipe, step = self.recipe, self.progress.step
        begin = time.perf_counter()
        ids = torch.from_numpy(self.inputs.batch(step)).to(self.device, non_blocking=True)
        self.progress = self.progress.decided(recipe.train.validate_every)
        factor = recipe.optimizer.factor(step, recipe.train.steps, self.progress.position)
        result = train_step(
            self.model,
            self.loss.function,
            self.optimizers,
            torch.tensor_split(ids, micro_batches(recipe, self.ranks.size)),
            factor=factor,
            clip_norm=recipe.optimizer.clip_norm,
            ranks=self.ranks,
        )
        synchronise(self.device)  # kernels run on after the call returns; the clock must not
        seconds = self.ranks.largest(time.perf_counter() - begin)
        meter.add(seconds)
        self.progress = self.progress.stepped(seconds)
        return factor, result

    def _train_record(
        self, factor: float, result: StepResult, meter: ThroughputMeter
    ) -> dict[str, Any]:
        return {
            "kind": "train",
            "step": self.progress.step,
            "tokens": self.progress.step * self.recipe.tokens_per_step,
            "loss": result.loss,
            "bits_per_byte": result.loss / math.log(2) / self.inputs.bytes_per_token,
            "learning_rate": factor * self.recipe.optimizer.learning_rate,
            "gradient_norm": result.gradient_norm,
            "applied": result.applied,
            **meter.measure(),
            "seconds": self.progress.seconds,
            **({"planned_steps": plan.steps} if (plan := self.progress.plan) else {}),
        }

    def _record(self, log: RunLog | None, record: dict[str, Any]) -> None:
        if log is None:
            return
        log.append(record)
        for observer in self.observers:
            observer.logged(record)

    def _validation_due(self) -> bool:
        step, plan = self.progress.step, self.progress.plan
        left = self.planned_steps - step
        if left == 0 or step == 0:
            return left == 0
        # none just before the last one, where time is short
        near = plan is not None and left < plan.validation
        return step % self.recipe.train.validate_every == 0 and not near

    def _validate(self, log: RunLog | None) -> None:
        begin = time.perf_counter()
        self.model.eval()
        with self.sharded_autocast():
            found = self.inputs.validate(self.model)
        reshard(self.model, self.ranks)
        self.model.train()
        self.progress = self.progress.validated(self.ranks.largest(time.perf_counter() - begin))
        step = self.progress.step
        tokens = step * self.recipe.tokens_per_step
        self._record(
            log,
            {
                "kind": "validation",
                "step": step,
                "tokens": tokens,
                **asdict(found),
                "seconds": self.progress.seconds,
            },
        )
        if not self.ranks.is_first:
            return
        # before pruning, which keeps the best checkpoint and deletes others
        if found.loss < checkpoint.best(self.run)[1]:
            write_json(self.run / "best.json", {"step": step, **asdict(found)})
        writing = None if self.shards is None else self.shards.aside
        checkpoint.prune(self.run, self.recipe.train.keep_last, writing)

    def save(self) -> None:
        """Write the checkpoint of this step, tell the observers, and delete what need not be
        kept.
        """
        self._collect(wait=True)
        begin = time.perf_counter()
        path = self._write_checkpoint()
        self.progress = self.progress.spent(self.ranks.largest(time.perf_counter() - begin))
        self._saved(path)

    def _collect(self, *, wait: bool = False) -> None:
        """See to a checkpoint that was written beside training."""
        if self.shards is not None:
            self._saved(self.shards.finished(wait=wait))

    def _write_checkpoint(self) -> Path | None:
        if self.shards is not None:
            self.shards.save(self.model, self.optimizers, self.progress)
            return None
        return checkpoint.save_checkpoint(
            self.run,
            self.model,
            self.optimizers,
            self.progress,
            write_tokenizer=self.inputs.write_tokenizer,
            special_ids=self.inputs.special_ids,
            provenance=self.provenance(),
        )

    def _saved(self, path: Path | None) -> None:
        if path is None or not self.ranks.is_first:
            return
        checkpoint.prune(self.run, self.recipe.train.keep_last)
        for observer in self.observers:
            observer.saved(path)

    def provenance(self) -> dict[str, Any]:
        """Origin of the model, for puna.json: hashes, versions, steps, tokens, and the windows that
        it was trained on, which an evaluation takes over.
        """
        return {
            "recipe_hash": self.progress.recipe_hash,
            "data_hash": self.progress.data_hash,
            "tokenizer_hash": self.inputs.tokenizer_hash,
            "puna_version": version("puna"),
            "torch_version": torch.__version__,
            "isa": self.loss.backend.isa,
            "step": self.progress.step,
            "tokens": self.progress.step * self.recipe.tokens_per_step,
            "context_length": self.recipe.context_length,
            "mask_documents": self.recipe.train.mask_documents,
            **({"init_from": init_from} if (init_from := self.recipe.train.init_from) else {}),
            **({"changes": changes} if (changes := read_changes(self.run)) else {}),
        }
