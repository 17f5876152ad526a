"""`puna quantize` as a function: what it writes opens everywhere, says how it was made, and is not
written at all where something is wrong.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from said import said
from small_llama import TEXT, build_llama, save_llama_folder
from transformers import AutoTokenizer

from puna.errors import ConfigError, DataError, ModelFolderError
from puna.model.weights import named_tensors, read_model
from puna.tokenizer.tokenizer import Tokenizer
from puna.workflow.evaluation import evaluate
from puna.workflow.quantizing import QuantizedFolder, QuantizePlan, quantize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_llama_folder(tmp_path / "model", build_llama())


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"{TEXT} {number}" for number in range(200)))
    return str(path)


def run(folder: Path, **options: Any) -> QuantizedFolder:
    return quantize(folder, folder.parent / "out", QuantizePlan(group=32, **options))


def test_the_price_is_that_of_the_folder_that_was_written(folder: Path, text: str) -> None:
    found = run(folder, calibrate=(text,), measure=(text,))
    out = folder.parent / "out"
    assert found.after == (out / "model.safetensors").stat().st_size
    for path, figure in zip((folder, out), found.bits_per_byte, strict=True):
        assert evaluate(path, file=text, context=96).bits_per_byte == pytest.approx(
            figure, rel=1e-5
        )
    assert found.bits_per_byte[1] < 1.05 * found.bits_per_byte[0]
    assert found.parameters == sum(p.numel() for p in read_model(folder).parameters())


def test_calibration_lowers_the_errors_of_outputs(folder: Path, text: str) -> None:
    """Weights move further and outputs less."""
    calibrated = run(folder, calibrate=(text,))
    said_ = json.loads((folder.parent / "out" / "puna.json").read_text())["quantized"]
    assert said_["method"] == "gptq"
    assert len(said_["calibration"]["sha256"]) == 64
    assert said_["bits_per_byte"] == list(calibrated.bits_per_byte)
    assert [row["name"] for row in said_["errors"]] == [row.name for row in calibrated.errors]
    rows = [row for row in calibrated.errors if row.output is not None]
    assert len(rows) == 2 * 7 + 1
    assert sum(row.output < row.weight for row in rows if row.output is not None) > 10


def test_a_distillation_is_written_and_said(folder: Path, text: str) -> None:
    """Scales and norms of the folder are the trained ones, and its price is theirs."""
    windows: list[tuple[int, int]] = []
    plan = QuantizePlan(group=32, calibrate=(text,), measure=(text,))
    plain = quantize(folder, folder.parent / "plain", plan)
    found = quantize(
        folder,
        folder.parent / "out",
        replace(plan, distil=True),
        on_window=lambda *now: windows.append(now),
    )
    assert windows[-1][0] == windows[-1][1] > 1
    before, after = (load_file(folder.parent / n / "model.safetensors") for n in ("plain", "out"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(before[f"{name}_packed"], after[f"{name}_packed"])
    assert not torch.equal(before[f"{name}_scale"], after[f"{name}_scale"])
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert found.errors == plain.errors
    again = evaluate(folder.parent / "out", file=text, context=96).bits_per_byte
    assert again == pytest.approx(found.bits_per_byte[1], rel=1e-5)
    said_ = [
        json.loads((folder.parent / n / "puna.json").read_text())["quantized"]["distilled"]
        for n in ("plain", "out")
    ]
    assert said_ == [False, True]


def test_everything_beside_the_weights_is_the_sources(folder: Path) -> None:
    (folder / "LICENSE").write_text("free")
    run(folder, measured_tokens=64)
    out = folder.parent / "out"
    assert (out / "LICENSE").read_text() == "free"
    assert Tokenizer.load(out).hash == Tokenizer.load(folder).hash
    assert AutoTokenizer.from_pretrained(out)("the llama")["input_ids"]
    before, after = (json.loads((p / "config.json").read_text()) for p in (folder, out))
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys() == {"quantization_config"}
    assert json.loads((out / "puna.json").read_text())["tokens"] == 123_456


def test_half_precision_stays(tmp_path: Path) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama().bfloat16())
    run(folder, measured_tokens=64, embedding="keep")
    out = tmp_path / "out"
    assert load_file(out / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    assert read_model(out).output_weight.dtype == torch.bfloat16


def test_kept_modules_are_untouched(folder: Path) -> None:
    found = run(
        folder,
        measured_tokens=64,
        embedding="keep",
        head="int4",
        keep=("down_proj", "layers.0"),
    )
    before, after = (
        dict(named_tensors(read_model(path))) for path in (folder, folder.parent / "out")
    )
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {f"{name}.weight".removeprefix("model.") for name in found.kept} <= {
        name.removeprefix("model.") for name in same
    }
    assert "layers.0.mlp.up_proj" in found.kept
    assert "layers.1.mlp.down_proj" in found.kept
    assert "model.layers.1.mlp.up_proj.weight" not in same
    assert "lm_head.weight" not in same


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group": 48}, ConfigError, "--group 48 ... 32, 64, 128"),
        ({"group": 64}, ModelFolderError, "group 64 ... 32 inputs ... choose"),
        ({"keep": ("nothing",)}, ConfigError, "--keep nothing ... down_proj"),
        ({"int8": ("nothing",)}, ConfigError, "--int8 nothing ... down_proj"),
        ({"to": "int8", "int8": ("down_proj",)}, ConfigError, "--int8 down_proj ... --to int4"),
        ({"distil": True}, ConfigError, "--distil ... --calibrate TEXT"),
        ({"calibrate": ("EMPTY",)}, DataError, "empty"),
        ({"calibrate": ("ABSENT",)}, DataError, "absent"),
        ({"measure": ("EMPTY",)}, DataError, "empty"),
        ({"measured_tokens": 1}, ConfigError, "2 tokens"),
    ],
)
def test_faults_leave_nothing(
    folder: Path, options: dict[str, Any], error: Any, message: str
) -> None:
    (folder.parent / "empty.txt").write_text(" \n")
    names = {"EMPTY": "empty.txt", "ABSENT": "absent.txt"}
    options = {
        key: tuple(str(folder.parent / names[v]) if v in names else v for v in value)
        if isinstance(value, tuple)
        else value
        for key, value in options.items()
    }
    before = set(folder.parent.iterdir())
    with pytest.raises(error, match=said(message)):
        quantize(folder, folder.parent / "out", QuantizePlan(**{"group": 32, **options}))
    assert set(folder.parent.iterdir()) == before


def test_a_text_of_a_few_words_is_said_to_be_short(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the llama reads old pages over and over")
    short = str(tmp_path / "short.txt")
    found = run(folder, calibrate=(short,), measure=(short,))
    assert any("give a text of" in note for note in found.notes)


def test_an_output_layer_that_is_the_embedding(tmp_path: Path) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama(tie_embeddings=True))
    with pytest.raises(ConfigError, match=said("--head int4 ... embedding ... --embedding int4")):
        run(folder, head="int4")


def test_twice_is_refused(folder: Path) -> None:
    run(folder, measured_tokens=64)
    with pytest.raises(ModelFolderError, match=said("quantized already ... made from")):
        quantize(folder.parent / "out", folder.parent / "again", QuantizePlan(group=32))
    with pytest.raises(ModelFolderError, match=said("out ... there already")):
        run(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    model = build_llama()
    with torch.no_grad():
        model.get_submodule("layers.1.mlp.up_proj").weight[0, 0] = value
    folder = save_llama_folder(tmp_path / "model", model)
    with pytest.raises(ModelFolderError, match=said("layers.1.mlp.up_proj ... not finite")):
        run(folder, measured_tokens=64)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "parts",
    [
        {"feed_forward": "relu", "placement": "parallel"},
        {"qk_norm": True, "placement": "reordered", "attention_bias": "all"},
        {"position": "alibi", "norm": "layernorm", "sliding_window": 8},
    ],
)
def test_other_parts_are_quantized_too(parts: dict[str, Any], tmp_path: Path, text: str) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama(**parts))
    found = run(folder, calibrate=(text,))
    assert all(row.output is None or row.output < 0.1 for row in found.errors)
    assert read_model(tmp_path / "out").config == read_model(folder).config
