"""The decoder: the one definition of the model. Every faster path elsewhere is held against this
one by a test.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from puna.model.block import Block
from puna.model.builders import (
    build_added_positions,
    build_block,
    build_norm,
    build_rotary,
    build_slopes,
)
from puna.model.config import ModelConfig
from puna.nn.attention import KeyValueCache, Mask
from puna.nn.mask import attention_mask


class Transformer(nn.Module):
    """A LLaMA: embedding, L blocks, final norm, output layer. ids [B, T] -> logits [B, T, V].

    Which parts stand in it is decided by the names in the configuration (model/parts.py); the
    defaults are LLaMA's. Added positions join the embeddings, rotary ones turn queries and keys;
    ALiBi, a sliding window and documents reach attention as a mask.

    The modules carry Hugging Face's names (whose state dict has the prefix `model.` for all but
    `lm_head`). With `tie_embeddings` there is no `lm_head` and the embedding serves as the output
    layer. Weights are uninitialised memory until `init_weights` or a load.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # recompute each block in the backward pass instead of keeping its activations
        self.activation_checkpointing = False
        self.embed_tokens = nn.Embedding(
            config.vocab_size, config.width, padding_idx=config.padding_id
        )
        self.embed_positions = build_added_positions(config)
        self.layers = nn.ModuleList(build_block(config) for _ in range(config.num_layers))
        final_norm = cast(Block, self.layers[0]).final_norm
        self.norm = build_norm(config) if final_norm else nn.Identity()
        self.lm_head = (
            None
            if config.tie_embeddings
            else nn.Linear(config.width, config.vocab_size, bias=False)
        )
        self.rotary = build_rotary(config)

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix that turns the final hidden states into logits."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden_states(
        self,
        ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "*B T"] | None = None,
        cache: Sequence[KeyValueCache] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The normalised hidden states before the output layer: what a chunked loss or an embedding
        takes.

        positions: where each id stands; left out, 0 to T-1. cache: one entry a layer, which knows
        what each id may see; it is changed. documents: the number of each id's document; attention
        then stays inside a document. Raises ValueError for documents with a cache, or
        with feed-forward layers that look back.
        """
        if cache is not None and documents is not None:
            raise ValueError(
                "documents cannot be kept apart in a cache: give each document a sequence of its"
                " own there"
            )
        if documents is not None and self.config.lookback:
            raise ValueError(
                "documents cannot be kept apart by feed-forward layers that look back: give each"
                " document a row of its own"
            )
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        # Once for all layers
        rotary = self.rotary(positions) if self.rotary is not None else None
        mask = self.mask(ids, documents) if cache is None else None  # a cache makes its own
        x = self.embed(ids, positions)
        unturned = self.config.layers_without_rope or ()
        for index, block in enumerate(self.layers):
            turns = None if index in unturned else rotary
            if self.activation_checkpointing and self.training and cache is None:
                x = checkpoint(block, x, turns, None, mask, use_reentrant=False)
            else:
                x = block(x, turns, cache[index] if cache is not None else None, mask)
        out: Tensor = self.norm(x)
        return out

    def embed(
        self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B T D"]:
        """The residual stream before the first layer."""
        x: Tensor = self.embed_tokens(ids)
        if self.config.embedding_scale != 1:
            x = self.config.embedding_scale * x
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions).to(x.dtype)
        return x

    def mask(self, ids: Int[Tensor, "B T"], documents: Int[Tensor, "B T"] | None) -> Mask | None:
        """The mask of attention beyond the causal rule, the same for every layer; None where that
        rule says it all.
        """
        config, steps = self.config, ids.shape[1]
        slopes = build_slopes(config)
        return attention_mask(
            steps,
            steps,
            window=config.sliding_window,
            documents=documents,
            slopes=None if slopes is None else slopes.to(ids.device),
            device=ids.device,
        )

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "*B T"] | None = None,
        cache: Sequence[KeyValueCache] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of the token after each id, in the dtype of the weights; arguments as for
        `hidden_states`.
        """
        return F.linear(self.hidden_states(ids, positions, cache), self.output_weight)


class _Uninitialised(TorchFunctionMode):
    """Skips the filling of new layers: every weight is filled or read later, and a normal draw on
    the device "meta" brings in the compiler, two seconds of imports.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build_transformer(config: ModelConfig, device: str | torch.device = "cpu") -> Transformer:
    """A model of this shape on `device` with uninitialised weights; on "meta" it costs no memory,
    at any size.
    """
    with torch.device("meta"), _Uninitialised():
        model = Transformer(config)
    return model if torch.device(device).type == "meta" else with_memory(model, device)


def with_memory(model: Transformer, device: str | torch.device) -> Transformer:
    """The same model, from "meta" to `device`, with uninitialised weights.

    `Module.to_empty` does so too, half a second later: `empty_like` of a meta tensor imports sympy.
    """
    model._apply(  # type: ignore[no-untyped-call]
        lambda t: torch.empty(t.shape, dtype=t.dtype, device=device)
    )
    return model
