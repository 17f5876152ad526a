"""Folders of type `puna` in transformers: `AutoConfig` and `AutoModelForCausalLM` open them once
`register_auto_classes` was called.

The modules and the forward pass are those of `puna.model.transformer`; only attention goes another
way, through the function that transformers has under the name of the attention implementation
(`sdpa`, `eager`, or another program's, such as vLLM's). Not here: folders of published families,
which transformers opens by itself, and the training of these models, which is Puna's own. Needs
transformers 5.16 or newer; nothing else of Puna imports this module.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from puna.errors import ModelFolderError
from puna.model.builders import build_slopes
from puna.model.config import ModelConfig
from puna.model.huggingface import from_huggingface
from puna.model.parts import LAYERS, PLACEMENTS
from puna.model.transformer import Transformer
from puna.nn.mask import attention_mask as mask_of_rules
from puna.nn.rope import RotaryEmbedding

# the field of a model's output that holds the cache: renamed in transformers 5.2x
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class PunaConfig(PretrainedConfig):
    """The config.json of a folder of type `puna`: the whole `ModelConfig` under `model`, and the
    names by which transformers and vLLM ask for its numbers.

    Raises ModelFolderError where there is no such key, a number breaks a rule of `ModelConfig`, or
    feed-forward layers are convolutions: a cache of transformers keeps keys and values alone.
    """

    model_type = "puna"
    has_no_defaults_at_init = True

    def __init__(self, model: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        shape = self.shape
        kernel = getattr(shape, "feed_forward_kernel", None)
        if kernel is not None:
            raise ModelFolderError(
                f"feed_forward {shape.feed_forward} with feed_forward_kernel {kernel} wants a cache"
                " of its own inputs, which neither transformers nor vLLM has: run this model with"
                " puna generate or puna serve"
            )
        self.vocab_size = shape.vocab_size
        self.hidden_size = shape.width
        self.intermediate_size = shape.feed_forward_width
        self.num_hidden_layers = shape.num_layers
        self.num_attention_heads = shape.num_heads
        self.num_key_value_heads = shape.num_kv_heads
        self.head_dim = shape.head_width
        self.max_position_embeddings = shape.context_length
        self.tie_word_embeddings = shape.tie_embeddings
        self.pad_token_id = shape.padding_id
        self.initializer_range = shape.init_std
        self.use_cache = True
        self.sliding_window = shape.sliding_window
        kind = "full_attention" if shape.sliding_window is None else "sliding_attention"
        self.layer_types = [kind] * shape.num_layers
        self.base_model_tp_plan = tensor_parallel_plan(shape)  # type: ignore[misc]

    @property
    def shape(self) -> ModelConfig:
        """The configuration in Puna's own terms, checked."""
        return from_huggingface({"model_type": "puna", "model": self.model}, "config.json")


def tensor_parallel_plan(shape: ModelConfig) -> dict[str, str]:
    """The linear layers that several GPUs may share, by name, each with the side that is cut: the
    heads, and the units of a feed-forward layer where they do not meet before `down_proj`.
    """
    plan = dict.fromkeys((f"layers.*.self_attn.{name}_proj" for name in "qkv"), "colwise")
    plan["layers.*.self_attn.o_proj"] = "rowwise"
    if shape.feed_forward not in LAYERS and shape.swish_beta != "channel":
        plan |= {"layers.*.mlp.gate_proj": "colwise", "layers.*.mlp.up_proj": "colwise"}
        plan["layers.*.mlp.down_proj"] = "rowwise"
    return plan


class AttentionInterface(nn.Module):
    """Attention of one layer by the function of `config._attn_implementation`: q [B, H, T, C], k
    and v [B, K, T, C] -> [B, H, T, C].

    The function may keep the keys and values itself, as vLLM's does, which finds its own by
    `layer_idx`; a cache of transformers is asked here.
    """

    is_causal = True

    def __init__(self, config: PunaConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5

    def forward(
        self,
        query: Float[Tensor, "B H T C"],
        key: Float[Tensor, "B K T C"],
        value: Float[Tensor, "B K T C"],
        mask: Any = None,
        past: Any = None,
        **kwargs: Any,
    ) -> Float[Tensor, "B H T C"]:
        """mask: as the function wants it. past: transformers' cache, which is changed."""
        batch, _, steps, width = query.shape
        if past is not None:
            key, value = past.update(key, value, self.layer_idx)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        heads, _ = attention_interface(
            self, query, key, value, mask, scaling=self.scaling, **kwargs
        )
        out: Tensor = heads.reshape(batch, steps, -1, width).transpose(1, 2)
        return out


@dataclass(frozen=True)
class _Call:
    """One layer's attention during one forward pass, as `puna.nn.attention.KeyValueCache`."""

    interface: nn.Module
    mask: Any
    past: Any
    kwargs: dict[str, Any]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = self.interface(q, k, v, self.mask, self.past, **self.kwargs)
        return out


class _PunaModelBase(PreTrainedModel):
    config_class = PunaConfig
    base_model_prefix = "model"
    _no_split_modules = [choice.target.partition(":")[2] for choice in PLACEMENTS.values()]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RotaryEmbedding):
            # its tables are no weights: after a load they are memory that nobody filled
            module.to(module.cos.device)


