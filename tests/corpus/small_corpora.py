"""Sentences, texts and the form of the fixtures that the tests of corpus work share."""

import random
from collections.abc import Callable
from pathlib import Path

from puna.corpus.corpus_recipe import CorpusSource, PreparationRecipe
from puna.corpus.input_files import find_files
from puna.corpus.read_input import read_input
from puna.data.left_out import LeftOut
from puna.data.manifest import SPLITS, Manifest
from puna.data.shards import TokenStream
from puna.tokenizer.tokenizer import Tokenizer

PROSE = (
    "The river rose in the night and the people of the valley carried what they had to the hill.",
    "Nobody had seen the water come so fast, and by the morning the bridge was gone.",
    "They waited with the animals until the boats of the next town came to bring them bread.",
)

MakeRecipe = Callable[..., PreparationRecipe]


def numbered_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 41 words, each another."""
    generator = random.Random(seed)
    words = ["river", "hill", "water", "bread", "boat", "town", "night", "valley", "people"]
    return [f"{number} " + " ".join(generator.choices(words, k=40)) for number in range(count)]


def decoded(folder: Path) -> list[str]:
    """The texts of all documents in a folder of shards."""
    tokenizer, manifest = Tokenizer.load(folder), Manifest.load(folder)
    return [
        tokenizer.decode(ids[1:-1].tolist())
        for split in SPLITS
        for ids in TokenStream(folder, manifest, split).documents()
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the mixture, which names the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "mixture.yaml"
    }


def texts_of(*paths: object, left_out: LeftOut | None = None, **options: object) -> list[str]:
    """The texts of a source with these paths and options."""
    source = CorpusSource.model_validate(
        {"name": "x", "paths": [str(path) for path in paths], **options}
    )
    files = find_files(source, ()).files
    return [
        document.text
        for document in read_input(files, source, LeftOut() if left_out is None else left_out)
    ]
