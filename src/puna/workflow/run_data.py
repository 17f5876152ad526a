"""Data of a run: tokenizer and corpora, made where they are missing, then opened for the trainer.

Costs what `data/prepare.py` says for a corpus that is missing; opening one costs a checksum of all
its shards.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.data.dedup import document_hash
from puna.data.left_out import LeftOut
from puna.data.loader import Loader
from puna.data.manifest import MANIFEST_NAME, Manifest
from puna.data.prepare import PreparationProgress, prepare
from puna.data.reading import Reading, checked_reading
from puna.data.shards import TokenStream, open_split
from puna.data.sources import find_sources, read_texts
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
    mixture's order. inputs: what the trainer needs. recipe: the run's, with what was found on disk
    in place of what it asks for.
    """

    tokenizer: Tokenizer
    validation: list[TokenStream]
    inputs: RunInputs
    recipe: Recipe

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


def make_missing_data(
    recipe: Recipe, observers: Sequence[RunObserver] = (), *, again: bool = True
) -> None:
    """Train the tokenizer and prepare the corpora that are not on disk yet; continue what was
    interrupted, and tell the observers what is used as it is.

    again: prepare a corpus again whose folder lacks validation text, or was prepared from the same
    sources with other values of the recipe's keys; else it stays, and `open_data` rejects it.
    Raises DataError for a corpus that is missing and names no sources, and for one that was
    prepared from other sources than the recipe names.
    """
    folder = Path(recipe.tokenizer.path)
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(folder)
        for observer in observers:
            observer.tokenizer_reused(folder, tokenizer, recipe.tokenizer)
    else:
        tokenizer = _train_tokenizer(recipe, folder, observers)
    if tokenizer.vocab_size < recipe.model.vocab_size:
        for observer in observers:
            observer.vocabulary_unused(tokenizer.vocab_size, recipe.model.vocab_size)
    for corpus in recipe.data.mixture:
        if not (Path(corpus.path) / MANIFEST_NAME).exists():
            _prepare_corpus(recipe, corpus, tokenizer, observers)
            continue
        manifest = Manifest.load(corpus.path)
        _reject_other_sources(corpus, manifest)
        reasons = outdated(recipe, corpus, manifest)
        if reasons and again:
            for observer in observers:
                observer.corpus_outdated(Path(corpus.path), reasons)
            _prepare_corpus(recipe, corpus, tokenizer, observers)
        else:
            for observer in observers:
                changed = _files_changed(manifest, _own_folders(recipe))
                observer.corpus_reused(Path(corpus.path), manifest, changed)


def outdated(recipe: Recipe, corpus: CorpusRecipe, manifest: Manifest) -> list[str]:
    """The reasons, in words, for which a prepared folder is not what its part of the recipe asks
    for; none where that part names no sources to prepare it from.
    """
    if not corpus.sources:
        return []
    inputs, reasons = manifest.inputs, []
    before = tuple(source.name for source in inputs.validation_sources)
    if before != corpus.validation_sources:
        reasons.append(
            f"validation_sources was [{', '.join(before)}] and is"
            f" [{', '.join(corpus.validation_sources)}]"
        )
    elif not before and inputs.validation_fraction != recipe.data.validation_fraction:
        reasons.append(
            f"validation_fraction was {inputs.validation_fraction} and is"
            f" {recipe.data.validation_fraction}"
        )
    reading = _reading(recipe, corpus)
    reasons += [
        f"{name} was {getattr(inputs, name)} and is {getattr(reading, name)}"
        for name in Reading.model_fields
        if getattr(inputs, name) != getattr(reading, name)
    ]
    if inputs.max_documents != corpus.max_documents:
        reasons.append(f"max_documents was {inputs.max_documents} and is {corpus.max_documents}")
    if manifest.lacks_validation:
        reasons.append("it has no validation text")
    return reasons