class PunaModel(_PunaModelBase):
    """The decoder without its output layer: ids [B, T] -> hidden states [B, T, D] after the final
    norm.

    It shares the table of its modules with a `Transformer`, so that a module that another program
    puts in the place of one here (vLLM: embeddings, linear layers) is one of the forward pass.
    """

    transformer: Transformer

    def __init__(self, config: PunaConfig) -> None:
        super().__init__(config)
        # with tied embeddings a Transformer has no output layer of its own
        transformer = Transformer(config.shape.model_copy(update={"tie_embeddings": True}))
        self._modules = transformer._modules
        # no module of this one: it would stand in its own table
        object.__setattr__(self, "transformer", transformer)
        for index, block in enumerate(transformer.layers):
            interface = AttentionInterface(config, index)
            block.get_submodule("self_attn").add_module("interface", interface)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The arguments of transformers' models; `cache` (`past_key_values` in older releases)
        stands in kwargs, whose rest goes to the attention function.

        attention_mask: [B, S], 0 for padding. Raises ValueError for `inputs_embeds`: scale and
        positions of the embeddings are part of the model.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError(
                "inputs_embeds is given, but a model of type puna scales and places its embeddings"
                " itself: give input_ids"
            )
        past = kwargs.pop("past_key_values", None)
        past = kwargs.pop("cache", past)
        if past is None and (self.config.use_cache if use_cache is None else use_cache):
            past = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past.get_seq_length() if past is not None else 0
            steps = torch.arange(input_ids.shape[1], device=input_ids.device)
            position_ids = (steps + seen).unsqueeze(0)
        mask = self._mask(input_ids, attention_mask, position_ids, past)
        calls = [
            _Call(block.get_submodule("self_attn.interface"), mask, past, kwargs)
            for block in self.transformer.layers
        ]
        hidden = self.transformer.hidden_states(input_ids, position_ids, calls)
        output = BaseModelOutputWithPast(last_hidden_state=hidden, **{CACHE: past})
        return output.to_tuple() if return_dict is False else output

    def _mask(self, ids: Tensor, padding: Tensor | None, positions: Tensor, past: Any) -> Any:
        """The mask for the attention function of `config`; None where that makes its own, as
        vLLM's does. Raises ValueError for ALiBi with such a one: its bias is in the mask.
        """
        shape, weights = self.transformer.config, self.transformer.embed_tokens.weight
        slopes = build_slopes(shape)
        if slopes is None:
            window = shape.sliding_window is not None
            make = create_sliding_window_causal_mask if window else create_causal_mask
            # only shape, dtype and device of the embeddings are read
            embedded = weights.new_empty((*ids.shape, 0))
            return make(self.config, embedded, padding, past, position_ids=positions)
        if self.config._attn_implementation not in ("sdpa", "eager"):
            raise ValueError(
                f"attention implementation {self.config._attn_implementation} takes no bias on"
                f" scores, which position {shape.position} is: choose sdpa or eager"
            )
        if getattr(past, "is_compileable", False):
            raise ValueError(
                f"{type(past).__name__} keeps keys at fixed places, and position {shape.position}"
                " counts distances from the last one: use a DynamicCache"
            )
        steps = ids.shape[1]
        seen = past.get_mask_sizes(steps, 0)[0] if past is not None else steps
        bias = mask_of_rules(
            steps, seen, window=shape.sliding_window, slopes=slopes, device=ids.device
        )
        assert bias is not None, "slopes always make a bias"
        if padding is not None:
            bias = bias.masked_fill(~padding[:, None, None, -seen:].bool(), -torch.inf)
        # a row of padding that sees nothing must not become nan
        return bias.to(weights.dtype).clamp(min=torch.finfo(weights.dtype).min)


class PunaForCausalLM(_PunaModelBase, GenerationMixin):
    """`PunaModel` and its output layer: ids [B, T] -> logits [B, T, V] in the weights' dtype,
    equal to those of `Transformer`.

    `generate` works with and without its cache.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: PunaConfig) -> None:
        super().__init__(config)
        self.model = PunaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Arguments as for `PunaModel`. labels: ids, -100 where there is no loss; logits_to_keep:
        of the last positions, 0 for all.
        """
        outputs = self.model(
            input_ids, attention_mask, position_ids, inputs_embeds, use_cache, **kwargs
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = (
            None
            if labels is None
            else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        )
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, **{CACHE: getattr(outputs, CACHE)}
        )
        return output.to_tuple() if return_dict is False else output


def register_auto_classes() -> None:
    """Let the Auto classes of transformers open folders of type `puna`; calling it again changes
    nothing.
    """
    AutoConfig.register("puna", PunaConfig, exist_ok=True)
    AutoModel.register(PunaConfig, PunaModel, exist_ok=True)
    AutoModelForCausalLM.register(PunaConfig, PunaForCausalLM, exist_ok=True)
