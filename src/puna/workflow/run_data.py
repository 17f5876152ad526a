"""Data of a run: tokenizer and corpora, opened for the trainer.

Not here: what is missing is made in `missing_data.py`. Cost: a checksum of all shards.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna.data.dedup import document_hash
from puna.data.loader import Loader
from puna.data.manifest import Manifest
from puna.data.shards import TokenStream, open_split
from puna.data.sources import read_texts
from puna.errors import DataError
from puna.eval.bits_per_byte import Score
from puna.eval.held_out import HeldOutWindows, document_separator
from puna.eval.training_text import TrainingText
from puna.model.transformer import Transformer
from puna.tokenizer.tokenizer import Tokenizer
from puna.training.distributed import ALONE, Ranks
from puna.training.recipe import Recipe
from puna.training.run_inputs import RunInputs, Validation
from puna.workflow.missing_data import outdated


@dataclass(frozen=True)
class RunData:
    """Opened data of a run. train, validation: the splits of each corpus of the mixture, in the
    mixture's order. inputs: what the trainer needs. recipe: the run's, with what was found on disk
    in place of what it asks for.
    """

    tokenizer: Tokenizer
    train: list[TokenStream]
    validation: list[TokenStream]
    inputs: RunInputs
    recipe: Recipe

    def held_out(self, recipe: Recipe) -> HeldOutWindows:
        """The windows of validation text that every validation of the run scores."""
        return HeldOutWindows.of_splits(
            self.validation, recipe.train.validation_tokens, context=recipe.context_length
        )

    def validate(self, model: Transformer, recipe: Recipe, ranks: Ranks) -> Validation:
        """The model's score on these windows, of which each rank scores a part."""
        windows, tokenizer = self.held_out(recipe), self.tokenizer
        separator = document_separator(tokenizer) if recipe.train.mask_documents else None
        part = windows.part(ranks.rank, ranks.size)
        own = part.part_score(model, tokenizer.token_lengths(), separator=separator)
        nats, tokens, size = ranks.sum(own.nats, own.tokens, own.bytes)
        score = Score(nats, int(tokens), int(size)).of_text()
        return Validation(
            score.loss, score.bits_per_byte, len(windows.targets), windows.all_targets
        )

    def training_text(self, max_bytes: int) -> TrainingText:
        """The text that the model could learn from, about `max_bytes` of it where it has more."""
        weights = {corpus.path: corpus.weight for corpus in self.recipe.data.mixture}
        return TrainingText.of_splits(self.train, list(weights.values()), self.tokenizer, max_bytes)

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


def open_data(recipe: Recipe, ranks: Ranks = ALONE) -> RunData:
    """Open tokenizer and shards, check that they belong together and to the model, and give the
    trainer what it needs: of several ranks, this one's part of each batch.

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
        rank=ranks.rank,
        world_size=ranks.size,
    )
    hashes = "\n".join(stream.manifest.content_hash for stream in train.values())
    # a generation ends at a turn's end too; the first id closes a document
    ends = (tokenizer.eos_id, *sorted(tokenizer.end_ids - {tokenizer.eos_id}))
    special: dict[str, Any] = {"bos_id": tokenizer.bos_id, "eos_ids": ends}

    inputs = RunInputs(
        batch=loader.batch,
        validate=lambda model: data.validate(model, recipe, ranks),
        validation_tokens=min(
            recipe.train.validation_tokens, sum(split.num_tokens for split in validation)
        ),
        bytes_per_token=sum(s.num_bytes for s in train.values())
        / sum(s.num_tokens for s in train.values()),
        data_hash=hashlib.sha256(hashes.encode()).hexdigest()[:16],
        write_tokenizer=tokenizer.save,
        special_ids=special,
        tokenizer_hash=tokenizer.hash,
    )
    manifests = [stream.manifest for stream in train.values()]
    found = _as_found(recipe, tokenizer, manifests)
    data = RunData(tokenizer, list(train.values()), validation, inputs, found)
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