def _files_changed(manifest: Manifest, own: Sequence[Path]) -> bool:
    """True where the files of the sources are there and no longer those that were read."""
    for record in (*manifest.inputs.sources, *manifest.inputs.validation_sources):
        try:
            (found,) = find_sources([record.name], manifest.inputs, own)
        except DataError:
            continue  # shards are used without their sources, too
        if found.fingerprint != record.files_hash:
            return True
    return False


def _reading(recipe: Recipe, corpus: CorpusRecipe) -> Reading:
    """The options of reading one corpus."""
    own = {name: getattr(corpus, name) for name in Reading.model_fields if hasattr(corpus, name)}
    return checked_reading(**own, piece_characters=recipe.data.piece_characters)


def _own_folders(recipe: Recipe) -> list[Path]:
    """The folders that this run writes: text that lies beside them is read, they are not."""
    run = [] if recipe.run is None else [recipe.run]
    return [
        Path(folder)
        for folder in (*run, recipe.tokenizer.path, *(c.path for c in recipe.data.mixture))
    ]


def _train_tokenizer(recipe: Recipe, folder: Path, observers: Sequence[RunObserver]) -> Tokenizer:
    texts = [
        islice(
            read_texts(
                [source],
                _reading(recipe, corpus),
                LeftOut(strict=corpus.strict, bad_share=corpus.bad_share),
                spread=True,
                own=_own_folders(recipe),
            ),
            corpus.max_documents,
        )
        for corpus in recipe.data.mixture
        for source in _sources(corpus)
    ]
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
    return tokenizer


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
        validation_sources=corpus.validation_sources,
        replace=True,
        max_documents=corpus.max_documents,
        strict=corpus.strict,
        bad_share=corpus.bad_share,
        own=_own_folders(recipe),
        on_progress=on_progress,
        **_reading(recipe, corpus).model_dump(),
    )
    for observer in observers:
        observer.corpus_prepared(folder, manifest)


def _reject_other_sources(corpus: CorpusRecipe, manifest: Manifest) -> None:
    """Raise DataError where the folder was prepared from other sources than the recipe names. Files
    of those sources that changed since are no reason not to train on it.
    """
    before = tuple(source.name for source in manifest.inputs.sources)
    if corpus.sources and corpus.sources != before:
        raise DataError(
            f"{corpus.path} was prepared from {', '.join(before)}, but the recipe names"
            f" {', '.join(corpus.sources)}: give this part of data.mixture a path of its own, or"
            " delete the folder"
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
    for corpus in recipe.data.mixture:
        if reasons := outdated(recipe, corpus, train[corpus.path].manifest):
            raise DataError(
                f"{corpus.path} is not what the recipe asks for: {'; '.join(reasons)}; set the keys"
                " of data as they were, or give the corpus another path"
            )
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
        tokenizer_hash=tokenizer.hash,
    )
    manifests = [stream.manifest for stream in train.values()]
    data = RunData(tokenizer, validation, inputs, _as_found(recipe, tokenizer, manifests))
    return data


def _as_found(recipe: Recipe, tokenizer: Tokenizer, manifests: Sequence[Manifest]) -> Recipe:
    """The recipe with the vocabulary size and digits of the tokenizer, and where all folders were
    prepared by hand and alike, with their share for validation and length of pieces.
    """
    found: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "digits": tokenizer.digits or recipe.tokenizer.digits,
    }
    changed: dict[str, Any] = {"tokenizer": recipe.tokenizer.model_copy(update=found)}
    alike = {(m.inputs.validation_fraction, m.inputs.piece_characters) for m in manifests}
    if len(alike) == 1 and not any(corpus.sources for corpus in recipe.data.mixture):
        (fraction, pieces) = alike.pop()
        if fraction > 0:
            values = {"validation_fraction": fraction, "piece_characters": pieces}
            changed["data"] = recipe.data.model_copy(update=values)
    return recipe.model_copy(update=changed)
