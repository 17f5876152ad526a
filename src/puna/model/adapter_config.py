"""The adapter_config.json of a LoRA adapter, as PEFT writes it: what it says of each layer, and
what is rejected.

A key that would change what the adapter computes is honoured or rejected, never passed over; so is
a key that is not known here, unless it is empty. Not here: the tensors (model/adapters.py).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from puna.config import Config, validate
from puna.errors import ConfigError, ModelFolderError

CONFIG = "adapter_config.json"
# Keys that say nothing about what the adapter computes once it is trained, or that only count
# beside another key, which is rejected
INERT = frozenset(
    {
        "auto_mapping",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
BY_PEFT = (
    "if PEFT can apply it, merge it there (merge_and_unload, then save_pretrained) and use the"
    " merged folder"
)

V = TypeVar("V")


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


class AdapterConfig(Config):
    """The keys of an adapter_config.json that decide the result; the keys and their meaning are
    those of PEFT's `LoraConfig`.
    """

    peft_type: Literal["LORA"]
    r: int = Field(gt=0, description="rank")
    lora_alpha: float
    target_modules: str | list[str] = Field(
        description="a regex for whole names, ends of names, or all-linear"
    )
    exclude_modules: str | list[str] = Field(default=[])
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Literal["layers"] | list[Literal["layers"]] = Field(
        default="layers", description="what the list of blocks is called"
    )
    use_rslora: bool = Field(default=False, description="alpha / sqrt(r) in place of alpha / r")
    rank_pattern: dict[str, Annotated[int, Field(gt=0)]] = Field(
        default={}, description="r by regexes for ends of names"
    )
    alpha_pattern: dict[str, float] = Field(default={}, description="lora_alpha likewise")
    bias: Literal["none"] = "none"
    fan_in_fan_out: Literal[False] = False
    # PiSSA, OLoRA, CorDA and LoftQ rewrite the model's weights before training: such an adapter is
    # none of the model that is on disk
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True
    base_model_name_or_path: str = ""

    @field_validator("target_modules", "exclude_modules")
    @classmethod
    def _compiles(cls, modules: str | list[str]) -> str | list[str]:
        return _regex(modules) if isinstance(modules, str) else modules

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _all_compile(cls, patterns: dict[str, Any]) -> dict[str, Any]:
        return {_regex(pattern): value for pattern, value in patterns.items()}

    @model_validator(mode="after")
    def _layers_of_a_list(self) -> "AdapterConfig":
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                "layers_to_transform goes with a list of target_modules, not with a regex,"
                " which can say it itself"
            )
        return self

    def targets(self, name: str, *, linear: bool) -> bool:
        """True where the module of this name in LlamaForCausalLM has an adapter; linear: whether it
        is a linear layer of a block.
        """
        if _matches(self.exclude_modules, name):
            return False
        if isinstance(self.target_modules, str):
            return (
                linear
                if self.target_modules.lower() == "all-linear"
                else _matches(self.target_modules, name)
            )
        # a whole name is meant whatever the layer
        if self.layers_to_transform is None or name in self.target_modules:
            return _matches(self.target_modules, name)
        block = re.search(r"\.layers\.(\d+)\.", name)
        layers = (
            self.layers_to_transform
            if isinstance(self.layers_to_transform, list)
            else [self.layers_to_transform]
        )
        return _matches(self.target_modules, name) and block is not None and int(block[1]) in layers

    def rank(self, name: str) -> int:
        """r of the module of this name."""
        return _by_pattern(self.rank_pattern, name, self.r)

    def scale(self, name: str) -> float:
        """The factor on B A in the module of this name: alpha / r, or alpha / sqrt(r)."""
        rank = self.rank(name)
        return _by_pattern(self.alpha_pattern, name, self.lora_alpha) / (
            rank**0.5 if self.use_rslora else rank
        )


def _matches(modules: str | Sequence[str], name: str) -> bool:
    if isinstance(modules, str):
        return re.fullmatch(modules, name) is not None
    return any(f".{name}".endswith(f".{module}") for module in modules)


def _by_pattern(patterns: Mapping[str, V], name: str, default: V) -> V:
    return next(
        (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name)),
        default,
    )


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The checked adapter_config.json of `folder`. Raises one ModelFolderError with every key that
    cannot be honoured.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelFolderError(
            f"{folder} is no adapter: it has no {CONFIG}; name a folder that PEFT's save_pretrained"
            " wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"cannot read {path}: {error}; copy the adapter again") from error
    if not isinstance(values, dict):
        raise ModelFolderError(
            f"{path} holds {type(values).__name__}, but an {CONFIG} is one object of keys and"
            " values"
        )
    # PEFT writes every key that it has, most of them at a value that means nothing
    said = {
        key: value
        for key, value in values.items()
        if not (value is None or value is False or value in ("", [], {}))
    }
    honoured = {key: value for key, value in said.items() if key in AdapterConfig.model_fields}
    problems = [
        f"{key} = {value!r} is not supported"
        for key, value in said.items()
        if key not in honoured and key not in INERT
    ]
    try:
        config = validate(AdapterConfig, honoured, CONFIG)
    except ConfigError as error:
        problems.append(str(error).removeprefix(f"{CONFIG}: "))
    if problems:
        raise ModelFolderError(
            f"{path} describes an adapter that cannot be applied here: {'; '.join(problems)};"
            f" {BY_PEFT}"
        )
    return config
