"""Shapes that exercise what LLaMAs differ in, and what it means for two implementations to
agree.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from continued import continued
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from puna.model.families import GATES
from puna.model.transformer import Transformer

NEW_TOKENS = 24


@st.composite
def shapes(draw: Any) -> dict[str, Any]:
    """Grouped, multi-head and multi-query; tied or not; head widths that are D / H and that are
    not; every scaling of the positions, every gate and biases in the feed-forward layer that
    LlamaForCausalLM can express.
    """
    kv_heads, groups = draw(st.sampled_from([(1, 1), (1, 4), (2, 1), (2, 2), (2, 3), (4, 1)]))
    heads = kv_heads * groups
    factor, context = st.floats(1.0, 32.0), st.sampled_from([8, 16, 64])
    scaling = st.one_of(
        st.builds(
            dict,
            factor=factor,
            low_frequency_factor=st.floats(0.5, 1.0),
            high_frequency_factor=st.floats(2.0, 8.0),
            original_context=context,
        ),
        st.builds(dict, kind=st.sampled_from(["linear", "ntk"]), factor=factor),
        st.builds(
            dict,
            kind=st.just("yarn"),
            factor=factor,
            original_context=context,
            beta_fast=st.floats(2.0, 32.0),
        ),
    )
    return {
        "vocab_size": draw(st.integers(40, 120)),
        "width": heads * draw(st.sampled_from([8, 12])),
        "num_layers": draw(st.integers(1, 3)),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_width": draw(st.sampled_from([6, 8, 12, 16])),
        "feed_forward": draw(
            st.sampled_from(sorted({form["feed_forward"] for form in GATES.values()}))
        ),
        "feed_forward_width": draw(st.integers(8, 64)),
        "feed_forward_bias": draw(st.booleans()),
        "context_length": 64,
        "norm_eps": draw(st.sampled_from([1e-5, 1e-6])),
        "rope_base": draw(st.sampled_from([1e4, 5e5])),
        "rope_scaling": draw(st.none() | scaling),
        "tie_embeddings": draw(st.booleans()),
    }


@pytest.fixture(scope="session")
def any_shape() -> st.SearchStrategy[dict[str, Any]]:
    return shapes()


@pytest.fixture(scope="session")
def assert_agree() -> Callable[[Transformer, LlamaForCausalLM], None]:
    """A function that holds a model of ours against one of theirs: float32 logits within 1e-4, and
    the same greedy outputs, alone and in a mixed batch.
    """

    def check(ours: Transformer, theirs: LlamaForCausalLM) -> None:
        vocabulary = ours.config.vocab_size
        ids = torch.randint(0, vocabulary, (3, 33), generator=torch.Generator().manual_seed(7))
        with torch.inference_mode():
            expected = theirs(ids).logits
            torch.testing.assert_close(ours(ids), expected, rtol=0, atol=1e-4)
            assert expected.std() > 0.1, "logits this flat would agree by chance"
        prompts = [ids[0, :5], ids[1, :20], ids[2, :1]]
        greedy = continued(
            ours, [prompt.tolist() for prompt in prompts], max_tokens=NEW_TOKENS, temperature=0.0
        )
        for prompt, found in zip(prompts, greedy, strict=True):
            wanted = theirs.generate(
                prompt[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[0, len(prompt) :].tolist()
            assert found == wanted
            assert continued(ours, [prompt.tolist()], max_tokens=NEW_TOKENS, temperature=0.0) == [
                wanted
            ]

    return check
