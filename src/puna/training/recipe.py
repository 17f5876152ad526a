"""A recipe: everything that decides a training run, in one frozen, hashed value read from YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from puna.choices import Choice, ChoosingConfig, Table, ignored_overrides, named, with_options
from puna.config import Config, apply_overrides, read_yaml, validate
from puna.errors import ConfigError
from puna.model.config import ModelConfig
from puna.native.library import Isa
from puna.training.schedule import SCHEDULES, learning_rate_factor


class TokenizerRecipe(Config):
    """The tokenizer's folder, and how to train one when nothing lies there yet."""

    path: str = Field(description="folder of the tokenizer")
    vocab_size: int = Field(default=4096, gt=0, description="entries, special tokens included")
    digits: Literal["one", "two", "three", "off"] = "one"
    max_bytes: int = Field(
        default=50_000_000, gt=0, description="text to train on at most, UTF-8 bytes"
    )


def _later_key(default: Any, **rules: Any) -> Any:
    """A field that recipes of an earlier release did not have: at its default it is no part of a
    dump, so that those recipes keep their hash.
    """
    return Field(default=default, exclude_if=lambda value: value == default, **rules)


class CorpusRecipe(Config):
    """One part of the mixture: a prepared data folder, and what to prepare it from when nothing
    lies there yet.
    """

    path: str = Field(description="folder of shards that `puna data prepare` wrote, or will write")
    weight: float = Field(
        default=1.0, gt=0, description="share of the samples, relative to the other parts'"
    )
    sources: tuple[str, ...] = Field(
        default=(), strict=False, description="texts to prepare the folder from"
    )
    validation_sources: tuple[str, ...] = _later_key(
        (), strict=False, description="texts to hold out whole, in place of a share of the sources"
    )
    text_field: str = _later_key("text", description="key or column of the text in tables")
    separator: str | None = _later_key(
        None, description="of documents in plain files: line, blank-lines, or a text"
    )
    normalize: Literal["bom", "lf", "none"] = _later_key(
        "bom", description="drop byte order marks; lf: also make CRLF and CR a line feed"
    )
    include: tuple[str, ...] = _later_key(
        (), strict=False, description="endings of the files to read; left out: all"
    )
    exclude: tuple[str, ...] = _later_key(
        (), strict=False, description="endings of files to leave out"
    )
    max_documents: int | None = _later_key(None, gt=0, description="documents to prepare")
    strict: bool = _later_key(False, description="stop at the first bad file or row")
    bad_share: float = _later_key(
        0.1, ge=0, le=1, description="share of bad files and rows that is passed over"
    )


class DataRecipe(Config):
    """The mixture of corpora."""

    mixture: tuple[CorpusRecipe, ...] = Field(strict=False, min_length=1)
    validation_fraction: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="share of the documents held out; in a small corpus of its bytes, see split.py",
    )
    piece_characters: int = Field(
        default=2**20,
        gt=0,
        description="longer plain files become several documents, cut at blank lines",
    )


# of parts of the model, in place of learning_rate
_RATES = dict.fromkeys(
    ("embedding_learning_rate", "head_learning_rate", "vector_learning_rate"), None
)
# called with the model; AdamW's defaults are LLaMA's (Touvron et al. 2023, section 2.3)
OPTIMIZERS: Mapping[str, Choice] = MappingProxyType(
    {
        "adamw": Choice(
            "",
            "puna.training.optimizer:adamw",
            learning_rate=3e-4,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            **_RATES,
        ),
        "muon": Choice(
            "",
            "puna.training.optimizer:muon_and_adamw",
            learning_rate=3e-4,
            muon_learning_rate=0.02,
            muon_momentum=0.95,
            muon_coefficients="jordan",
            muon_iterations=5,
            cautious_decay=False,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            **_RATES,
        ),
        # He et al. 2016, section 3.4
        "sgd": Choice(
            "",
            "puna.training.optimizer:sgd",
            learning_rate=0.1,
            momentum=Field(
                0.9, ge=0, lt=1, description="share of the last update's direction that stays"
            ),
            weight_decay=1e-4,
            **_RATES,
        ),
    }
)


