"""generation_config.json as the defaults of generation."""

import json
from pathlib import Path
from typing import Any

import pytest
from said import said

from puna.errors import ConfigError
from puna.inference.generation_defaults import described, read_generation_defaults


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"bos_token_id": 1, "eos_token_id": [2, 3], "transformers_version": "5"}, {}),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": True, "temperature": 1, "top_k": 20}, {"temperature": 1, "top_k": 20}),
        ({"top_k": 0, "min_p": 0.1, "temperature": None}, {"min_p": 0.1}),
        ({"do_sample": False}, {"temperature": 0.0}),
        (
            {"do_sample": False, "temperature": 0.6, "top_k": 5, "repetition_penalty": 1.1},
            {"temperature": 0.0, "repetition_penalty": 1.1},
        ),
        ({"max_new_tokens": 64}, {"max_tokens": 64}),
    ],
)
def test_options_of_the_file(
    tmp_path: Path, values: dict[str, Any], expected: dict[str, Any]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
    assert read_generation_defaults(tmp_path) == expected


def test_no_file_gives_none(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path) == {}
    assert read_generation_defaults(tmp_path / "gone") == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"temperature": -1}', "temperature = -1 ... greater than or equal to 0"),
        (b'{"top_p": 1.5}', "top_p = 1.5"),
        (b'{"top_k": "50"}', "top_k = '50'"),
        (b'{"max_new_tokens": 0}', "max_tokens = 0"),
        (b'{"temperature": NaN}', "temperature"),
        (b"[1]", "no JSON object"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b" " * 1_000_001, "more than 1,000,000 bytes"),
    ],
)
def test_a_wrong_file_is_one_error(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "generation_config.json").write_bytes(content)
    pattern = said(f"{reason} ... correct or delete it ... --generation-config none")
    with pytest.raises(ConfigError, match=pattern) as raised:
        read_generation_defaults(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_a_line_of_them() -> None:
    assert described({"temperature": 0.6, "top_k": 20}) == "temperature 0.6, top_k 20"
