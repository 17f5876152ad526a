"""Data of a run: tokenizer and corpora, made where they are missing, then opened for the trainer.

Costs what `data/prepare.py` says for a corpus that is missing; opening one costs a checksum of all
its shards.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.data.dedup import document_hash
from puna.data.loader import Loader
from puna.data.manifest import Manifest
from puna.data.prepare import PreparationProgress, prepare
from puna.data.shards import TokenStream, open_split
from puna.data.sources import read_texts
from puna.errors import DataError
from puna.eval.held_out import HeldOutWindows, document_separator
from puna.model.transformer import Transformer
from puna.tokenizer.tokenizer import Tokenizer
from puna.tokenizer.training import take_turns
from puna.training.recipe import CorpusRecipe, Recipe
from puna.training.trainer import RunInputs, Validation
from puna.workflow.observer import RunObserver


@dataclass(frozen=True)
class RunData:
    """Opened data of a run. validation: the validation split of each corpus of the mixture, in the
    mixture's order. inputs: what the trainer needs.
    """

    tokenizer: Tokenizer
    validation: list[TokenStream]
    inputs: RunInputs

    def held_out(self, recipe: Recipe) -> HeldOutWindows:
        """The windows of validation text that every validation of the run scores."""
        return HeldOutWindows.of_splits(
            self.validation, recipe.train.validation_tokens, context=recipe.context_length
        )

    def validation_documents(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All of the validation text: the ids [N] of its documents, corpus after corpus, and the
        number [N] of each id's document.
        """
        documents = [ids for stream in self.validation for ids in stream.documents()]
        lengths = [len(ids) for ids in documents]
        return np.concatenate(documents), np.repeat(np.arange(len(documents)), lengths)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all sources that the corpora were prepared from, each once."""
        return tuple(
            dict.fromkeys(
                source.name
                for stream in self.validation
                for source in stream.manifest.inputs.sources
            )
        )


def sample_ids(
    sources: Sequence[str], tokenizer: Tokenizer, max_bytes: int = 200_000, each: int = 8_000
) -> NDArray[np.int64]:
    """The ids of a sample of the sources' text, the same for every tokenizer: documents in the
    order of their hashes, each up to `each` characters, until there are `max_bytes` UTF-8 bytes.
    """
    texts = sorted({text[:each] for text in read_texts(sources)}, key=_text_hash)
    ids: list[int] = []
    taken = 0
    for text in texts:
        ids += tokenizer.encode_document(text)
        taken += len(text.encode())
        if taken >= max_bytes:
            break
    return np.array(ids, dtype=np.int64)


def _text_hash(text: str) -> int:
    return document_hash(text.encode())


def make_missing_data(recipe: Recipe, observers: Sequence[RunObserver] = ()) -> None:
    """Train the tokenizer and prepare the corpora that are not on disk yet; continue what was
    interrupted.

    Raises DataError for a corpus that is missing and names no sources, and for one that was
    prepared from other sources than the recipe names.
    """
    folder = Path(recipe.tokenizer.path)
    if not (folder / "tokenizer.json").exists():
        _train_tokenizer(recipe, folder, observers)
    tokenizer = Tokenizer.load(folder)
    for corpus in recipe.data.mixture:
        if (Path(corpus.path) / "manifest.json").exists():
            _reject_other_sources(corpus)
        else:
            _prepare_corpus(recipe, corpus, tokenizer, observers)


def _train_tokenizer(recipe: Recipe, folder: Path, observers: Sequence[RunObserver]) -> None:
    texts = [read_texts([source]) for corpus in recipe.data.mixture for source in _sources(corpus)]
    for observer in observers:
        observer.tokenizer_training(recipe.tokenizer.vocab_size)
    tokenizer = Tokenizer.train(
        take_turns(texts),
        recipe.tokenizer.vocab_size,
        recipe.tokenizer.digits,
        recipe.tokenizer.max_bytes,
    )
    tokenizer.save(folder)
    for observer in observers:
        observer.tokenizer_trained(folder, tokenizer)


def _prepare_corpus(
    recipe: Recipe, corpus: CorpusRecipe, tokenizer: Tokenizer, observers: Sequence[RunObserver]
) -> None:
    def on_progress(progress: PreparationProgress) -> None:
        for observer in observers:
            observer.corpus_progress(progress)

    sources, folder = _sources(corpus), Path(corpus.path)
    for observer in observers:
        observer.corpus_preparing(folder)
    manifest = prepare(
        sources,
        tokenizer,
        folder,
        validation_fraction=recipe.data.validation_fraction,
        piece_characters=recipe.data.piece_characters,
        on_progress=on_progress,
    )
    for observer in observers:
        observer.corpus_prepared(folder, manifest)


def _reject_other_sources(corpus: CorpusRecipe) -> None:
    """Raise DataError where the folder was prepared from other sources than the recipe names. Files
    of those sources that changed since are no reason not to train on it.
    """
    before = tuple(source.name for source in Manifest.load(corpus.path).inputs.sources)
    if corpus.sources and corpus.sources != before:
        raise DataError(
            f"{corpus.path} was prepared from {', '.join(before)}, but the recipe names"
            f" {', '.join(corpus.sources)}: delete the folder or name another"
        )


def _sources(corpus: CorpusRecipe) -> tuple[str, ...]:
    if not corpus.sources:
        raise DataError(
            f"{corpus.path} is not a prepared data folder, and its part of data.mixture names no"
            " sources to prepare it from: add sources, or run puna data prepare"
        )
    return corpus.sources


def open_data(recipe: Recipe) -> RunData:
    """Open tokenizer and shards, check that they belong together and to the model, and give the
    trainer what it needs.

    Raises DataError where they do not, and for shards that are missing or damaged.
    """
    tokenizer = Tokenizer.load(recipe.tokenizer.path)
    if tokenizer.vocab_size > recipe.model.vocab_size:
        raise DataError(
            f"the tokenizer in {recipe.tokenizer.path} has {tokenizer.vocab_size} entries, but"
            f" model.vocab_size is {recipe.model.vocab_size}: set"
            f" tokenizer.vocab_size={tokenizer.vocab_size}"
        )
    weights = {corpus.path: corpus.weight for corpus in recipe.data.mixture}
    train = {path: open_split(path, "train") for path in weights}
    validation = [open_split(path, "validation") for path in weights]
    for path, stream in train.items():
        if stream.manifest.inputs.tokenizer_hash != tokenizer.hash:
            raise DataError(
                f"{path} was prepared with another tokenizer than {recipe.tokenizer.path}: prepare"
                " it again"
            )
    loader = Loader(
        train,
        weights,
        context_length=recipe.context_length,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
    )
    lengths = tokenizer.token_lengths()
    separator = document_separator(tokenizer) if recipe.train.mask_documents else None
    hashes = "\n".join(stream.manifest.content_hash for stream in train.values())
    special: dict[str, Any] = {"bos_id": tokenizer.bos_id, "eos_ids": (tokenizer.eos_id,)}

    def validate(model: Transformer) -> Validation:
        held_out = data.held_out(recipe)
        score = held_out.score(model, lengths, separator=separator)
        return Validation(
            score.loss, score.bits_per_byte, len(held_out.targets), held_out.all_targets
        )

    inputs = RunInputs(
        batch=loader.batch,
        validate=validate,
        bytes_per_token=sum(s.num_bytes for s in train.values())
        / sum(s.num_tokens for s in train.values()),
        data_hash=hashlib.sha256(hashes.encode()).hexdigest()[:16],
        write_tokenizer=tokenizer.save,
        special_ids=special,
    )
    data = RunData(tokenizer, validation, inputs)
    return data
