"""The decoder: the one definition of the model. Every faster path elsewhere is held against this one by a test."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from puna.model.config import ModelConfig
from puna.nn.attention import Attention, KeyValueCache
from puna.nn.feed_forward import SwiGLU
from puna.nn.norm import RMSNorm
from puna.nn.rope import RotaryEmbedding


class Block(nn.Module):
    """One layer, Pre-norm: x = x + attention(norm(x)); x = x + feed_forward(norm(x)). [B, T, D] -> [B, T, D].

    Source: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, figure 1 (b), with RMSNorm and SwiGLU.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.width, config.num_heads, config.num_kv_heads, config.head_width)
        self.mlp = SwiGLU(config.width, config.feed_forward_width)
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)

    def forward(
        self, x: Float[Tensor, "B T D"], rotary: tuple[Tensor, Tensor], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B T D"]:
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x  # noqa: RET504  (two sublayers, two lines)


class Transformer(nn.Module):
    """A LLaMA: embedding, L blocks, final norm, output layer. ids [B, T] -> logits [B, T, V].

    The modules carry Hugging Face's names (whose state dict has the prefix `model.` for all but `lm_head`). With `tie_embeddings` there
    is no `lm_head` and the embedding serves as the output layer. Weights are uninitialised memory until `init_weights` or a load.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False  # recompute each block in the backward pass instead of keeping its activations
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.width, config.vocab_size, bias=False)
        scaling = config.rope_scaling.build() if config.rope_scaling else None
        self.rotary = RotaryEmbedding(config.head_width, config.context_length, config.rope_base, scaling)

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix that turns the final hidden states into logits."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden_states(
        self,
        ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "*B T"] | None = None,
        cache: Sequence[KeyValueCache] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The normalised hidden states before the output layer: what a chunked loss or an embedding takes.

        positions: where each id stands; left out, 0 to T-1. cache: one entry a layer, holding the positions before; it is changed.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        rotary = self.rotary(positions)
        x = self.embed_tokens(ids)
        for index, block in enumerate(self.layers):
            if self.activation_checkpointing and self.training and cache is None:
                x = checkpoint(block, x, rotary, use_reentrant=False)
            else:
                x = block(x, rotary, cache[index] if cache is not None else None)
        out: Tensor = self.norm(x)
        return out

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "*B T"] | None = None,
        cache: Sequence[KeyValueCache] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of the token after each id, in the dtype of the weights; arguments as for `hidden_states`."""
        return F.linear(self.hidden_states(ids, positions, cache), self.output_weight)


def build_transformer(config: ModelConfig, device: str | torch.device = "cpu") -> Transformer:
    """A model of this shape on `device` with uninitialised weights; on "meta" it costs no memory, at any size."""
    with torch.device("meta"):
        model = Transformer(config)
    return model if torch.device(device).type == "meta" else model.to_empty(device=device)
