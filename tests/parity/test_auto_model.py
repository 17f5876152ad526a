"""Folders of type `puna` in transformers' Auto classes: every part that a LLaMA does not have gives
the logits and the greedy text of `Transformer`, alone, padded and in a cache.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parts_beyond_llama import NEW_TOKENS, PARTS, greedy, large_model, random_ids
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from puna.auto_model import CACHE, PunaConfig, PunaForCausalLM, PunaModel, register_auto_classes
from puna.errors import ModelFolderError
from puna.model.weights import named_tensors, read_model, write_model
from puna.nn.attention import causal_attention
from puna.nn.mask import attention_mask


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_auto_classes()


def generated(model: Any, ids: torch.Tensor, **options: Any) -> list[list[int]]:
    plain = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    texts = model.generate(ids, pad_token_id=0, **plain, **options)
    return texts[:, -NEW_TOKENS:].tolist()


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.inference_mode()
def test_a_part_gives_our_logits_and_text(
    parts: dict[str, Any], implementation: str, tmp_path: Path
) -> None:
    ours = large_model(**parts)
    write_model(tmp_path, ours)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "puna"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
    assert isinstance(theirs, PunaForCausalLM)
    ids = random_ids(3, 33)
    expected = ours(ids)
    torch.testing.assert_close(theirs(ids).logits, expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.04, "logits this flat would agree by chance"
    prompt = ids[:1, :5]
    wanted = [greedy(ours, prompt)]
    mask = torch.ones_like(prompt)
    assert generated(theirs, prompt, attention_mask=mask) == wanted
    assert generated(theirs, prompt, attention_mask=mask, use_cache=False) == wanted


@pytest.mark.parametrize("name", ["layernorm", "window", "alibi in a window", "learned positions"])
@torch.inference_mode()
def test_texts_of_several_lengths_are_padded_on_the_left(name: str, tmp_path: Path) -> None:
    ours = large_model(**PARTS[name])
    write_model(tmp_path, ours)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompts = [random_ids(1, 12)[0], random_ids(2, 7)[1]]
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :] = prompt
        mask[row, -len(prompt) :] = 1
    wanted = [greedy(ours, prompt[None]) for prompt in prompts]
    assert generated(theirs, ids, attention_mask=mask) == wanted


@torch.inference_mode()
def test_names_and_values_of_the_weights_are_ours(tmp_path: Path) -> None:
    for tied in (False, True):
        ours = large_model(placement="peri", tie_embeddings=tied)
        write_model(tmp_path, ours)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
        found = dict(theirs.named_parameters())
        assert {name: p.tolist() for name, p in named_tensors(ours)} == {
            name: p.tolist() for name, p in found.items()
        }
        assert (theirs.lm_head.weight is theirs.model.embed_tokens.weight) == tied


@torch.inference_mode()
def test_a_dtype_is_kept_by_weights_and_not_by_tables(tmp_path: Path) -> None:
    """Rotary tables stay float32: filled anew after a load that leaves them as bare memory."""
    ours = large_model(norm="layernorm")
    write_model(tmp_path, ours)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in theirs.parameters()} == {torch.bfloat16}
    assert theirs.model.rotary.cos.dtype == torch.float32
    torch.testing.assert_close(theirs.model.rotary.cos, ours.rotary.cos, rtol=0, atol=0)
    ids = random_ids(2, 20)
    torch.testing.assert_close(
        theirs(ids).logits, ours.bfloat16()(ids), rtol=0, atol=0, check_dtype=True
    )


@torch.inference_mode()
def test_saved_by_transformers_it_is_still_ours(tmp_path: Path) -> None:
    """config.json keeps the whole configuration, so the way back loses nothing."""
    ours = large_model(position="learned", tie_embeddings=True)
    (tmp_path / "ours").mkdir()
    write_model(tmp_path / "ours", ours)
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = read_model(tmp_path / "theirs")
    assert again.config == ours.config
    ids = random_ids(2, 20)
    torch.testing.assert_close(again(ids), ours(ids), rtol=0, atol=0)
    config = AutoConfig.from_pretrained(tmp_path / "theirs")
    assert isinstance(config, PunaConfig)
    assert (config.hidden_size, config.num_key_value_heads, config.head_dim) == (32, 2, 8)


@torch.inference_mode()
def test_a_foreign_attention_function_is_called_for_each_layer(tmp_path: Path) -> None:
    """The contract of vLLM's backend: the function of that name gets q, k and v of each layer,
    `layer_idx`, the scale, and what the caller handed to the model; it gives [T, H C].
    """
    ours = large_model(norm="layernorm", sliding_window=9)
    write_model(tmp_path, ours)
    seen = []

    def attend(
        module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        seen.append((module.layer_idx, kwargs["scaling"], kwargs["attention_instances"], mask))
        window = attention_mask(query.shape[2], query.shape[2], window=9)
        heads = causal_attention(query, key, value, window)
        return heads.transpose(1, 2).reshape(query.shape[2], -1), None

    ALL_ATTENTION_FUNCTIONS.register("foreign", attend)
    theirs = AutoModel.from_pretrained(tmp_path)
    assert isinstance(theirs, PunaModel)
    theirs.config._attn_implementation = "foreign"
    ids, instances = random_ids(1, 33), {0: "a", 1: "b"}
    hidden = theirs(
        input_ids=ids,
        position_ids=torch.arange(33)[None],
        use_cache=False,
        return_dict=False,
        attention_instances=instances,
    )[0]
    torch.testing.assert_close(hidden, ours.hidden_states(ids), rtol=0, atol=1e-5)
    assert seen == [(0, 8**-0.5, instances, None), (1, 8**-0.5, instances, None)]


@torch.inference_mode()
def test_a_module_that_is_put_in_place_takes_part(tmp_path: Path) -> None:
    """vLLM replaces linear layers and embeddings by its own."""
    write_model(tmp_path, large_model(norm="layernorm"))
    model = AutoModel.from_pretrained(tmp_path)
    ids = random_ids(1, 9)
    before = model(ids).last_hidden_state
    doubled = nn.Embedding.from_pretrained(2 * model.get_input_embeddings().weight)
    model.set_input_embeddings(doubled)
    assert not torch.equal(model(ids).last_hidden_state, before)
    assert model.transformer.embed_tokens is doubled


def test_a_model_that_looks_back_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, large_model(feed_forward="convolution", feed_forward_kernel=3))
    with pytest.raises(
        ModelFolderError, match=r"convolution with feed_forward_kernel 3 .*puna serve"
    ):
        AutoConfig.from_pretrained(tmp_path)


def test_a_config_without_a_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "puna"}')
    with pytest.raises(ModelFolderError, match="no configuration under the key model"):
        AutoConfig.from_pretrained(tmp_path)


def test_alibi_is_refused_where_its_bias_would_be_lost(tmp_path: Path) -> None:
    write_model(tmp_path, large_model(position="alibi"))
    model = AutoModel.from_pretrained(tmp_path)
    model.config._attn_implementation = "foreign"
    with pytest.raises(ValueError, match="foreign takes no bias on scores, which position alibi"):
        model(random_ids(1, 5))


def test_alibi_in_a_static_cache_is_refused(tmp_path: Path) -> None:
    """Its keys stand at fixed places, and distances are counted from the end."""
    write_model(tmp_path, large_model(position="alibi"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    cache = StaticCache(config=model.config, max_cache_len=32)
    with pytest.raises(ValueError, match=r"StaticCache.*DynamicCache"):
        generated(model, random_ids(1, 5), **{CACHE: cache})


def test_embeddings_in_the_place_of_ids_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, large_model(norm="layernorm"))
    model = AutoModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 32))


@torch.inference_mode()
def test_labels_give_the_loss_of_the_next_ids(tmp_path: Path) -> None:
    ours = large_model(norm="layernorm")
    write_model(tmp_path, ours)
    ids = random_ids(2, 12)
    loss = AutoModelForCausalLM.from_pretrained(tmp_path)(ids, labels=ids).loss
    expected = nn.functional.cross_entropy(ours(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, expected)
