"""Masks that narrow the causal rule, and ALiBi's bias on what a query sees: one tensor that all
layers share.

`attention_mask` gives None where plain causal masking says it all, which is the case that fused
kernels do without a mask. Otherwise a mask is T x S bools for each sequence, or floats for each
head: quadratic in the context, where a kernel made for the pattern would need none.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def document_numbers(ids: Int[Tensor, "B T"], separator: int) -> Int[Tensor, "B T"]:
    """The document that each position belongs to, counted from 0 in each row.

    A document starts AT a separator: windows hold documents as begin token, text, begin token,
    text, so the separator is the first token of the new document and not the last of the old. What
    stands before a row's first separator, the end of a document that the window cut, is document 0.

    Usual mistake: giving the end token, which puts each document's last token into the next
    document.
    """
    begun = (ids == separator).cumsum(-1)
    return begun - begun[:, :1]


def attention_mask(
    steps: int,
    seen: int,
    *,
    window: int | None = None,
    documents: Int[Tensor, "B {seen}"] | None = None,
    slopes: Float[Tensor, "H"] | None = None,
    device: torch.device | str | None = None,
) -> Bool[Tensor, "_ 1 {steps} {seen}"] | Float[Tensor, "_ _ {steps} {seen}"] | None:
    """The mask of T = `steps` queries, the last of S = `seen` positions; every option narrows
    the causal rule.

    window: a query sees itself and the window - 1 positions before it. documents: only positions
    with the same number, as `document_numbers` gives them. slopes: scores fall by slope * distance,
    as `alibi_slopes` gives them.

    Returns None if plain causal masking says it all; bool [1 or B, 1, T, S], True where a query
    sees, if there are no slopes; else float32 [1 or B, H, T, S] to be added to the scores, -slope *
    distance where it sees and -inf where not. Every query sees itself.

    Distances are taken in whole numbers and the bias in the slopes' float32; rounding it to
    bfloat16 afterwards is harmless, because what is near, and so weighs most, is exact or nearly.

    Source: Jiang et al. 2023, Mistral 7B, section 2 (window); Grattafiori et al. 2024, The Llama 3
    Herd of Models, section 3.2 (documents); Press et al. 2022, ALiBi, section 3 (slopes). Usual
    mistakes: a window of w + 1 positions, because the published text counts the query out; a mask
    that is right for T = S and shifts once there is a cache.
    """
    if steps > seen:
        raise ValueError(
            f"{steps} queries are no last part of {seen} positions: count the new ones in"
        )
    if window is not None and window < 1:
        raise ValueError(
            f"a window of {window} positions leaves a query nothing to see: give at least 1, itself"
        )
    if documents is not None and steps != seen:
        raise ValueError(
            f"documents cannot be kept apart for {steps} queries on {seen} positions: run whole"
            " sequences, without a cache"
        )
    if documents is None and slopes is None and (window is None or window >= seen):
        return None
    # From the query back to the key, in positions [T, S]; negative for the future
    positions = torch.arange(seen, device=device)
    distance = positions[seen - steps :, None] - positions
    visible = (distance >= 0)[None, None]
    if window is not None:
        visible = visible & (distance < window)
    if documents is not None:
        visible = visible & (documents[:, None, :, None] == documents[:, None, None, :])
    if slopes is None:
        return visible
    # Rules become -inf in the bias, so that one tensor says all
    bias = -slopes.to(distance.device)[:, None, None] * distance
    return bias.masked_fill(~visible, -torch.inf)
