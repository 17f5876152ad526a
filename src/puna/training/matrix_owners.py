"""Whole matrices given to ranks: each orthogonalises its own, so that Muon's Newton-Schulz steps
are done once and not on every rank.

Replicated weights: every rank has all momenta, computes those it owns, and sends the results on.
Sharded ones: ranks first send their rows of a matrix to its owner, and get their rows of the result
back: two all-to-alls of all matrices together, each of as many bytes as a shard of them has.

What it is not: an approximation. The results are those of one process, to rounding of the products.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from puna.training.distributed import Ranks, is_sharded

Compute = Callable[[list[Tensor]], list[Tensor]]


def owners(shapes: Sequence[tuple[int, ...]], size: int) -> list[int]:
    """The rank that owns each matrix: the largest first, each to the rank with the least to do.

    The work on a matrix [R, C] is R C min(R, C), that of X X^T.
    """
    loads, found = [0] * size, [0] * len(shapes)
    work = [rows * columns * min(rows, columns) for rows, columns in shapes]
    for index in sorted(range(len(shapes)), key=lambda index: -work[index]):
        found[index] = loads.index(min(loads))
        loads[found[index]] += work[index]
    return found


def rows_of(rows: int, size: int) -> list[int]:
    """Rows of each shard of a matrix of so many, as `torch.chunk` cuts them: the last ones may have
    fewer, or none.
    """
    most = -(-rows // size)
    return [max(0, min(most, rows - most * rank)) for rank in range(size)]


def on_owners(
    ranks: Ranks, compute: Compute, weights: Sequence[Tensor], matrices: Sequence[Tensor]
) -> list[Tensor]:
    """`compute` of whole matrices, each by one rank. matrices: this rank's parts, of the weights
    [R, C] whose shape and cut they have; so are the results.
    """
    if ranks.size == 1:
        return compute(list(matrices))
    if is_sharded(weights[0]):
        return _of_shards(compute, weights, matrices)
    return _of_replicas(ranks, compute, matrices)


def _of_replicas(ranks: Ranks, compute: Compute, matrices: Sequence[Tensor]) -> list[Tensor]:
    from torch import distributed

    owner = owners([tuple(matrix.shape) for matrix in matrices], ranks.size)
    found = list(matrices)
    for rank in range(ranks.size):
        owned = [index for index, by in enumerate(owner) if by == rank]
        if rank == ranks.rank:
            for index, result in zip(owned, compute([found[i] for i in owned]), strict=True):
                found[index] = result
    for rank in range(ranks.size):
        owned = [index for index, by in enumerate(owner) if by == rank]
        if not owned:
            continue
        flat = torch.cat([found[index].flatten() for index in owned])
        distributed.broadcast(flat, src=rank)
        for index, part in zip(owned, _split(flat, [found[i] for i in owned]), strict=True):
            found[index] = part
    return found


def _split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def _of_shards(
    compute: Compute, weights: Sequence[Tensor], matrices: Sequence[Tensor]
) -> list[Tensor]:
    from torch import distributed
    from torch.distributed.tensor import DTensor, Shard

    first = weights[0]
    assert isinstance(first, DTensor)
    axis = first.placements.index(Shard(0))
    group = first.device_mesh.get_group(axis)
    rank, size = distributed.get_rank(group), distributed.get_world_size(group)
    owner = owners([tuple(weight.shape) for weight in weights], size)
    owned = [[i for i, by in enumerate(owner) if by == r] for r in range(size)]
    mine = owned[rank]
    rows = {index: rows_of(weights[index].shape[0], size) for index in mine}
    columns = {index: weights[index].shape[1] for index in mine}

    # out: for each owner my rows of its matrices; in: from each rank its rows of mine
    order = [index for indices in owned for index in indices]
    out = torch.cat([matrices[index].flatten() for index in order])
    sent = [sum(matrices[index].numel() for index in indices) for indices in owned]
    received = [sum(rows[i][r] * columns[i] for i in mine) for r in range(size)]
    there = out.new_empty(sum(received))
    distributed.all_to_all_single(there, out, received, sent, group=group)
    parts = [
        torch.split(block, [rows[i][r] * columns[i] for i in mine])
        for r, block in enumerate(torch.split(there, received))
    ]
    whole = [
        torch.cat([parts[r][place] for r in range(size)]).view(-1, columns[i])
        for place, i in enumerate(mine)
    ]
    done = compute(whole)

    cut = [torch.split(result, rows[i]) for i, result in zip(mine, done, strict=True)]
    back = [piece[r].flatten() for r in range(size) for piece in cut]
    home = torch.empty_like(out)
    distributed.all_to_all_single(
        home, torch.cat(back) if back else there, sent, received, group=group
    )
    results: list[Tensor] = list(matrices)
    shapes = [matrices[index] for index in order]
    for index, part in zip(order, _split(home, shapes), strict=True):
        results[index] = part
    return results
