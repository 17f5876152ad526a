"""The small LLaMA that files of other programs are made of."""

from collections.abc import Callable

import pytest
import small_llama

from puna.model.transformer import Transformer


@pytest.fixture
def build_llama() -> Callable[..., Transformer]:
    return small_llama.build_llama


@pytest.fixture
def llama() -> Transformer:
    return small_llama.build_llama()
