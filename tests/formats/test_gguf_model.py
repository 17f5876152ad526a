"""Models from GGUF files and into them: bit by bit there and back, equal to transformers' logits,
and refused with a reason where one side lacks what the other has.
"""

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFReader, GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf_examples import TEXT, logits, model_of, tokenizer_of, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from said import said

from puna.errors import ConfigError, ModelFolderError, PunaError, TokenizerError
from puna.formats import gguf_model
from puna.formats.gguf_file import GGUFFile
from puna.formats.gguf_model import read_gguf, write_gguf
from puna.formats.gguf_rope import DIVISORS, TOLD, unwritable
from puna.formats.gguf_tensors import read_values, to_halves, to_neighbours
from puna.formats.gguf_types import GGUF_TYPES
from puna.model.config import RopeScaling
from puna.model.weights import named_tensors

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "one head": {"num_kv_heads": 1},
    "all heads": {"num_kv_heads": 4, "head_width": 16},
    "biases": {"feed_forward_bias": True},
    "QK-norm": {"qk_norm": True},
    "linear": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "yarn": {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_context": 16}},
    "llama3": {"rope_scaling": {"kind": "llama3", "original_context": 32}, "head_width": 32},
    "llama3 in small heads": {"rope_scaling": {"kind": "llama3", "factor": 3.3}},
    "llama3 of other numbers": {
        "rope_base": 500000.0,
        "head_width": 64,
        "rope_scaling": {
            "kind": "llama3",
            "factor": 32.0,
            "original_context": 512,
            "low_frequency_factor": 2.0,
            "high_frequency_factor": 9.5,
        },
    },
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_there_and_back_is_equal_bit_by_bit(tmp_path: Path, shape: dict[str, Any]) -> None:
    model, tokenizer = model_of(**shape), tokenizer_of()
    write_gguf(tmp_path / "x.gguf", model, tokenizer, "f32")
    foreign = read_gguf(tmp_path / "x.gguf")
    assert foreign.config == model.config
    assert foreign.tokenizer is not None
    assert foreign.tokenizer.hash == tokenizer.hash
    assert foreign.tokenizer.config["chat_template"] == tokenizer.config["chat_template"]
    assert (foreign.bos_id, set(foreign.eos_ids)) == (tokenizer.bos_id, tokenizer.end_ids)
    assert foreign.eos_ids[0] == tokenizer.eos_id
    back = dict(named_tensors(foreign.build()))
    for name, tensor in named_tensors(model):
        assert torch.equal(back[name], tensor), name


LLAMA3 = [
    SHAPES["llama3"],
    SHAPES["llama3 of other numbers"],
    {"rope_scaling": {}, "head_width": 64},
]


@pytest.mark.parametrize("shape", LLAMA3)
def test_llama3s_numbers_are_found_from_the_divisors(tmp_path: Path, shape: Any) -> None:
    """Without the key that only files from here have: the same frequencies, by perhaps other
    numbers, for a context of twice as many turns is the same as factors of half.
    """
    model, path = model_of(**shape), tmp_path / "x.gguf"
    write_gguf(path, model, tokenizer_of(), "f32")
    foreign = read_gguf(written(path, path.read_bytes().replace(TOLD.encode(), b"x" * len(TOLD))))
    assert foreign.config.rope_scaling is not None
    assert foreign.config.rope_scaling.original_context == 8192
    torch.testing.assert_close(logits(foreign.build()), logits(model), atol=1e-4, rtol=1e-4)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(0, 200, width=32), min_size=4, max_size=4))
def test_divisors_of_no_scaling_are_refused(
    tmp_path: Path, whole_llama3: bytes, divisors: list[float]
) -> None:
    content = whole_llama3[:-16] + struct.pack("<4f", *divisors)
    with suppress(ModelFolderError):
        found = read_gguf(written(tmp_path / "x.gguf", content)).config.rope_scaling
        assert found is None or found.kind == "llama3"


