"""The tensors of a family as LLaMA's: an output layer that is there or not, merged matrices split,
multipliers folded in.

Works on descriptions (stored_tensors.py), so that nothing is read before it is asked for.
"""

from collections.abc import Mapping
from typing import Any

import torch

from puna.model.config import ModelConfig
from puna.model.families import MULTIPLIERS, WRITTEN, family_name
from puna.model.stored_tensors import StoredTensor

HEAD, EMBEDDING, FINAL_NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"


def as_llama(
    values: Mapping[str, Any], config: ModelConfig, stored: Mapping[str, StoredTensor]
) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The configuration and the tensors, both as LlamaForCausalLM would have them. values: of
    config.json.
    """
    config, tensors = _with_one_output(values, config, dict(stored))
    name = family_name(values)
    if name == "phi3":
        tensors = _split(config, tensors)
    if name == "granite":
        tensors = _folded(values, config, tensors)
    return config, tensors


def keeps_its_config(values: Mapping[str, Any]) -> bool:
    """True where a model that was read from a folder with this config.json has the same one when it
    is written: its tensors are neither split nor folded nor made of codes.
    """
    return family_name(values) in (*WRITTEN, "puna") and not any(
        values.get(key) for key in ("quantization_config", "quantization")
    )


def _with_one_output(
    values: Mapping[str, Any], config: ModelConfig, tensors: dict[str, StoredTensor]
) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The output layer as transformers takes it: tied layers that differ in the file are two, and
    of tied layers either may be stored.

    Where config.json does not say and the file has one matrix only, a causal language model is
    tied: transformers would draw its output layer at random.
    """
    head, embedding = tensors.get(HEAD), tensors.get(EMBEDDING)
    architectures = values.get("architectures") or ["ForCausalLM"]
    causal = isinstance(architectures, list) and str(architectures[0]).endswith("ForCausalLM")
    if config.tie_embeddings and head is not None:
        if embedding is None:
            tensors[EMBEDDING] = head
        elif embedding.shape != head.shape or not torch.equal(embedding.read(), head.read()):
            return config.model_copy(update={"tie_embeddings": False}), tensors
        del tensors[HEAD]
    elif (
        head is None
        and values.get("tie_word_embeddings") is None
        and causal
        and values.get("model_type") != "puna"
    ):
        config = config.model_copy(update={"tie_embeddings": True})
    return config, tensors


def _split(config: ModelConfig, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Phi-3's matrices: qkv_proj is [W_q; W_k; W_v], gate_up_proj is [W_gate; W_up], by rows. One
    with another number of rows is left for the check of shapes to report.
    """
    heads, kv_heads = (
        number * config.head_width for number in (config.num_heads, config.num_kv_heads)
    )
    width = config.feed_forward_width
    parts = {
        "qkv_proj": {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads},
        "gate_up_proj": {"gate_proj": width, "up_proj": width},
    }
    split: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        *above, module, kind = name.split(".")
        rows = parts.get(module, {})
        if not rows or tensor.shape[:1] != (sum(rows.values()),):
            split[name] = tensor
            continue
        start = 0
        for part, count in rows.items():
            split[".".join((*above, part, kind))] = tensor.rows(start, start + count)
            start += count
    return split


def _folded(
    values: Mapping[str, Any], config: ModelConfig, tensors: dict[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Granite's multipliers in the weights: the embedding's in the table, the residual's in what
    writes into the stream, the attention's (in place of 1/sqrt(C)) in the queries, and logits'
    divisor in the final norm.

    A tied table would multiply the logits too, so there the final norm is divided by it besides.
    Powers of two are exact in any dtype, others are rounded once to the dtype of the file.
    """
    embedding, residual, attention, logits = (float(values.get(key, 1.0)) for key in MULTIPLIERS)
    final = 1 / (logits * embedding) if config.tie_embeddings else 1 / logits
    factors = {
        "embed_tokens": embedding,
        "q_proj": attention * config.head_width**0.5,
        "o_proj": residual,
        "down_proj": residual,
        "norm": final,
    }
    return {
        name: tensor.times(factors.get(name.split(".")[-2], 1.0)) if "." in name else tensor
        for name, tensor in tensors.items()
    }
