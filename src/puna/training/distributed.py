"""Ranks: the processes that train one model together, and what they say to each other.

A process alone is one rank of one: every method then answers at once, and nothing of
torch.distributed is imported. With more, launched by torchrun, numbers of the host (counts,
seconds, decisions) and gradients on a CPU go through gloo, gradients on CUDA devices through NCCL.

A rank that fails or hangs ends all: its peers' collectives raise, at once where its connections
close, else after the timeout. `explain` then says which rank was silent, or why it failed.

What it is not: no sharding of weights (weight_sharding.py), no files (sharded_checkpoint.py).
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from puna.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

BUCKET_BYTES = 1 << 25  # of gradients that are summed at once: 25 to 40 MB in DDP and elsewhere
PATIENCE = timedelta(days=7)  # for work of rank 0 alone, such as the preparation of data
ANSWER_SECONDS = 5.0  # that a failed run waits for the others to say how they fared


@dataclass(frozen=True)
class Ranks:
    """One process of those that train together. rank: from 0 to size - 1; local_rank: on its host,
    which has local_size of them.

    timeout: of collectives and of checkpoints. store: the key-value store of all ranks; None of a
    process alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    timeout: timedelta = timedelta(seconds=600)
    store: "Store | None" = None

    @property
    def is_first(self) -> bool:
        """True of the one rank that writes logs and single files."""
        return self.rank == 0

    def device_name(self, name: str) -> str:
        """The device of this rank where the recipe says `name`: each takes a CUDA device of its
        own. Raises ConfigError for one device that all would share.
        """
        if self.size == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return name
        if name not in ("auto", "cuda"):
            raise ConfigError(
                f"train.device {name} is one device, but {self.size} processes train: say"
                " train.device=cuda, of which each takes its own, or train.device=cpu"
            )
        return f"cuda:{self.local_rank}"

    def sum(self, *values: float) -> tuple[float, ...]:
        """The sums over all ranks, in float64; of a process alone the values themselves."""
        return self._reduced(values, "SUM")

    def largest(self, value: float) -> float:
        """The largest of all ranks' values: of seconds, what all have waited."""
        return self._reduced((value,), "MAX")[0]

    def any(self, flag: bool) -> bool:
        """True on every rank where it is on one."""
        return bool(self._reduced((flag,), "MAX")[0])

    def _reduced(self, values: tuple[float, ...], how: str) -> tuple[float, ...]:
        if self.size == 1:
            return values
        from torch import distributed

        numbers = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(numbers, op=getattr(distributed.ReduceOp, how))
        return tuple(numbers.tolist())

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over all ranks, in place; those of sharded weights were
        summed in the backward pass.
        """
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for weight in model.parameters():
            if weight.grad is None or is_sharded(weight):
                continue
            bucket.append(weight.grad)
            if sum(gradient.nbytes for gradient in bucket) >= BUCKET_BYTES:
                _sum_in_place(bucket)
                bucket = []
        if bucket:
            _sum_in_place(bucket)

    def on_first(self, name: str, work: Callable[[], Any]) -> Any:
        """Do work on rank 0 while the others wait, however long, and give its result, a JSON
        value, to all. name: of this work, used once in a run.

        What it raises there, the others meet as a TrainingError.
        """
        if self.store is None:
            return work()
        if self.is_first:
            try:
                found = work()
            except BaseException as error:
                self.store.set(name, json.dumps({"error": f"{type(error).__name__}: {error}"}))
                raise
            self.store.set(name, json.dumps({"result": found}))
            return found
        self.store.wait([name], PATIENCE)
        answer = json.loads(self.store.get(name))
        if "error" in answer:
            raise TrainingError(f"rank 0 ended while the others waited for it: {answer['error']}")
        return answer["result"]

    def require_same(self, **values: str) -> None:
        """Raise TrainingError that names the ranks whose values differ from those of rank 0."""
        if self.store is None:
            return
        self.store.set(f"same/{self.rank}", json.dumps(values))
        first = json.loads(self.store.get("same/0"))
        if differing := [name for name, value in values.items() if value != first[name]]:
            raise TrainingError(
                f"rank {self.rank} on {socket.gethostname()} has another"
                f" {' and another '.join(differing)} than rank 0: give all hosts the same files"
            )

    def explain(self, error: BaseException) -> str:
        """Words on why this rank failed: for a collective that broke, which ranks were silent or
        failed first, asked for some seconds.
        """
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if self.store is None:
            return reason
        others = [
            "; the store of the ranks, which the first host or torchrun keeps, does not answer"
        ]

        def ask() -> None:
            # the store may be gone, whatever it raises then
            with suppress(Exception):
                others.append(self._others(reason, _is_collective(error)))

        # a connection that was cut has no end: it is not waited for
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(2 * ANSWER_SECONDS)
        return f"rank {self.rank}: {reason}{others[-1]}"

    def _others(self, reason: str, broken: bool) -> str:
        """Tell the others why this rank failed; where a collective broke, ask them for the same."""
        assert self.store is not None
        self.store.set(f"end/{self.rank}", json.dumps({"reason": reason, "broken": broken}))
        if not broken:
            return ""
        end, names = time.monotonic() + ANSWER_SECONDS, [f"end/{r}" for r in range(self.size)]
        while not self.store.check(names) and time.monotonic() < end:
            time.sleep(0.1)
        words = []
        for rank, name in enumerate(names):
            if not self.store.check([name]):
                words.append(
                    f"rank {rank} ({self._whereabouts(rank)}) did not answer within"
                    f" {ANSWER_SECONDS:g} s: it hangs, was killed, or is cut off"
                )
            elif not (word := json.loads(self.store.get(name)))["broken"]:
                words.append(f"rank {rank} ({self._whereabouts(rank)}) failed: {word['reason']}")
        return "".join(f"; {word}" for word in words)

    def _whereabouts(self, rank: int) -> str:
        assert self.store is not None
        found: str = self.store.get(f"where/{rank}").decode()
        return found


ALONE = Ranks()
"""The one rank of a process that trains by itself."""


def whole(tensor: Tensor) -> Tensor:
    """A tensor's whole value on every rank; of one that is not sharded, itself."""
    found: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return found


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, in the same memory; of one that is not sharded, itself."""
    found: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return found


def is_sharded(weight: Tensor) -> bool:
    """True of a tensor of which each rank holds a part (a DTensor)."""
    return hasattr(weight, "device_mesh")


def _sum_in_place(gradients: list[Tensor]) -> None:
    from torch import distributed

    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    sums = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, sums, strict=True):
        gradient.copy_(total.view_as(gradient))


def _is_collective(error: BaseException) -> bool:
    from torch import distributed

    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))
    )


def join(environment: Mapping[str, str], device: str, timeout: timedelta) -> Ranks:
    """Join the processes that torchrun launched, of which `environment` tells; a process alone
    where it tells of none, or of one.

    device: the recipe's `train.device`. timeout: of every collective, after which a rank that does
    not answer counts as lost. Leave with `leave`. Raises TrainingError for ranks that do not come.
    """
    size = int(environment.get("WORLD_SIZE", 1))
    if size == 1:
        return ALONE
    from torch import distributed

    local_rank = int(environment["LOCAL_RANK"])
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank)
    # both are documented, but not in the list of exports that type checkers read
    rendezvous, prefixed = distributed.rendezvous, distributed.PrefixStore  # type: ignore[attr-defined]
    store, rank, size = next(rendezvous("env://"))
    start = _start(prefixed("start", store), rank, size, timeout)
    ours = prefixed(f"puna/{start}", store)
    ours.set(f"where/{rank}", f"host {socket.gethostname()}, process {os.getpid()}")
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
        store=prefixed(f"groups/{start}", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
    )
    return Ranks(rank, size, local_rank, int(environment["LOCAL_WORLD_SIZE"]), timeout, ours)


def _start(store: "Store", rank: int, size: int, timeout: timedelta) -> str:
    """A name for this start of the ranks, the same on all and on no earlier one.

    torchrun keeps a store from one start to the next, with all that the ended processes left in it,
    such as their addresses. So rank 0 names the start, and greets each other rank by a word that
    only its present process knows. Raises TrainingError for ranks that do not come.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"hello/{rank}", own)
        store.wait([f"welcome/{own}"], timeout)
        name: str = store.get(f"welcome/{own}").decode()
        store.set(f"here/{name}/{rank}", "")
        return name
    end, missing = time.monotonic() + timeout.total_seconds(), set(range(1, size))
    while missing:
        for other in missing:
            if store.check([f"hello/{other}"]):
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", own)
        time.sleep(0.01)
        missing = {other for other in missing if not store.check([f"here/{own}/{other}"])}
        if missing and time.monotonic() > end:
            raise TrainingError(
                f"ranks {', '.join(map(str, sorted(missing)))} did not join within"
                f" {timeout.total_seconds():g} s: look for what their hosts say"
            )
    return own


def leave(ranks: Ranks) -> None:
    """End this process's part in the collectives."""
    if ranks.size > 1:
        from torch import distributed

        distributed.destroy_process_group()
