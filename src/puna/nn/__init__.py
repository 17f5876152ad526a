"""The parts of a LLaMA: tensors in, tensors out, plain numbers in constructors. Each docstring has
the formula and its source.
"""

from puna.nn.activation import SelfGate, Swish, relu_squared
from puna.nn.attention import (
    Attention,
    KeyValueCache,
    attention_scores,
    blocked_attention,
    causal_attention,
    softmax_attention,
)
from puna.nn.feed_forward import (
    FeedForward,
    GatedFeedForward,
    SelfGatedFeedForward,
    swiglu_hidden_size,
)
from puna.nn.gated_linear import CausalGatedConvolution, ConvolutionalFeedForward, GatedLinear
from puna.nn.loss import cross_entropy_sum, linear_cross_entropy
from puna.nn.mask import attention_mask, document_numbers
from puna.nn.norm import CenterNorm, LayerNorm, NormalizedLinear, PartialRMSNorm, RMSNorm, ScaleNorm
from puna.nn.position import LearnedPositions, SinusoidalPositions, alibi_slopes
from puna.nn.quantized import Linear4bit, quantize_linears
from puna.nn.rope import (
    RotaryEmbedding,
    half_split_to_interleaved,
    interleaved_to_half_split,
    rope_frequencies,
    rotate,
    rotate_complex,
    rotate_interleaved,
    rotation_matrix,
)
from puna.nn.rope_scaling import (
    FrequencyScaling,
    LinearScaling,
    ListedScaling,
    Llama3Scaling,
    NTKScaling,
    YaRNScaling,
)

__all__ = [
    "Attention",
    "CausalGatedConvolution",
    "CenterNorm",
    "ConvolutionalFeedForward",
    "FeedForward",
    "FrequencyScaling",
    "GatedFeedForward",
    "GatedLinear",
    "KeyValueCache",
    "LayerNorm",
    "LearnedPositions",
    "Linear4bit",
    "LinearScaling",
    "ListedScaling",
    "Llama3Scaling",
    "NTKScaling",
    "NormalizedLinear",
    "PartialRMSNorm",
    "RMSNorm",
    "RotaryEmbedding",
    "ScaleNorm",
    "SelfGate",
    "SelfGatedFeedForward",
    "SinusoidalPositions",
    "Swish",
    "YaRNScaling",
    "alibi_slopes",
    "attention_mask",
    "attention_scores",
    "blocked_attention",
    "causal_attention",
    "cross_entropy_sum",
    "document_numbers",
    "half_split_to_interleaved",
    "interleaved_to_half_split",
    "linear_cross_entropy",
    "quantize_linears",
    "relu_squared",
    "rope_frequencies",
    "rotate",
    "rotate_complex",
    "rotate_interleaved",
    "rotation_matrix",
    "softmax_attention",
    "swiglu_hidden_size",
]
