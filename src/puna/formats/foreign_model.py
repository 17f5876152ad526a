"""A model in another program's file: its shape, its weights one at a time, its tokenizer.

Every reader of this package returns one, with the names and the rotary layout that models here
have; nothing large is in memory until `build`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from puna.errors import ModelFolderError
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer, build_transformer, with_memory
from puna.model.weights import named_tensors
from puna.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class ForeignModel:
    """A model read from another program's file."""

    config: ModelConfig
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]
    """All weights by their names in LlamaForCausalLM's state dict, rotary halves as `rotate` takes
    them; each may be a view of the file.
    """
    tokenizer: Tokenizer | None
    bos_id: int | None
    eos_ids: tuple[int, ...]

    def build(
        self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> Transformer:
        """The model in evaluation mode; dtype left out: the file's, or float32 where it has
        several. Beside the model, memory holds one tensor.

        Raises ModelFolderError for a weight that is missing, unexpected, double or misshapen.
        """
        meta = build_transformer(self.config, "meta")
        model: Transformer | None = None
        parameters: dict[str, Tensor] = {}
        filled: set[str] = set()
        for name, tensor in self.tensors():
            if model is None:
                model = with_memory(meta.to(dtype or tensor.dtype), device)
                parameters = dict(named_tensors(model))
            elif dtype is None and tensor.dtype != model.output_weight.dtype:
                model = model.float()  # float16 and bfloat16 are exact in it
            if name not in parameters or name in filled:
                raise ModelFolderError(f"the weight {name} is unexpected: the file is damaged")
            if parameters[name].shape != tensor.shape:
                raise ModelFolderError(
                    f"the weight {name} has shape {list(tensor.shape)} instead of"
                    f" {list(parameters[name].shape)}: the file is damaged"
                )
            with torch.no_grad():
                parameters[name].copy_(tensor)
            filled.add(name)
        missing = sorted(parameters.keys() - filled)
        if model is None or missing:
            raise ModelFolderError(
                f"the file lacks the weight {missing[0] if missing else 'of every layer'}: copy it"
                " again"
            )
        return model.eval()
