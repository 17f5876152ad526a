"""The parts of a LLaMA: tensors in, tensors out, plain numbers in constructors. Each docstring has the formula and its source."""

from puna.nn.attention import Attention, KeyValueCache, blocked_attention, causal_attention, softmax_attention
from puna.nn.feed_forward import SwiGLU, swiglu_hidden_size
from puna.nn.loss import cross_entropy_sum, linear_cross_entropy
from puna.nn.norm import RMSNorm
from puna.nn.rope import Llama3Scaling, RotaryEmbedding, rope_frequencies, rotate

__all__ = [
    "Attention",
    "KeyValueCache",
    "Llama3Scaling",
    "RMSNorm",
    "RotaryEmbedding",
    "SwiGLU",
    "blocked_attention",
    "causal_attention",
    "cross_entropy_sum",
    "linear_cross_entropy",
    "rope_frequencies",
    "rotate",
    "softmax_attention",
    "swiglu_hidden_size",
]
