"""Weights that are no LLaMA's, known by the names of their tensors: the sentence that ends an error
about a folder that does not fit.
"""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

# Part of a name, as a regular expression: what the folder is, and what to do
LAYOUTS: Mapping[str, str] = MappingProxyType(
    {
        r"lora_[AB]": (
            "a LoRA adapter: name the folder of its base model, and give this one as --adapter"
        ),
        r"tok_embeddings|attention\.wq": (
            "a checkpoint in Meta's layout: type puna import FOLDER OUT"
        ),
        r"qweight|qzeros|\.scales$|weight_packed|absmax|quant_state|\.SCB$|weight_scale": (
            "a quantized model in a form that is not read: use the model that it was made from"
        ),
        r"experts|block_sparse_moe|\.router\.": ("a mixture of experts, which Puna does not have"),
        r"vision|visual|multi_modal|audio": (
            "a model of more than text: use its language model alone"
        ),
        r"transformer\.(h|wte)\b": (
            "a GPT in another layout: type puna import FOLDER OUT if it is nanoGPT's"
        ),
        r"gpt_neox|transformer\.blocks|\.attention\.(dense|query_key_value)": (
            "another architecture, which Puna does not have"
        ),
        r"\.score\.|classifier": "a classifier, which has no output layer over the vocabulary",
        r"[qk]_norm\.": (
            "a model with normalised queries and keys: its model_type is perhaps qwen3 or olmo2"
        ),
        r"(qkv|gate_up)_proj": "a model with merged matrices: its model_type is perhaps phi3",
        r"self_attn\.\w+\.bias": (
            "a model with biases in attention: its config.json should say attention_bias, or"
            " model_type qwen2"
        ),
    }
)


def suspicion(names: Collection[str], values: Mapping[str, Any]) -> str:
    """A sentence that says what the tensors look like, or the empty text. values: of
    config.json.
    """
    quantization = values.get("quantization_config") or values.get("quantization")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    said = f" ({method})" if method else ""
    for pattern, kind in LAYOUTS.items():
        if any(re.search(pattern, name) for name in names):
            return f". This looks like {kind}{said if kind.startswith('a quantized') else ''}"
    if quantization:
        return (
            f". The config.json speaks of a quantization{said}, which is not read: use the model"
            " that it was made from"
        )
    return ""
