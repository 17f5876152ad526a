"""Tokenizer and corpora that a recipe names, made where they are missing or no longer what it asks
for.

Costs what `tokenizer/word_counts.py` and `data/prepare.py` say for what is made, and a `stat` a
file for what is reused.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from puna.data.dedup import drop_copies
from puna.data.left_out import LeftOut
from puna.data.manifest import MANIFEST_NAME, Manifest
from puna.data.prepare import PreparationProgress, prepare
from puna.data.reading import Reading, checked_reading
from puna.data.sources import find_sources, read_texts
from puna.errors import DataError
from puna.tokenizer.tokenizer import Tokenizer
from puna.tokenizer.training import take_turns
from puna.training.recipe import CorpusRecipe, Recipe
from puna.workflow.observer import RunObserver


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
    size = min(recipe.tokenizer.max_bytes, _stored_bytes(recipe))

    def on_progress(read: int) -> None:
        for observer in observers:
            observer.tokenizer_progress(read, size)

    for observer in observers:
        observer.tokenizer_training(recipe.tokenizer.vocab_size)
    tokenizer = Tokenizer.train(
        drop_copies(take_turns(texts)),
        recipe.tokenizer.vocab_size,
        recipe.tokenizer.digits,
        recipe.tokenizer.max_bytes,
        on_progress,
    )
    tokenizer.save(folder)
    for observer in observers:
        observer.tokenizer_trained(folder, tokenizer)
    return tokenizer


def _stored_bytes(recipe: Recipe) -> int:
    """The bytes of all sources as stored, about those of their text."""
    return sum(
        source.size
        for corpus in recipe.data.mixture
        for source in find_sources(_sources(corpus), _reading(recipe, corpus), _own_folders(recipe))
    )


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
