"""`puna import` and `puna export` at the command line: the table, exit codes, help that teaches."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import said
from small_llama import build_llama, save_llama_folder

from puna.formats.llama2c import write_llama2c
from puna.workflow import exporting

Puna = Callable[..., Any]


def test_out_and_back(puna: Puna, tmp_path: Path) -> None:
    folder = save_llama_folder(tmp_path / "model", build_llama())
    result = puna("export", folder, tmp_path / "meta", "--to", "meta")
    assert result.code == 0, result.err
    for row in ("ok  shape", "ok  weights", "ok  ids", "ok  logits", "ok  greedy text"):
        assert row in result.out
    assert result.out.splitlines()[-1] == f"{tmp_path / 'meta'}: {folder} for meta in f32"
    assert re.search(r"\d s  writing", result.err)
    result = puna("import", tmp_path / "meta", tmp_path / "again", "--context", 96)
    assert result.code == 0, result.err
    options = ("the llama", "--temperature", 0, "--max-tokens", 8, "--device", "cpu")
    assert puna("generate", tmp_path / "again", *options).out == (
        puna("generate", folder, *options).out
    )


def test_a_proof_that_is_off_shows_its_table_and_exits_with_1(
    puna: Puna, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(aside: Path, _: exporting.ExportJob) -> list[str]:
        write_llama2c(aside / "model.bin", build_llama(num_heads=2))
        save_llama_folder(aside / "tokenizer", build_llama())
        for path in (aside / "tokenizer").glob("tokenizer*"):
            path.rename(aside / path.name)
        return []

    monkeypatch.setattr(exporting, "_WRITERS", {"llama2c": other})
    folder = save_llama_folder(tmp_path / "model", build_llama())
    result = puna("export", folder, tmp_path / "out", "--to", "llama2c")
    assert result.code == 1
    assert "OFF shape" in result.out
    assert re.search(said("error: ... out is not written ... num_heads 4 became 2"), result.err)
    assert not (tmp_path / "out").exists()


def test_a_foreign_file_is_told_what_to_type(puna: Puna, tmp_path: Path) -> None:
    write_llama2c(tmp_path / "model.bin", build_llama())
    result = puna("generate", tmp_path / "model.bin", "x")
    assert result.code == 1
    assert re.search(said("of the kind llama2c ... puna import ... OUT"), result.err)


@pytest.mark.parametrize("command", ["import", "export"])
def test_the_help_teaches(command: str, puna: Puna) -> None:
    assert f" {command} " in puna("--help").out
    out = puna(command, "--help").out
    assert f"puna {command}" in out.partition("Examples")[2]
    assert "read back and compared" in " ".join(out.split())
