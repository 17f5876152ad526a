"""GPTQ: the codes of a matrix chosen one input after another, each error made up for by the inputs
that are still to come; then scales and codes mended in turn.

    error of a row = d H d^T        with d = w - code s, H = X^T X / N of the layer's inputs X

Not here: the search of the first scales (grid.py) and the inputs (calibration.py). Costs about
2 O I^2 products for the choice and twice as much for each round of mending, in float32.

Source: Frantar et al. 2022, GPTQ, sections 3.2 and 3.3 (Cholesky form, lazy batches, damping) and
its published code (act-order, static groups); the mending is coordinate descent on the same
error, as in Behdin et al. 2023, QuantEase.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from puna.quantization.grid import Grid, QuantizedWeight, nearest_codes, search_scales, spread

DAMPING = 0.01
"""Share of the mean diagonal that is added to it. GPTQ, section 3.3."""
BLOCK = 128
ROUNDS = 3


def round_to_nearest(
    weight: Float[Tensor, "O I"], grid: Grid, importance: Float[Tensor, " I"] | None = None
) -> QuantizedWeight:
    """Each weight by itself at the nearest code, with the scales of `search_scales`."""
    scales = search_scales(weight, grid, importance)
    codes = nearest_codes(weight.float(), spread(scales, weight.shape[1]), grid)
    return QuantizedWeight(grid, codes.to(torch.int8), scales)


def quantize_calibrated(
    weight: Float[Tensor, "O I"], grid: Grid, hessian: Float[Tensor, "I I"]
) -> QuantizedWeight:
    """The codes and scales with a small error of the layer's outputs: GPTQ's codes, then scales
    and codes in turn, each the best one for the others. hessian: H above, in float32.

    A row keeps what it has unless a step is better, and is never worse in d H d^T than rounded to
    nearest with the same importance.
    """
    weight, inputs = weight.float(), weight.shape[1]
    plain = round_to_nearest(weight, grid, hessian.diagonal())
    damped = damp(hessian)
    scales, codes = plain.scales, plain.codes.float()

    def keep_better(new_codes: Tensor, new_scales: Tensor, judged_by: Tensor) -> None:
        nonlocal scales, codes
        old = row_errors(weight - codes * spread(scales, inputs), judged_by)
        new = row_errors(weight - new_codes * spread(new_scales, inputs), judged_by)
        better = (new < old)[:, None]
        codes = torch.where(better, new_codes, codes)
        scales = torch.where(better, new_scales, scales)

    keep_better(choose_codes(weight, spread(scales, inputs), grid, damped), scales, damped)
    for _ in range(ROUNDS):
        keep_better(codes, fit_scales(weight, codes, scales, damped), damped)
        mended = mend_codes(weight, spread(scales, inputs), grid, damped, codes)
        keep_better(mended, scales, damped)
    found_codes, found_scales = codes, scales
    scales, codes = plain.scales, plain.codes.float()
    keep_better(found_codes, found_scales, hessian)
    return QuantizedWeight(grid, codes.to(torch.int8), scales)


def damp(hessian: Float[Tensor, "I I"]) -> Float[Tensor, "I I"]:
    """H + share * mean of its diagonal, which makes it positive definite; the unit matrix where
    there were no inputs.
    """
    mean = hessian.diagonal().mean()
    added = DAMPING * mean if mean > 0 else torch.ones(())
    return hessian + added * torch.eye(len(hessian))


def row_errors(d: Float[Tensor, "O I"], hessian: Float[Tensor, "I I"]) -> Float[Tensor, " O"]:
    """d H d^T of each row: its mean squared error of the output."""
    return ((d @ hessian) * d).sum(-1)


def choose_codes(
    weight: Float[Tensor, "O I"],
    scales: Float[Tensor, "O I"],
    grid: Grid,
    hessian: Float[Tensor, "I I"],
) -> Float[Tensor, "O I"]:
    """GPTQ's codes, as float32. hessian: damped. Inputs are taken by falling diagonal, so that
    those that count most have the most others to make up for their errors.
    """
    order = hessian.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order].double()))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    left, steps = weight[:, order].T.contiguous(), scales[:, order].T.contiguous()
    codes = torch.empty_like(left)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = torch.empty_like(left[start:stop])
        for i in range(start, stop):
            codes[i] = nearest_codes(left[i], steps[i], grid)
            error = (left[i] - codes[i] * steps[i]) / upper[i, i]
            errors[i - start] = error
            left[i + 1 : stop].addr_(upper[i, i + 1 : stop], error, alpha=-1)
        left[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    found = torch.empty_like(codes)
    found[order] = codes
    return found.T.contiguous()


def mend_codes(
    weight: Float[Tensor, "O I"],
    scales: Float[Tensor, "O I"],
    grid: Grid,
    hessian: Float[Tensor, "I I"],
    codes: Float[Tensor, "O I"],
    rounds: int = 1,
) -> Float[Tensor, "O I"]:
    """Codes that are each the best one given all others of the row, or nearly: every input in
    turn, so often. The error falls with every change. hessian: positive definite.
    """
    w, steps, q = weight.T.contiguous(), scales.T.contiguous(), codes.T.contiguous()
    diagonal = hessian.diagonal()
    for _ in range(rounds):
        # H d, of which a change of one code changes a multiple of one row of H
        pull = hessian @ (w - q * steps)
        changed = 0
        for start in range(0, len(w), BLOCK):
            stop = min(start + BLOCK, len(w))
            before = q[start:stop] * steps[start:stop]
            for i in range(start, stop):
                wanted = q[i] * steps[i] + pull[i] / diagonal[i]
                new = nearest_codes(wanted, steps[i], grid)
                moved = (new - q[i]) * steps[i]
                changed += int(moved.count_nonzero())
                pull[start:stop].addr_(hessian[start:stop, i], moved, alpha=-1)
                q[i] = new
            moved = q[start:stop] * steps[start:stop] - before
            pull[stop:].addmm_(hessian[stop:, start:stop], moved, alpha=-1)
        if changed == 0:
            break
    return q.T.contiguous()


def fit_scales(
    weight: Float[Tensor, "O I"],
    codes: Float[Tensor, "O I"],
    scales: Float[Tensor, "O G"],
    hessian: Float[Tensor, "I I"],
) -> Float[Tensor, "O G"]:
    """The scales with the least d H d^T for these codes, rounded as they are stored; a group whose
    codes are all 0 keeps its own.

    With c_g the codes of group g and 0 elsewhere, the scales of a row solve A s = b where
    A_gk = c_g H c_k^T and b_g = c_g H w^T. Solved in float64.
    """
    outputs, groups = scales.shape
    size = weight.shape[1] // groups
    by_group = (outputs, groups, size)
    b = (codes * (weight @ hessian)).view(by_group).sum(-1).double()
    a = torch.empty(outputs, groups, groups, dtype=torch.float64)
    for k in range(groups):
        part = slice(k * size, (k + 1) * size)
        a[:, :, k] = (codes * (codes[:, part] @ hessian[part])).view(by_group).sum(-1)
    diagonal = a.diagonal(dim1=1, dim2=2)
    empty = diagonal == 0
    diagonal += 1e-9 * diagonal.amax(-1, keepdim=True) + empty
    fitted = torch.linalg.solve(a, b)
    limit = torch.finfo(scales.dtype).max
    return torch.where(empty, scales.double(), fitted).clamp(-limit, limit).to(scales.dtype)
