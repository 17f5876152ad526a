"""The tensors of a model folder by their names in LlamaForCausalLM, read one at a time.

A tensor is described without being read: shape, dtype, and a function that gives it. What is
stored in another form (merged, scaled, quantized) is described by such functions of others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from puna.errors import ModelFolderError

# of safetensors' names those that hold weights as they are
FLOATS: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# What programs put around the names: torch.compile, checkpointing, data parallelism
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# Ends of the names of buffers that follow from the configuration: RoPE's frequencies and tables,
# the causal mask
BUFFERS = (
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    ".self_attn.bias",
    ".self_attn.masked_bias",
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not read yet. dtype: as safetensors calls it, such as BF16."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor]

    def times(self, factor: float) -> "StoredTensor":
        """The same tensor times a number: float32 arithmetic, rounded once."""
        if factor == 1:
            return self

        def read() -> Tensor:
            tensor = self.read()
            return (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * factor).to(
                tensor.dtype
            )

        return replace(self, read=read)

    def rows(self, start: int, stop: int) -> "StoredTensor":
        """Some of its rows."""
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            read=lambda: self.read()[start:stop].clone(),
        )


class _OpenFile:
    """One safetensors file open at a time, so that memory maps no second one."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None

    def tensor(self, path: Path, name: str) -> Tensor:
        """One tensor of a file."""
        tensor: Tensor = self.of(path).get_tensor(name)
        return tensor

    def of(self, path: Path) -> Any:
        """The open file of this path. Raises ModelFolderError."""
        if path != self._path:
            try:
                self._path, self._file = None, safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ModelFolderError(
                    f"{path} is not a whole safetensors file: {error}"
                ) from error
            self._path = path
        return self._file


def stored_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """All tensors of the files by their plain names; buffers that follow from the configuration are
    left out.

    Raises ModelFolderError for a damaged file, and for a name that two tensors have.
    """
    shared = _OpenFile()
    stored: dict[str, StoredTensor] = {}
    for path in files:
        file = shared.of(path)
        for name in file.keys():  # noqa: SIM118  (not a dict)
            plain = plain_name(name)
            if plain.endswith(BUFFERS):
                continue
            if plain in stored:
                raise ModelFolderError(
                    f"{path} holds {name}, but {plain} is there already: keep one of the two"
                )
            view = file.get_slice(name)
            stored[plain] = StoredTensor(
                tuple(view.get_shape()),
                view.get_dtype(),
                partial(shared.tensor, path, name),
            )
    return stored


def plain_name(name: str) -> str:
    """The name in LlamaForCausalLM of a tensor that another program wrapped or cut short."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    name = name.removeprefix("module.")
    if name.startswith(("model.model.", "model.lm_head.")):
        name = name.removeprefix("model.")
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"
