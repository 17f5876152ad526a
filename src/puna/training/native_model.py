"""The training twin of `Transformer.hidden_states` and of its loss on the native core.

Each half of a pre-norm layer (attention, feed-forward) is run by the core where it has kernels for
its parts, and by its own modules otherwise, so that a variant of one part leaves the others fast.
Tests hold the two together. Not for inference: there is no cache.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from puna.model.block import Block, PreNormBlock
from puna.model.transformer import Transformer
from puna.native.autograd import AttentionHalf, FinalNorm, GatedHalf, LinearCrossEntropy, Rotary
from puna.native.kernels import Heads, Kernels
from puna.nn.activation import identity
from puna.nn.attention import Attention, Mask
from puna.nn.feed_forward import GatedFeedForward
from puna.nn.norm import RMSNorm

ACTIVATIONS: Mapping[object, str] = {
    F.silu: "silu",
    torch.sigmoid: "sigmoid",
    F.relu: "relu",
    identity: "identity",
    F.gelu: "gelu",
}

# the residual stream, and the branch that is still to be added to it
Stream = tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"] | None]
Documents = Callable[[Int[Tensor, "B T"]], Int[Tensor, "B T"]]


class NativeModel:
    """The loss of a model for training on a CPU.

    dtype: of the matrix products, float32 or bfloat16; the residual stream, the weights and their
    gradients are float32. documents: (ids) -> the document of each, which attention then does not
    leave. `on_torch`: the parts that the core has no kernels for, each with the reason.
    """

    def __init__(
        self,
        model: Transformer,
        kernels: Kernels,
        dtype: torch.dtype,
        documents: Documents | None = None,
    ) -> None:
        self.model, self.kernels, self.dtype, self.documents = model, kernels, dtype, documents
        self.on_torch = parts_on_torch(model, masked=documents is not None)
        self._stages: list[Callable[..., Stream]] = []
        for index, block in enumerate(model.layers):
            self._stages += [partial(half, block, index) for half in self._halves()]

    def _halves(self) -> tuple[Callable[..., Stream], ...]:
        if "layer" in self.on_torch:
            return (self._on_torch,)
        return (
            self._attention_on_torch if "attention" in self.on_torch else self._attention,
            self._mlp_on_torch if "feed-forward" in self.on_torch else self._mlp,
        )

    def loss(self, ids: Int[Tensor, "B T+1"]) -> Float[Tensor, ""]:
        """The sum over the valid targets of ids of their cross entropy, in nats, float32."""
        loss: Tensor = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            self.kernels, self.hidden_states(ids[:, :-1]), self.model.output_weight, ids[:, 1:]
        )
        return loss

    def hidden_states(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """`Transformer.hidden_states` of whole sequences, in `dtype`."""
        model = self.model
        positions = torch.arange(ids.shape[1])
        rotary = None if model.rotary is None else model.rotary(positions)
        mask = model.mask(ids, self.documents(ids) if self.documents else None)
        stream: Stream = (model.embed(ids, positions), None)
        for stage in self._stages:
            stream = stage(stream, rotary, mask)
        residual, branch = stream
        norm = model.norm
        if branch is None or not isinstance(norm, RMSNorm) or "final norm" in self.on_torch:
            out: Tensor = norm(_sum(stream)).to(self.dtype)
        else:
            out = FinalNorm.apply(self.kernels, norm.eps, residual, branch, norm.weight)  # type: ignore[no-untyped-call]
        return out

    def _turns(self, index: int, rotary: Rotary | None) -> Rotary | None:
        unturned = self.model.config.layers_without_rope or ()
        return None if index in unturned else rotary

    def _attention(
        self, block: PreNormBlock, index: int, stream: Stream, rotary: Rotary | None, _: Mask | None
    ) -> Stream:
        norm, attention = block.input_layernorm, block.self_attn
        assert isinstance(norm, RMSNorm)
        assert isinstance(attention, Attention)
        turns = self._turns(index, rotary)
        out: Stream = AttentionHalf.apply(  # type: ignore[no-untyped-call]
            self.kernels,
            _heads(attention),
            # without the axis of the heads
            None if turns is None else (turns[0][0], turns[1][0]),
            norm.eps,
            self.dtype,
            *stream,
            norm.weight,
            attention.q_proj.weight,
            attention.k_proj.weight,
            attention.v_proj.weight,
            attention.o_proj.weight,
        )
        return out

    def _mlp(self, block: PreNormBlock, _index: int, stream: Stream, *_: object) -> Stream:
        norm, layer = block.post_attention_layernorm, block.mlp
        assert isinstance(norm, RMSNorm)
        assert isinstance(layer, GatedFeedForward)
        out: Stream = GatedHalf.apply(  # type: ignore[no-untyped-call]
            self.kernels,
            ACTIVATIONS[layer.act_fn],
            norm.eps,
            self.dtype,
            *stream,
            norm.weight,
            layer.gate_proj.weight,
            layer.up_proj.weight,
            layer.down_proj.weight,
        )
        return out

    def _attention_on_torch(
        self,
        block: PreNormBlock,
        index: int,
        stream: Stream,
        rotary: Rotary | None,
        mask: Mask | None,
    ) -> Stream:
        return block.attention_half(_sum(stream), self._turns(index, rotary), None, mask), None

    def _mlp_on_torch(self, block: PreNormBlock, _index: int, stream: Stream, *_: object) -> Stream:
        return block.feed_forward_half(_sum(stream)), None

    def _on_torch(
        self, block: Block, index: int, stream: Stream, rotary: Rotary | None, mask: Mask | None
    ) -> Stream:
        return block(_sum(stream), self._turns(index, rotary), None, mask), None


def parts_on_torch(model: Transformer, *, masked: bool) -> dict[str, str]:
    """The parts of a model that the core has no kernels for, each with the reason: "layer" for
    whole layers, else "attention", "feed-forward" and "final norm".
    """
    block = model.layers[0]
    assert isinstance(block, Block)
    final = {"final norm": _norm_reason(model.norm)}
    if type(block) is not PreNormBlock:
        reasons = {"layer": f"{type(block).__name__} is not pre-norm", **final}
    else:
        reasons = {
            "attention": _norm_reason(block.input_layernorm)
            or _attention_reason(model, block.self_attn, masked=masked),
            "feed-forward": _norm_reason(block.post_attention_layernorm)
            or _feed_forward_reason(block.mlp),
            **final,
        }
    return {part: reason for part, reason in reasons.items() if reason}


def _norm_reason(norm: nn.Module) -> str:
    if type(norm) is not RMSNorm:
        return f"its norm is {type(norm).__name__}, not RMSNorm"
    if norm.weight is None or norm.bias is not None or norm.eps_place != "inside":
        return "its norm is not the plain RMSNorm: with a weight, without bias, eps inside"
    return ""


def _attention_reason(model: Transformer, attention: nn.Module, *, masked: bool) -> str:
    if type(attention) is not Attention:
        return f"{type(attention).__name__} is no plain attention"
    if attention.q_norm is not None:
        return "queries and keys are normalised"
    config = model.config
    if masked or config.position == "alibi" or config.sliding_window is not None:
        return "it has a mask beyond the causal rule"
    return _linear_reason(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)


def _feed_forward_reason(layer: nn.Module) -> str:
    if type(layer) is not GatedFeedForward:
        return f"{type(layer).__name__} is not gated"
    if layer.act_fn not in ACTIVATIONS:
        return f"its activation is none of {', '.join(ACTIVATIONS.values())}"
    if layer.limit is not None or layer.up_offset:
        return "its operands are cut or offset"
    return _linear_reason(layer.gate_proj, layer.up_proj, layer.down_proj)


def _linear_reason(*layers: nn.Module) -> str:
    for layer in layers:
        if type(layer) is not nn.Linear:
            return f"a projection is {type(layer).__name__}"
        if layer.bias is not None:
            return "its projections have biases"
    return ""


def _heads(attention: Attention) -> Heads:
    width = attention.head_width
    return Heads(
        attention.q_proj.out_features // width, attention.k_proj.out_features // width, width
    )


def _sum(stream: Stream) -> Float[Tensor, "B T D"]:
    residual, branch = stream
    return residual if branch is None else residual + branch
