"""Planned mixtures: LLaMA's table, and corpora as they are typed."""

import pytest
from said import said

from puna.data.mixture import epochs
from puna.errors import PlanError
from puna.plan.mixtures import Corpus, named_mixture, read_corpora


def test_llama_s_mixture_has_the_epochs_of_its_table() -> None:
    """Touvron et al. 2023a, table 1, at 1.4T tokens."""
    corpora = named_mixture("llama")
    seen = epochs(
        {name: corpus.weight for name, corpus in corpora.items()},
        {name: corpus.tokens for name, corpus in corpora.items()},
        1.4e12,
    )
    assert {name: f"{count:.2f}" for name, count in seen.items()} == {
        "CommonCrawl": "1.10",
        "C4": "1.06",
        "GitHub": "0.64",
        "Wikipedia": "2.45",
        "Books": "2.23",
        "ArXiv": "1.06",
        "StackExchange": "1.03",
    }
    assert sum(corpus.weight for corpus in corpora.values()) == 100


def test_corpora_are_read_from_the_right_so_that_names_may_hold_colons() -> None:
    assert read_corpora(["web:67.0:853e9", "s3://books:en:1:2.5e6"]) == {
        "web": Corpus(67.0, 853e9),
        "s3://books:en": Corpus(1.0, 2.5e6),
    }


@pytest.mark.parametrize("text", ["web", "web:1", "web:one:2e9", "web:1:", ":1:2"])
def test_another_form_is_rejected(text: str) -> None:
    with pytest.raises(
        PlanError,
        match=said(f"'{text}' ... NAME:WEIGHT:TOKENS ... CommonCrawl"),
    ):
        read_corpora([text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web:0:1e9", "weight of web ... 0"),
        ("web:1:-5", "tokens of web ... -5"),
        ("web:1:nan", "of web ... nan"),
    ],
)
def test_weights_and_tokens_are_positive(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=said(f"{message} ... above zero")):
        read_corpora([text])


def test_a_name_given_twice_is_rejected() -> None:
    with pytest.raises(PlanError, match=said("web ... twice")):
        read_corpora(["web:1:2", "web:2:3"])


def test_an_unknown_mixture_lists_the_known() -> None:
    with pytest.raises(PlanError, match=said("'pile' ... llama")):
        named_mixture("pile")
