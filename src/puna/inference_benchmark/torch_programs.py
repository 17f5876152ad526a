"""PyTorch's executor on a shape or a folder, and PyTorch's dynamic int8 products on a shape."""

import time
import warnings
from pathlib import Path

import torch
from torch import Tensor

from puna.formats.model_path import open_model
from puna.inference.torch_executor import TorchExecutor
from puna.inference_benchmark.workload import Workload
from puna.model.config import ModelConfig
from puna.model.transformer import Transformer

STD = 0.02
"""Standard deviation of random weights."""


def torch_executor(
    config: ModelConfig,
    folder: Path | None,
    dtype: str,
    threads: int,
    blocks: int,
    block_size: int,
    *,
    int8_cache: bool,
) -> TorchExecutor:
    """PyTorch's executor in a dtype by name, of a folder's model or of a shape's random weights.
    int8_cache: keys and values in int8.
    """
    torch.set_num_threads(threads)
    chosen: torch.dtype = getattr(torch, dtype)
    model = open_model(folder, "cpu", chosen)[0] if folder else random_model(config, chosen)
    return TorchExecutor(model, num_blocks=blocks, block_size=block_size, int8_cache=int8_cache)


def random_model(config: ModelConfig, dtype: torch.dtype) -> Transformer:
    """A model with normal weights and unit norms, in evaluation mode."""
    torch.manual_seed(0)
    model = Transformer(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=STD)
            else:
                parameter.fill_(1.0)
    return model.eval()


class DynamicInt8:
    """The products of a prompt by PyTorch's dynamic int8 linear layer, and nothing else: weights in
    8 bits with a scale a row, activations quantized at each call.

    What stands between the products is left out, which is to its advantage. Weights of q, k and v
    are one matrix, gate and up too. Sums saturate in 16 bits without VNNI, so there a bit of the
    activations is given up, as PyTorch's own layer does.
    """

    def __init__(self, config: ModelConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        heads = config.num_heads * config.head_width
        keys = config.num_kv_heads * config.head_width
        width, hidden = config.width, config.feed_forward_width
        shapes = [
            (heads + 2 * keys, width),
            (width, heads),
            (2 * hidden, width),
            (width, hidden),
        ]
        self._layers = [[_packed(*shape) for shape in shapes] for _ in range(config.num_layers)]
        self._output = _packed(config.vocab_size, width)
        self._reduce = "avx512_vnni" not in _capabilities()
        self._widths = [columns for _, columns in shapes]

    def seconds(self, work: Workload, *, speculate: bool = False) -> float:
        """Seconds of a prompt's products; the output layer for one row."""
        assert work.kind == "prefill", f"only the products of a prompt are measured: {work}"
        assert not speculate, "there is no text to draft from"
        inputs = [torch.randn(work.tokens, width) for width in self._widths]
        linear = torch.ops.quantized.linear_dynamic
        begin = time.perf_counter()
        for layer in self._layers:
            for weight, states in zip(layer, inputs, strict=True):
                linear(states, weight, self._reduce)
        linear(inputs[0][-1:], self._output, self._reduce)
        return time.perf_counter() - begin


def _capabilities() -> set[str]:
    return {name for name, has in torch.cpu.get_capabilities().items() if has}


def _packed(rows: int, columns: int) -> object:
    weight = torch.randn(rows, columns) * STD
    scales = weight.abs().amax(1) / 127
    zeros = torch.zeros(rows, dtype=torch.long)
    with warnings.catch_warnings():  # of torch.ao, which is to move into torchao
        warnings.simplefilter("ignore")
        quantized: Tensor = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(quantized, None)
