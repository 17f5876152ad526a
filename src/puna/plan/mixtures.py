"""Mixtures of corpora as they are planned: a share of the tokens that are read, and how many tokens
there are to read.

How often each is then seen is `puna.data.mixture.epochs`. Nothing here is on disk.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from puna.errors import PlanError
from puna.plan.cost import check_positive


class Corpus(NamedTuple):
    """weight: its share of the tokens that are read, relative to the sum of all. tokens: how many
    different ones it has.
    """

    weight: float
    tokens: float


MIXTURES: Mapping[str, Mapping[str, Corpus]] = MappingProxyType(
    {
        # Touvron et al. 2023a, LLaMA, table 1: proportions and, for 1.4 x 10^12 tokens, epochs; the
        # tokens are what these imply
        "llama": MappingProxyType(
            {
                "CommonCrawl": Corpus(67.0, 853e9),
                "C4": Corpus(15.0, 198e9),
                "GitHub": Corpus(4.5, 98e9),
                "Wikipedia": Corpus(4.5, 25.7e9),
                "Books": Corpus(4.5, 28.3e9),
                "ArXiv": Corpus(2.5, 33.0e9),
                "StackExchange": Corpus(2.0, 27.2e9),
            }
        )
    }
)


def named_mixture(name: str) -> Mapping[str, Corpus]:
    """The mixture of this name. Raises PlanError that lists the names."""
    if name not in MIXTURES:
        raise PlanError(
            f"unknown mixture {name!r}; the known ones are {', '.join(MIXTURES)}; or give each"
            " corpus with --source"
        )
    return MIXTURES[name]


def read_corpora(texts: list[str]) -> dict[str, Corpus]:
    """Corpora written NAME:WEIGHT:TOKENS, such as `CommonCrawl:67.0:853e9`. PlanError for another
    form and for a name given twice.
    """
    corpora: dict[str, Corpus] = {}
    for text in texts:
        name, *numbers = text.rsplit(":", 2)
        try:
            weight, tokens = map(float, numbers)
            if not name:
                raise ValueError("a source needs a name")
        except ValueError as error:
            raise PlanError(
                f"the source {text!r} is not of the form NAME:WEIGHT:TOKENS, such as"
                " CommonCrawl:67.0:853e9"
            ) from error
        check_positive(
            **{f"the weight of {name}": weight, f"the number of tokens of {name}": tokens}
        )
        if name in corpora:
            raise PlanError(
                f"the source {name} is given twice; add the two up, or give each a name of its own"
            )
        corpora[name] = Corpus(weight, tokens)
    return corpora
