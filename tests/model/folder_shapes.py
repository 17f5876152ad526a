"""The shapes in which model folders of LLaMA's relatives come, each made with transformers at a
tiny width, opened by Puna, and held against transformers' logits.

    python tests/model/folder_shapes.py

prints the table: shape, and the largest difference of the logits or the message that refuses it.
`SHAPES` is what the tests run (test_folder_shapes.py).
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from puna.errors import ModelFolderError
from puna.model.weights import read_model

SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.4],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 32,
}
LENGTH = 24
TOLERANCE = 2e-5
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Shape:
    """One folder: a configuration of transformers, what is done to the folder after it was written,
    and what is expected.

    original: compare with the model that was written, because transformers does not open the
    changed folder, or not as it was meant. refusal: words of the message; empty: it loads.
    """

    name: str
    model_type: str
    keys: dict[str, Any] = field(default_factory=dict)
    change: Change | None = None
    original: bool = False
    refusal: str = ""
    dtype: torch.dtype = torch.float32
    shard: str = "1GB"


def keys_set(**keys: Any) -> Change:
    """Set keys of config.json; `...` removes one."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text()) | keys
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))

    return change


def tensors_changed(edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Change:
    """Write the tensors anew."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(edit(load_file(path)), path, {"format": "pt"})

    return change


def renamed(rename: Callable[[str], str]) -> Change:
    return tensors_changed(lambda tensors: {rename(k): v for k, v in tensors.items()})


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


def with_other_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].flip(0).contiguous()}


def with_buffers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
        "model.rotary_emb.inv_freq": torch.zeros(4),
        "model.layers.0.self_attn.bias": torch.zeros(1, 1, 64, 64),
        "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
    }
    return tensors | extra


def old_rope(scaling: dict[str, Any] | None, **keys: Any) -> Change:
    """The spelling of transformers 4: rope_theta and rope_scaling."""
    theta = keys.pop("rope_theta", 10000.0)
    return keys_set(rope_parameters=..., rope_theta=theta, rope_scaling=scaling, **keys)


def file_renamed(name: str) -> Change:
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


def cut(count: int) -> Change:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:count])

    return change


def written(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content) and None


def removed(pattern: str) -> Change:
    def change(folder: Path) -> None:
        for path in sorted(folder.glob(pattern)):
            path.unlink()

    return change


def into_hub_cache(folder: Path) -> None:
    """Move the files to blobs, and link to them from a snapshot, as the hub's cache has them."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0a1b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in [path for path in folder.iterdir() if path.is_file()]:
        shutil.move(path, blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob-{path.name}")


def linked_outside(folder: Path) -> None:
    outside = Path(tempfile.mkdtemp(dir=folder.parent)) / "other.safetensors"
    shutil.move(folder / "model.safetensors", outside)
    (folder / "model.safetensors").symlink_to(outside)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def padded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    embedding = tensors["model.embed_tokens.weight"]
    return tensors | {"model.embed_tokens.weight": torch.cat((embedding, embedding[:1]))}


def activations() -> Iterator[Shape]:
    gated = ("swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python")
    for name in (*gated, "gelu_accurate", "quick_gelu", "relu", "sigmoid", "linear"):
        yield Shape(f"llama, hidden_act {name}", "llama", {"hidden_act": name})
    for name in ("silu", "gelu", "gelu_pytorch_tanh", "relu", "quick_gelu"):
        yield Shape(f"arcee, hidden_act {name}", "arcee", {"hidden_act": name})
    for name in ("mish", "tanh", "relu2"):
        yield Shape(
            f"llama, hidden_act {name}",
            "llama",
            {"hidden_act": name},
            refusal=f"hidden_act = '{name}' (only",
        )


def rotations() -> Iterator[Shape]:
    for name, scaling in {
        "linear": {"rope_type": "linear", "factor": 2.0},
        "dynamic": {"rope_type": "dynamic", "factor": 2.0},
        "llama3": LLAMA3,
        "yarn": YARN,
        "yarn, attention_factor 1.0": {**YARN, "attention_factor": 1.0},
        "yarn, attention_factor 1.3": {**YARN, "attention_factor": 1.3},
        "yarn, mscale": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
        "yarn, truncate false": {**YARN, "truncate": False, "beta_fast": 4.0},
        "longrope": LONG,
    }.items():
        parameters = {**scaling, "rope_theta": 500000.0}
        yield Shape(f"llama, rope {name}", "llama", {"rope_parameters": parameters})
    yield Shape("llama, rope_theta beside", "llama", change=old_rope(None, rope_theta=500.0))
    yield Shape(
        "llama, rope type llama3 (old)",
        "llama",
        change=old_rope({**LLAMA3, "type": "llama3", "rope_theta": 5000.0}),
    )
    for name, scaling in {"llama3": LLAMA3, "yarn": YARN}.items():
        inner = {k: v for k, v in scaling.items() if not k.startswith("original")}
        yield Shape(
            f"llama, rope {name}, original context beside",
            "llama",
            change=old_rope(inner, original_max_position_embeddings=16),
        )
        yield Shape(
            f"llama, rope {name}, original context beside and inside",
            "llama",
            change=old_rope(scaling, original_max_position_embeddings=8),
        )
        yield Shape(f"llama, rope {name}, no original context", "llama", change=old_rope(inner))
    yield Shape("llama, yarn with factor null", "llama", change=old_rope({**YARN, "factor": None}))
    yield Shape(
        "llama, rope_scaling and rope_parameters agree",
        "llama",
        {"rope_parameters": {**YARN, "rope_theta": 10000.0}},
        change=keys_set(rope_scaling=YARN),
    )
    yield Shape(
        "llama, rope_scaling beside another rope_parameters",
        "llama",
        {"rope_parameters": {**LLAMA3, "rope_theta": 10000.0}},
        change=keys_set(rope_scaling=YARN),
        refusal="which says otherwise",
    )
    yield Shape(
        "llama, partial_rotary_factor",
        "llama",
        change=keys_set(partial_rotary_factor=0.5),
        refusal="partial_rotary_factor = 0.5",
    )
    yield Shape(
        "llama, rope of unknown kind",
        "llama",
        change=old_rope({"rope_type": "mrope", "mrope_section": [1, 1, 2]}),
        refusal="rope scaling 'mrope' (only",
    )


def families() -> Iterator[Shape]:
    yield Shape("llama", "llama")
    yield Shape("llama, tied", "llama", {"tie_word_embeddings": True})
    yield Shape("llama, attention_bias", "llama", {"attention_bias": True})
    yield Shape("llama, mlp_bias", "llama", {"mlp_bias": True})
    yield Shape("llama, all biases", "llama", {"attention_bias": True, "mlp_bias": True})
    yield Shape("llama, head_dim of its own", "llama", {"head_dim": 12})
    yield Shape("llama, multi-head", "llama", {"num_key_value_heads": 4})
    yield Shape("llama, sliding_window (ignored)", "llama", change=keys_set(sliding_window=4))
    yield Shape("mistral", "mistral", {"sliding_window": None})
    yield Shape("mistral, window", "mistral", {"sliding_window": 5})
    yield Shape("mistral, window left out", "mistral", change=keys_set(sliding_window=...))
    yield Shape("mistral, window beyond the context", "mistral", {"sliding_window": 4096})
    yield Shape("mistral, head_dim", "mistral", {"sliding_window": 7, "head_dim": 16})
    window = {"use_sliding_window": True, "sliding_window": 6}
    for name in ("qwen2", "qwen3"):
        yield Shape(name, name)
        yield Shape(f"{name}, tied", name, {"tie_word_embeddings": True})
        yield Shape(f"{name}, window in all layers", name, {**window, "max_window_layers": 0})
        yield Shape(f"{name}, window in no layer", name, {**window, "max_window_layers": 4})
        yield Shape(f"{name}, window switched off", name, {"sliding_window": 6})
        yield Shape(
            f"{name}, window in two layers",
            name,
            {**window, "max_window_layers": 2},
            refusal="sliding_window = 6 in 2 of 4 layers",
        )
    yield Shape("qwen2, yarn", "qwen2", {"rope_parameters": {**YARN, "rope_theta": 1e6}})
    yield Shape("qwen3, attention_bias", "qwen3", {"attention_bias": True, "head_dim": 8})
    yield Shape("smollm3", "smollm3")
    yield Shape("smollm3, no_rope_layers", "smollm3", {"no_rope_layers": [1, 0, 0, 1]})
    yield Shape("smollm3, interval", "smollm3", {"no_rope_layer_interval": 2})
    yield Shape("smollm3, all turn", "smollm3", {"no_rope_layers": [1, 1, 1, 1]})
    yield Shape(
        "smollm3, biases, not tied",
        "smollm3",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    )
    multipliers = {
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.4,
        "logits_scaling": 8.0,
    }
    yield Shape("granite", "granite", multipliers)
    yield Shape("granite, tied", "granite", {**multipliers, "tie_word_embeddings": True})
    biases = {"attention_bias": True, "mlp_bias": True}
    yield Shape("granite, biases", "granite", {**multipliers, **biases})
    yield Shape("granite, no multipliers", "granite")
    yield Shape("olmo2", "olmo2")
    yield Shape(
        "olmo2, biases, tied", "olmo2", {"attention_bias": True, "tie_word_embeddings": True}
    )
    yield Shape("arcee", "arcee")
    yield Shape("arcee, biases", "arcee", biases)
    yield Shape("arcee, yarn", "arcee", {"rope_parameters": {**YARN, "rope_theta": 1e4}})
    yield Shape("phi3", "phi3")
    yield Shape("phi3, window", "phi3", {"sliding_window": 5})
    yield Shape(
        "phi3, longrope",
        "phi3",
        {"rope_parameters": {**LONG, "rope_theta": 1e4}, "original_max_position_embeddings": 32},
    )
    yield Shape(
        "phi3, partial rotary",
        "phi3",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    )
    yield Shape(
        "phi3, partial rotary, longrope",
        "phi3",
        {
            "rope_parameters": {
                **LONG,
                "short_factor": [1.0, 1.5, 2.0],
                "long_factor": [1.0, 2.0, 3.0],
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
            },
            "original_max_position_embeddings": 32,
        },
    )
    for name in ("gemma", "olmo", "stablelm", "cohere", "gpt_neox"):
        yield Shape(name, name, refusal=f"model_type = '{name}' (only 'llama', 'mistral'")
    yield Shape(
        "mixtral", "mixtral", {"num_local_experts": 2}, refusal="model_type = 'mixtral' (only"
    )


def spellings() -> Iterator[Shape]:
    absent = keys_set(model_type=...)
    yield Shape("no model_type, architectures", "llama", change=absent, original=True)
    yield Shape(
        "no model_type, MistralForCausalLM with a window",
        "mistral",
        {"sliding_window": 5},
        change=absent,
        original=True,
    )
    yield Shape(
        "no model_type, no architectures, a window",
        "mistral",
        {"sliding_window": 5},
        change=keys_set(model_type=..., architectures=...),
        refusal="say the model_type",
    )
    yield Shape(
        "numbers as text",
        "llama",
        change=keys_set(
            hidden_size="32", rms_norm_eps="1e-6", rope_parameters=..., rope_theta="1e4"
        ),
        original=True,
    )
    yield Shape("switches that are null", "llama", change=keys_set(mlp_bias=None), original=True)
    yield Shape(
        "key/value heads null",
        "llama",
        {"num_key_value_heads": 4},
        change=keys_set(num_key_value_heads=None),
    )
    yield Shape(
        "rms_norm_eps null", "llama", change=keys_set(rms_norm_eps=None), refusal="norm_eps = None"
    )
    yield Shape(
        "key missing",
        "llama",
        change=keys_set(hidden_size=...),
        refusal="lacks the key 'hidden_size'",
    )
    tie = keys_set(tie_word_embeddings=...)
    yield Shape("tie absent, head in the file", "llama", change=tie)
    yield Shape(
        "tie absent, no head in the file",
        "llama",
        {"tie_word_embeddings": True},
        change=tie,
        original=True,
    )
    yield Shape(
        "tie false, no head in the file",
        "llama",
        change=tensors_changed(without_head),
        refusal="lm_head.weight is missing",
    )
    yield Shape(
        "tied, the same head in the file",
        "llama",
        {"tie_word_embeddings": True},
        change=tensors_changed(
            lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()}
        ),
    )
    yield Shape(
        "tied, another head in the file",
        "llama",
        {"tie_word_embeddings": True},
        change=tensors_changed(with_other_head),
    )
    yield Shape(
        "tied, only the head in the file",
        "llama",
        {"tie_word_embeddings": True},
        change=renamed(lambda n: n.replace("model.embed_tokens", "lm_head")),
    )
    yield Shape(
        "a padding row too many",
        "llama",
        change=tensors_changed(padded),
        refusal="shape [49, 32] instead of [48, 32]",
    )
    for dtype in (torch.float16, torch.bfloat16):
        yield Shape(f"llama, {dtype}", "llama", dtype=dtype)


def files() -> Iterator[Shape]:
    yield Shape("shards with an index", "llama", shard="20KB")
    yield Shape(
        "shards without an index",
        "llama",
        shard="20KB",
        change=removed("*.index.json"),
        original=True,
    )
    yield Shape(
        "a shard missing, no index",
        "llama",
        shard="20KB",
        change=both(removed("*.index.json"), removed("model-00001*")),
        refusal="copy the others too",
    )
    yield Shape(
        "weights of another name",
        "llama",
        change=file_renamed("weights.safetensors"),
        original=True,
    )
    yield Shape(
        "names with _orig_mod.", "llama", change=renamed(lambda n: f"_orig_mod.{n}"), original=True
    )
    yield Shape(
        "names with _orig_mod. inside",
        "llama",
        change=renamed(lambda n: n.replace(".mlp.", "._orig_mod.mlp.")),
        original=True,
    )
    yield Shape(
        "names with module.", "llama", change=renamed(lambda n: f"module.{n}"), original=True
    )
    yield Shape("names without model.", "llama", change=renamed(lambda n: n.removeprefix("model.")))
    yield Shape("extra buffers", "llama", change=tensors_changed(with_buffers))
    yield Shape("hub cache", "llama", change=into_hub_cache, original=True)
    yield Shape(
        "a link out of the folder",
        "llama",
        change=linked_outside,
        refusal="lies outside of the model's folder",
    )
    yield Shape("pickles alone", "llama", change=pickled, refusal="which can run code when opened")
    yield Shape("truncated", "llama", change=cut(3000), refusal="not a whole safetensors file")
    yield Shape(
        "an impossible header",
        "llama",
        change=written("model.safetensors", (2**60).to_bytes(8, "little") + b"{}"),
        refusal="not a whole safetensors file",
    )
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    yield Shape(
        "a Git LFS pointer",
        "llama",
        change=written("model.safetensors", pointer),
        refusal="type git lfs pull",
    )
    yield Shape(
        "a config that is a Git LFS pointer",
        "llama",
        change=written("config.json", pointer),
        refusal="type git lfs pull",
    )
    yield Shape(
        "a LoRA adapter",
        "llama",
        change=both(removed("config.json"), written("adapter_config.json", b"{}")),
        refusal="it is a LoRA adapter",
    )
    yield Shape(
        "a GGUF file",
        "llama",
        change=both(removed("config.json"), written("m.gguf", b"GGUF")),
        refusal="type puna import",
    )
    yield Shape(
        "a Meta checkpoint",
        "llama",
        change=both(
            removed("config.json"),
            written("params.json", b"{}"),
            written("consolidated.00.pth", b"PK"),
        ),
        refusal="a checkpoint in Meta's layout: type puna import",
    )
    yield Shape(
        "Meta's names",
        "llama",
        change=renamed(lambda n: n.replace("embed_tokens", "tok_embeddings")),
        refusal="a checkpoint in Meta's layout",
    )
    yield Shape(
        "biases that are not announced",
        "qwen2",
        change=keys_set(model_type="llama"),
        refusal="a model with biases in attention",
    )
    yield Shape(
        "QK-norm that is not announced",
        "qwen3",
        change=keys_set(model_type="llama"),
        refusal="perhaps qwen3 or olmo2",
    )
    yield Shape(
        "merged matrices that are not announced",
        "phi3",
        change=keys_set(model_type="llama"),
        refusal="perhaps phi3",
    )
    yield Shape(
        "integers without a scale",
        "llama",
        change=tensors_changed(lambda t: {k: v.to(torch.int8) for k, v in t.items()}),
        refusal="holds I8, which are no weights by themselves",
    )


SHAPES = [*families(), *activations(), *rotations(), *spellings(), *files()]


def random_model(shape: Shape) -> Any:
    """transformers' model of this shape, with weights that leave their mark on the logits."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape.model_type, **{**SIZES, **shape.keys})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.15 * noise)
    return model.to(shape.dtype)


def difference(shape: Shape, folder: Path) -> float:
    """The largest difference between Puna's logits and transformers', on texts as long as the
    context allows. Raises ModelFolderError where the folder is refused.
    """
    theirs = random_model(shape)
    theirs.save_pretrained(folder, max_shard_size=shape.shard)
    if shape.change is not None:
        shape.change(folder)
    ours = read_model(folder)
    if not shape.original and not shape.refusal:
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=shape.dtype).eval()
    ids = torch.randint(3, 48, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((ours(ids) - theirs(ids).logits).abs().max())


def quietly() -> None:
    """Keep transformers from telling about every folder."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def main() -> None:
    quietly()
    wrong = 0
    print("| shape | transformers' logits |\n|---|---|")
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "model"
            try:
                largest = difference(shape, folder)
                said = f"equal, {largest:.0e}"
                wrong += bool(shape.refusal) or largest > tolerance(shape)
            except ModelFolderError as error:
                said = f"refused: {str(error).replace(parent, '')}"
                wrong += not shape.refusal or shape.refusal not in said
        print(f"| {shape.name} | {said} |")
    print(f"\n{len(SHAPES)} shapes, {wrong} not as expected")
    sys.exit(bool(wrong))


def tolerance(shape: Shape) -> float:
    """Of the logits, which are of size 1: float32's rounding, or that of the folder's dtype."""
    return {torch.float16: 0.02, torch.bfloat16: 0.15}.get(shape.dtype, TOLERANCE)


if __name__ == "__main__":
    main()
