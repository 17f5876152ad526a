"""GGUF files of the shapes of `puna bench inference` with random weights, for llama.cpp's programs.

    python benchmarks/peers/gguf_random.py FOLDER SHAPE...

Writes FOLDER/SHAPE-TYPE.gguf for the types bf16, q8_0 and q4_0, all matrices in the same type; one
that exists is left. The vocabulary has pieces without meaning: speed does not depend on them.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np

from puna.inference_benchmark.peers import GGUF_TYPES
from puna.inference_benchmark.subject import shapes
from puna.model.config import ModelConfig

STD = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("shapes", nargs="+", choices=list(shapes()))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.shapes:
        for kind in GGUF_TYPES.values():
            path = options.folder / f"{name}-{kind}.gguf"
            if not path.exists():
                write(path, shapes()[name], kind)
            print(path, flush=True)


def write(path: Path, config: ModelConfig, kind: str) -> None:
    """One file; its name is given to it when it is whole."""
    aside = path.with_suffix(".part")
    writer = gguf.GGUFWriter(aside, "llama")
    add_shape(writer, config)
    add_vocabulary(writer, config.vocab_size)
    quantization = gguf.GGMLQuantizationType[kind.upper()]
    rng = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = rng.standard_normal((rows, columns), dtype=np.float32) * STD
        writer.add_tensor(name, gguf.quants.quantize(values, quantization), raw_dtype=quantization)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(config.width, np.float32))

    width, hidden = config.width, config.feed_forward_width
    heads = config.num_heads * config.head_width
    keys = config.num_kv_heads * config.head_width
    matrix("token_embd.weight", config.vocab_size, width)
    for layer in range(config.num_layers):
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
        for part, rows, columns in (
            ("attn_q", heads, width),
            ("attn_k", keys, width),
            ("attn_v", keys, width),
            ("attn_output", width, heads),
            ("ffn_gate", hidden, width),
            ("ffn_up", hidden, width),
            ("ffn_down", width, hidden),
        ):
            matrix(f"blk.{layer}.{part}.weight", rows, columns)
    norm("output_norm.weight")
    if not config.tie_embeddings:
        matrix("output.weight", config.vocab_size, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    aside.rename(path)


def add_shape(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.feed_forward_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_vocab_size(config.vocab_size)


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """LLaMA's: three special tokens, the bytes, and words t0, t1, ..."""
    kinds = gguf.TokenType
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    left = size - len(words)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [word.encode() for word in words] + [b"\xe2\x96\x81t%d" % i for i in range(left)]
    )
    writer.add_token_scores([-float(i) for i in range(size)])
    writer.add_token_types([int(kind) for kind in types] + [int(kinds.NORMAL)] * left)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


if __name__ == "__main__":
    main()
