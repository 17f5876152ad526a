"""Meta's `params.json`: the shape of a LLaMA in the words of its published code, read and written.

Source: github.com/meta-llama/llama-models, llama3/args.py and llama3/model.py; LLaMA 1 and 2 have
the same keys without `rope_theta` and `use_scaled_rope`.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from puna.config import validate
from puna.errors import ConfigError, ModelFolderError
from puna.formats.plain_llama import beyond_plain_llama
from puna.model.config import ModelConfig
from puna.nn.feed_forward import swiglu_hidden_size

FILE = "params.json"

# The numbers of apply_scaling in Meta's code, which params.json only switches on
SCALING: dict[str, Any] = {
    "kind": "llama3",
    "factor": 8.0,
    "low_frequency_factor": 1.0,
    "high_frequency_factor": 4.0,
    "original_context": 8192,
}

Count = Annotated[int, Field(gt=0, lt=1 << 31)]


class MetaParams(BaseModel):
    """The keys of a `params.json`; others change the model (quantization, images, experts) and are
    refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    dim: Count
    n_layers: Annotated[int, Field(gt=0, le=1000)]
    n_heads: Count
    n_kv_heads: Count | None = None
    vocab_size: int = -1
    multiple_of: Count = 256
    ffn_dim_multiplier: Annotated[float, Field(gt=0, lt=1e6)] | None = None
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    rope_theta: Annotated[float, Field(gt=1, lt=1e15)] = 10000.0
    use_scaled_rope: bool = False
    max_batch_size: int = 32
    max_seq_len: Annotated[int, Field(gt=0, le=1 << 18)] | None = None


def read_params(path: Path) -> MetaParams:
    """The checked content of a `params.json`; ModelFolderError names what is wrong with it."""
    try:
        if path.stat().st_size > 1 << 20:
            raise ValueError("more than 1 MB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(
            f"{path} is missing; it gives the shape of the weights beside it: copy it there"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} cannot be read ({error}): copy it again") from error
    try:
        return MetaParams.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the file'} = {str(item['input'])[:60]}:"
            f" {item['msg']}"
            for item in error.errors()[:10]
        )
        raise ModelFolderError(
            f"{path} describes no plain LLaMA that can be imported: {problems}"
        ) from error


def config_of(
    params: MetaParams,
    *,
    vocab_size: int,
    hidden: int,
    tied: bool,
    context_length: int | None,
    origin: str,
) -> ModelConfig:
    """The shape that `params` and the tensors describe. vocab_size, hidden: rows of the embedding
    and of w1, which the keys must agree with. Raises ModelFolderError naming both where not.
    """
    expected = swiglu_hidden_size(params.dim, params.multiple_of, params.ffn_dim_multiplier or 1.0)
    if hidden != expected:
        raise ModelFolderError(
            f"{origin}: dim {params.dim}, multiple_of {params.multiple_of} and ffn_dim_multiplier"
            f" {params.ffn_dim_multiplier} give a feed-forward width of {expected}, but the weights"
            f" have {hidden}: the files belong to different models"
        )
    if params.vocab_size not in (-1, vocab_size):
        raise ModelFolderError(
            f"{origin} says vocab_size {params.vocab_size}, but the embedding has {vocab_size}"
            " rows: the files belong to different models"
        )
    shape = {
        "vocab_size": vocab_size,
        "width": params.dim,
        "num_layers": params.n_layers,
        "num_heads": params.n_heads,
        "num_kv_heads": params.n_kv_heads or params.n_heads,
        "feed_forward_width": hidden,
        "norm_eps": params.norm_eps,
        "rope_base": params.rope_theta,
        "rope_scaling": SCALING if params.use_scaled_rope else None,
        "context_length": context_length or params.max_seq_len or _published_context(params),
        "tie_embeddings": tied,
    }
    try:
        return validate(ModelConfig, shape, origin)
    except ConfigError as error:
        raise ModelFolderError(str(error)) from error


def _published_context(params: MetaParams) -> int:
    """The context of the published model with these numbers: params.json does not say it."""
    if params.use_scaled_rope:
        return 131072  # Llama 3.1 and later
    if params.rope_theta == 500000:
        return 8192  # Llama 3
    if params.rope_theta > 10000:
        return 16384  # Code Llama
    return 2048 if params.norm_eps == 1e-6 else 4096  # LLaMA 1, Llama 2


def beyond_meta(config: ModelConfig) -> list[str]:
    """List what Meta's code cannot hold of this model, as `key = value (reason)`."""
    beyond = beyond_plain_llama(config, {})
    scaling = config.rope_scaling
    if scaling is not None and scaling.model_dump(exclude_none=True) != SCALING:
        beyond.append(
            f"rope_scaling = {scaling.model_dump(exclude_none=True)} (only llama3 with"
            " factor 8, 1, 4 and 8192)"
        )
    return beyond


def params_of(config: ModelConfig) -> dict[str, Any]:
    """The content of `params.json` for this shape; ModelFolderError for what it cannot say."""
    beyond = beyond_meta(config)
    if beyond:
        raise ModelFolderError(
            f"Meta's code cannot hold this model: {'; '.join(beyond)}; export it with --to hf or"
            " gguf, or keep the model folder"
        )
    width, hidden = config.width, config.feed_forward_width
    ruled = {"multiple_of": 256}
    multiplier: float | None = None
    if swiglu_hidden_size(width, 256) != hidden:
        # Rounding up to a multiple of F itself gives F for everything at or below it
        ruled = {"multiple_of": hidden}
        multiplier = hidden / (8 * width // 3) if 8 * width // 3 > hidden else None
    return {
        "dim": width,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "vocab_size": config.vocab_size,
        **ruled,
        **({"ffn_dim_multiplier": multiplier} if multiplier else {}),
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "use_scaled_rope": config.rope_scaling is not None,
    }