@pytest.fixture(scope="module")
def whole_llama3(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that ends in its four divisors."""
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    write_gguf(path, model_of(rope_scaling={"kind": "llama3"}), tokenizer_of(), "f32")
    content = path.read_bytes()
    file = GGUFFile(path)
    start = file.tensors[DIVISORS].start
    assert content[start + 16 :].strip(b"\0") == b""
    return content[: start + 16]


def test_a_scaling_by_ntk_is_a_larger_base(tmp_path: Path) -> None:
    model = model_of(rope_scaling={"kind": "ntk", "factor": 4.0})
    write_gguf(tmp_path / "x.gguf", model, tokenizer_of(), "f32")
    back = read_gguf(tmp_path / "x.gguf").build()
    assert back.config.rope_scaling is None
    torch.testing.assert_close(logits(back), logits(model), atol=1e-4, rtol=1e-4)


# transformers' class; True where llama.cpp has rotary neighbours; the option of ModelConfig that it
# needs, and other options of its configuration
FAMILIES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "llama": ("Llama", True, {}),
    "qwen3": ("Qwen3", False, {"head_dim": 8}),
    "qwen2": ("Qwen2", False, {}),
    "smollm3": ("SmolLM3", True, {}),
}


def huggingface_model(family: str) -> Any:
    name, _, options = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=tokenizer_of().vocab_size,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-6,
        initializer_range=0.2,
        pad_token_id=None,
        tie_word_embeddings=False,
        **options,
    )
    torch.manual_seed(5)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def in_neighbours(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows (head, half, pair) of width 8 as (head, pair, half), from the definition."""
    order = [
        head * 8 + half * 4 + pair
        for head in range(heads)
        for pair in range(4)
        for half in range(2)
    ]
    return values[order]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_by_the_formats_own_writer_gives_transformers_logits(
    tmp_path: Path, family: str
) -> None:
    model = huggingface_model(family)
    writer = GGUFWriter(tmp_path / "x.gguf", family)
    writer.add_block_count(5)
    writer.add_context_length(64)
    writer.add_embedding_length(48)
    writer.add_feed_forward_length(80)
    writer.add_head_count(6)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
    }
    for name, tensor in model.state_dict().items():
        values, theirs = tensor.numpy(), name
        for old, new in names.items():
            theirs = theirs.replace(old, new)
        for part, heads in (("attn_q.", 6), ("attn_k.", 2)):
            if part in theirs and FAMILIES[family][1]:
                values = in_neighbours(values, heads)
        writer.add_tensor(theirs, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    foreign = read_gguf(tmp_path / "x.gguf")
    assert foreign.tokenizer is None  # the file has none
    ids = torch.arange(30)[None]
    torch.testing.assert_close(
        logits(foreign.build()),
        model(ids * 7 % model.config.vocab_size).logits[0],
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("type_", ["f32", "f16", "q8_0", "q4_0"])
def test_transformers_reads_the_same_from_a_written_file(tmp_path: Path, type_: Any) -> None:
    write_gguf(tmp_path / "x.gguf", model_of(head_width=16), tokenizer_of(), type_)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="x.gguf", dtype=torch.float32
    ).eval()
    ours = read_gguf(tmp_path / "x.gguf").build(dtype=torch.float32)
    ids = torch.arange(30)[None] * 7 % ours.config.vocab_size
    torch.testing.assert_close(logits(ours), theirs(ids).logits[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("type_", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_is_kept(tmp_path: Path, type_: Any, dtype: torch.dtype) -> None:
    model = model_of().to(dtype)
    write_gguf(tmp_path / "x.gguf", model, tokenizer_of(), type_)
    back = dict(named_tensors(read_gguf(tmp_path / "x.gguf").build(dtype=dtype)))
    assert all(torch.equal(back[name], tensor) for name, tensor in named_tensors(model))


# of the values' root mean square, for normal values
ERRORS = {"q8_0": 0.006, "q4_0": 0.1, "q4_k_m": 0.075}


@pytest.mark.parametrize("type_", ERRORS)
def test_blocks_err_by_what_their_bits_allow(tmp_path: Path, type_: Any) -> None:
    model = model_of(width=256, num_heads=4, head_width=64, feed_forward_width=256)
    write_gguf(tmp_path / "x.gguf", model, tokenizer_of(), type_)
    back = dict(named_tensors(read_gguf(tmp_path / "x.gguf").build(dtype=torch.float32)))
    errors = [
        ((back[name] - tensor).norm() / tensor.norm()).item()
        for name, tensor in named_tensors(model)
        if tensor.ndim == 2
    ]
    assert max(errors) < ERRORS[type_]
    assert max(errors) > ERRORS[type_] / 3  # and they are of this type
    assert all(
        torch.equal(back[name], tensor) for name, tensor in named_tensors(model) if tensor.ndim == 1
    )


def test_types_fall_back_where_blocks_do_not_fit(tmp_path: Path) -> None:
    """As llama.cpp's quantizer: a row of 96 has no block of 256, one of 80 none of 32."""
    model = model_of(width=96, num_heads=3, num_kv_heads=3, head_width=32, feed_forward_width=80)
    write_gguf(tmp_path / "x.gguf", model, tokenizer_of(), "q4_k_m")
    types = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "x.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == "Q5_0"
    assert types["output.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["output_norm.weight"] == "F32"


@pytest.mark.parametrize("kind", [k for k in GGMLQuantizationType if k in quants._type_traits])
def test_every_block_is_read_as_the_package_reads_it(
    tmp_path: Path, kind: GGMLQuantizationType, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, size = GGML_QUANT_SIZES[kind]
    drawn = np.random.default_rng(0).integers(0, 256, (20, 2 * size), np.uint8)
    drawn &= 0x3F  # no float16 of a scale is infinite or no number
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("t", drawn, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr("puna.formats.gguf_tensors._VALUES_AT_ONCE", 6 * values)  # 3 rows
    file = GGUFFile(tmp_path / "x.gguf")
    found = read_values(file, file.tensors["t"])
    assert found.shape == (20, 2 * values)
    assert np.array_equal(found.float().numpy(), quants.dequantize(drawn, kind))


def test_rows_turn_as_the_rotations_do() -> None:
    """The rows of one head of width 6, by name: pairs beside each other, halves apart."""
    halves = torch.tensor([0, 1, 2, 10, 11, 12])
    assert to_neighbours(halves, 1).tolist() == [0, 10, 1, 11, 2, 12]
    assert torch.equal(to_halves(to_neighbours(halves, 1), 1), halves)
    two = torch.arange(24).reshape(12, 2)
    assert torch.equal(to_halves(to_neighbours(two, 2), 2), two)


REFUSED = {
    "geglu": ({"feed_forward": "geglu"}, "feed_forward = geglu"),
    "layernorm": ({"norm": "layernorm"}, "norm = layernorm"),
    "no positions": ({"position": "none"}, "position = none"),
    "window": ({"sliding_window": 8}, "sliding_window = 8"),
    "scaled": ({"scale_embeddings": True}, "scale_embeddings = True"),
    "QK-norm and Llama 3's scaling": (
        {"qk_norm": True, "rope_scaling": {"kind": "llama3"}},
        "rope_scaling.kind = llama3 beside qk_norm = True",
    ),
}


def test_a_number_that_a_scaling_has_no_key_for_is_refused() -> None:
    """Any option that RopeScaling may gain: here, a number of another kind's."""
    scaling = RopeScaling(kind="yarn", factor=2.0, original_context=16)
    assert unwritable(scaling) == []
    assert unwritable(scaling.model_copy(update={"low_frequency_factor": 3.0})) == [
        "rope_scaling.low_frequency_factor = 3.0"
    ]
    assert unwritable(scaling.model_copy(update={"kind": "longrope"})) == [
        "rope_scaling.kind = longrope"
    ]


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_llama_cpp_lacks_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=said(f"llama.cpp ... {message} ... folder")):
        write_gguf(tmp_path / "x.gguf", model_of(**changes), tokenizer_of())
    assert not list(tmp_path.iterdir())


def test_other_refusals_of_the_writer(tmp_path: Path) -> None:
    path, model, wrong = tmp_path / "x.gguf", model_of(), model_of()
    with pytest.raises(ConfigError, match=said("'q3_k' ... f32 ... q4_k_m")):
        write_gguf(path, model, tokenizer_of(), "q3_k")  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match=said("llama.cpp ... {1,2} ... digits one, three")):
        write_gguf(path, model_of(vocab_size=400), tokenizer_of("two"))
    with pytest.raises(TokenizerError, match=said("ids up to ... 300 rows")):
        write_gguf(path, model_of(vocab_size=300), tokenizer_of())
    for value, type_, message in (
        (1e5, "f16", "100000 ... F16 ... f32"),
        (float("nan"), "f32", "nan"),
    ):
        with torch.no_grad():
            wrong.embed_tokens.weight[3, 3] = value
        with pytest.raises(ModelFolderError, match=said(f"token_embd.weight ... {message}")):
            write_gguf(path, wrong, tokenizer_of(), type_)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.gguf", b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_model, "in_type", full)
    with pytest.raises(OSError, match="space"):
        write_gguf(path, model_of(), tokenizer_of())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    write_gguf(path, model_of(tie_embeddings=True), tokenizer_of(), "q8_0")
    return path.read_bytes()


def number(old: int, new: int) -> tuple[bytes, bytes]:
    return struct.pack("<II", 4, old), struct.pack("<II", 4, new)


CHANGED = {
    "another architecture": (
        b"\x05\0\0\0\0\0\0\0llama",
        b"\x05\0\0\0\0\0\0\0mamba",
        "'mamba' ... llama",
    ),
    "an unknown key": (b"llama.vocab_size", b"llama.expert_cnt", "expert_cnt = "),
    "no heads": (
        b"head_count" + number(4, 4)[0],
        b"head_count" + number(4, 0)[1],
        "head_count is 0",
    ),
    "2^31 layers": (
        b"block_count" + number(2, 2)[0],
        b"block_count" + number(2, 1 << 31)[1],
        "block_count is 2147483648",
    ),
    "a thousand layers": (
        b"block_count" + number(2, 2)[0],
        b"block_count" + number(2, 1000)[1],
        "1000 layers but",
    ),
    "another width": (
        b"feed_forward_length" + number(96, 96)[0],
        b"feed_forward_length" + number(96, 64)[1],
        "blk.0.ffn_gate.weight has shape [96, 64] instead of [64, 64] ... blk.1",
    ),
    "a tensor of another name": (
        b"blk.0.attn_q.weight",
        b"blk.0.attn_x.weight",
        "attn_x.weight is unexpected ... q_proj.weight is missing",
    ),
    "no embedding": (b"token_embd.weight", b"token_embz.weight", "token_embd.weight"),
    "another kind of vocabulary": (b"gpt2", b"bert", "'bert' ... gpt2 ... llama"),
    "another cut": (b"qwen2", b"qwenX", "'qwenX' ... gpt-2"),
}


@pytest.mark.parametrize(("old", "new", "message"), CHANGED.values(), ids=CHANGED)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, whole: bytes, old: bytes, new: bytes, message: str
) -> None:
    assert old in whole
    with pytest.raises(PunaError, match=said(message)):
        read_gguf(written(tmp_path / "x.gguf", whole.replace(old, new, 1)))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_a_model_is_more_than_an_error(
    tmp_path: Path, whole: bytes, data: st.DataObject
) -> None:
    """Bytes of the metadata and the table; those of the weights are numbers, whatever they are."""
    content = bytearray(whole)
    end = whole.index(b"token_embd.weight") + 2000
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, end))
        match data.draw(st.sampled_from(["flip", "number", "insert", "cut", "end"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "number":
                size = data.draw(st.sampled_from([4, 8]))
                value = data.draw(st.sampled_from([0, 1, 255, 1 << 20, (1 << 31) - 1, 1 << 60]))
                content[at : at + size] = value.to_bytes(8, "little")[:size]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 9))]
            case _:
                del content[-data.draw(st.integers(1, 5000)) :]
    try:
        foreign = read_gguf(written(tmp_path / "x.gguf", bytes(content)))
        list(foreign.tensors())
    except PunaError:
        pass


def test_other_programs_find_the_vocabulary(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", model_of(vocab_size=500), tokenizer_of(), "f32")
    fields = {key: f.contents() for key, f in GGUFReader(tmp_path / "x.gguf").fields.items()}
    tokenizer = tokenizer_of()
    assert len(fields["tokenizer.ggml.tokens"]) == 500
    assert fields["tokenizer.ggml.tokens"][499] == "[PAD499]"
    assert fields["tokenizer.ggml.token_type"][499] == 5
    assert fields["tokenizer.ggml.token_type"][tokenizer.eos_id] == 3
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.ggml.eot_token_id"] == tokenizer.eot_id
    merges = json.loads(tokenizer.to_json())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    back = read_gguf(tmp_path / "x.gguf").tokenizer
    assert back is not None
    assert back.encode(TEXT) == tokenizer.encode(TEXT)


def test_every_type_has_a_name() -> None:
    assert set(GGUF_TYPES) == {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"}