@with_options
class OptimizerRecipe(ChoosingConfig):
    """AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest, or SGD;
    and the schedule of their learning rates.
    """

    families: ClassVar[dict[str, Table]] = {"name": OPTIMIZERS, "schedule": SCHEDULES}
    late_options: ClassVar[frozenset[str]] = frozenset(
        {"warmup_ratio", "decay_share", "cautious_decay", *_RATES}
        | {"muon_momentum", "muon_coefficients", "muon_iterations"}
    )

    name: Annotated[str, named(OPTIMIZERS)] = "adamw"
    learning_rate: float = Field(
        default=3e-4, gt=0, description="AdamW's or SGD's, at the schedule's top"
    )
    muon_learning_rate: float = Field(
        default=0.02, gt=0, description="Muon's, at the schedule's top"
    )
    muon_momentum: float = Field(
        default=0.95, ge=0, lt=1, description="share of the last updates' direction that stays"
    )
    muon_coefficients: Literal["jordan", "polar_express"] = Field(
        default="jordan", description="of Muon's Newton-Schulz steps"
    )
    muon_iterations: int = Field(default=5, ge=1, le=16, description="Newton-Schulz steps")
    embedding_learning_rate: float | None = Field(
        default=None, gt=0, description="the embeddings'; left out: learning_rate"
    )
    head_learning_rate: float | None = Field(
        default=None, gt=0, description="an output layer's of its own; left out: learning_rate"
    )
    vector_learning_rate: float | None = Field(
        default=None, gt=0, description="that of norms and biases; left out: learning_rate"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.95), strict=False)
    weight_decay: float = Field(default=0.1, ge=0, description="on matrices only")
    cautious_decay: bool = Field(
        default=False, description="Muon's decay only where the update shrinks the weight too"
    )
    schedule: Annotated[str, named(SCHEDULES)] = "cosine"
    warmup_steps: int = Field(default=100, ge=0)
    warmup_ratio: float | None = Field(
        default=None, ge=0, lt=1, description="of all steps, in place of warmup_steps"
    )
    final_factor: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="learning rate that the schedule falls to, relative to the top; the last update"
        " is one step short of it",
    )
    decay_share: float = Field(
        default=0.2, gt=0, le=1, description="part of the run, its last, in which wsd falls"
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="gradients longer than this are scaled down to it"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_its_choices(cls, values: Any) -> Any:
        return cls.with_defaults(values) if isinstance(values, dict) else values

    def warmup(self, steps: int) -> int:
        """Steps of warm-up in a run of `steps`."""
        return self.warmup_steps if self.warmup_ratio is None else round(self.warmup_ratio * steps)

    def factor(self, step: int, steps: int, position: float | None = None) -> float:
        """The factor on the learning rates at `step` of `steps`. position: place in the schedule,
        in steps; left out: `step`.
        """
        return learning_rate_factor(
            step if self.warmup_ratio is None or position is None else position,
            position=position,
            schedule=self.schedule,
            steps=steps,
            warmup=self.warmup(steps),
            **SCHEDULES[self.schedule].values(self),
        )


class TrainRecipe(Config):
    """The length of a run, its batches, and the files that it keeps."""

    steps: int = Field(gt=0)
    minutes: float | None = _later_key(
        None,
        gt=0,
        description="time budget of the run, which then has as many steps as fit; left out: none",
    )
    batch_size: int = Field(default=8, gt=0, description="sequences a step")
    micro_batch_size: int | None = Field(
        default=None, gt=0, description="sequences at once; left out: the whole batch"
    )
    context_length: int | None = Field(
        default=None, gt=0, description="tokens a sequence; left out: the model's context"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the matrix products; weights stay fp32"
    )
    compile: bool = Field(
        default=False, description="torch.compile the model: slower to start, then faster"
    )
    isa: Isa = _later_key(
        "auto",
        description="code of the native core on a CPU: auto takes the fastest tier, torch none",
    )
    shards: Annotated[int, Field(gt=0)] | Literal["all"] = _later_key(
        1, description="processes that share the weights of one model: 1 holds them whole"
    )
    replicas: int | None = _later_key(None, gt=0, description="such groups of processes")
    mask_documents: bool = Field(
        default=False, description="attention stays inside a document, where a window holds several"
    )
    activation_checkpointing: bool = Field(
        default=False, description="recompute blocks in the backward pass: less memory, 1/3 slower"
    )
    log_every: int = Field(default=10, gt=0, description="steps")
    validate_every: int = Field(default=100, gt=0, description="steps")
    validation_tokens: int = Field(
        default=100_000, gt=0, description="at most, for each validation during training"
    )
    checkpoint_every: int = Field(default=100, gt=0, description="steps")
    keep_last: int = Field(default=2, gt=0, description="checkpoints, besides the best one")
    init_from: str | None = _later_key(
        None,
        description="model folder whose weights the run starts from; left out: as model.init says",
    )


class Recipe(Config):
    """One run. `model.vocab_size` follows the tokenizer's unless it is given."""

    run: str | None = Field(
        default=None, description="run folder; left out: runs/<the recipe's file name>"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the weights and of the data order")
    tokenizer: TokenizerRecipe
    data: DataRecipe
    model: ModelConfig
    optimizer: OptimizerRecipe = OptimizerRecipe()
    train: TrainRecipe

    @model_validator(mode="before")
    @classmethod
    def _vocabulary(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            return values
        tokenizer = values.get("tokenizer")
        size = tokenizer.get("vocab_size", 4096) if isinstance(tokenizer, dict) else 4096
        return {**values, "model": {"vocab_size": size, **values["model"]}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.context_length > self.model.context_length:
            raise ValueError(
                f"train.context_length {self.context_length} exceeds model.context_length"
                f" {self.model.context_length}; raise the latter"
            )
        if self.train.batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} is not a multiple of"
                f" train.micro_batch_size {self.micro_batch_size}"
            )
        if self.train.mask_documents and self.model.lookback:
            raise ValueError(
                f"train.mask_documents cannot stop model.feed_forward {self.model.feed_forward},"
                " which sees the positions before its own, at the start of a document: leave it out"
            )
        if self.model.tie_embeddings and self.optimizer.head_learning_rate is not None:
            raise ValueError(
                f"optimizer.head_learning_rate {self.optimizer.head_learning_rate:g} means nothing"
                " with model.tie_embeddings, where the output layer is the embedding: leave it out,"
                " or give optimizer.embedding_learning_rate"
            )
        if self.optimizer.warmup(self.train.steps) >= self.train.steps:
            ratio = self.optimizer.warmup_ratio
            said = (
                f"warmup_steps {self.optimizer.warmup_steps}"
                if ratio is None
                else f"warmup_ratio {ratio:g}"
            )
            raise ValueError(
                f"optimizer.{said} leaves nothing of train.steps {self.train.steps}; lower it"
            )
        return self

    @property
    def context_length(self) -> int:
        """Tokens a training sequence."""
        return self.train.context_length or self.model.context_length

    @property
    def micro_batch_size(self) -> int:
        """Sequences that go through the model at once."""
        return self.train.micro_batch_size or self.train.batch_size

    @property
    def tokens_per_step(self) -> int:
        """Target tokens of one update."""
        return self.train.batch_size * self.context_length


def read_recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    """Read a recipe and apply `section.key=value` overrides. Raises ConfigError that names the
    nearest key.
    """
    return overridden_recipe({"run": f"runs/{path.stem}", **read_yaml(path)}, overrides, str(path))


def overridden_recipe(values: dict[str, Any], overrides: Sequence[str], origin: str) -> Recipe:
    """The recipe of these values with overrides. Raises ConfigError as `validate`, and for an
    override that the choices ignore, also where the values are a stored recipe, which may hold one.
    """
    recipe = validate(Recipe, apply_overrides(values, overrides), origin)
    if ignored := ignored_overrides(recipe, apply_overrides({}, overrides), values):
        raise ConfigError(f"{origin}: {'; '.join(ignored)}")
    return recipe
