"""JSON is taken at its word, and what is wrong with a body is found in a time that its size
bounds.
"""

import time

import pytest
from pydantic import BaseModel, ValidationError

from puna.api.error_response import ApiError
from puna.api.json_body import field_error, parse_json
from puna.api.limits import Limits
from puna.api.protocol import ChatRequest, CompletionRequest

BOUNDS = {**Limits().model_dump(), "token_id": 4999, "messages": 500}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a": "\xff"}', "byte 7 is no part of a character"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": 1e999}', "1e999 is more than a double holds"),
        (b"1" * 5000, "not valid JSON"),
        (b'{"a": ["\\ud800"]}', "half of a surrogate pair"),
        (b'{"\\uDFFF": 1}', "half of a surrogate pair"),
        (b"[" * 100_000, "nests too deep"),
        (b'{"a":' * 100_000, "nests too deep"),
    ],
)
def test_json_is_taken_at_its_word(body: bytes, reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as caught:
        parse_json(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_json_that_only_looks_odd_is_read() -> None:
    assert parse_json(b' {"a": "\\ud83d\\ude00", "b": "\\\\ud800", "c": 1e-999, "d": 2.0} ') == {
        "a": "\U0001f600",
        "b": "\\ud800",
        "c": 0,
        "d": 2,
    }


def read(kind: type[BaseModel], body: bytes) -> BaseModel:
    """A body as a server reads it."""
    values = parse_json(body)
    try:
        return kind.model_validate(values, context={"most": BOUNDS})
    except ValidationError as error:
        raise field_error(error, values) from None


@pytest.mark.parametrize(
    ("begin", "part", "end"),
    [
        (b'{"model": "m", "prompt": [', b"1, ", b"1]}"),
        (b'{"model": "m", "prompt": [', b"9999, ", b'"x"]}'),
        (b'{"model": "m", "prompt": [', b"[1], ", b"[1]]}"),
        (b'{"model": "m", "prompt": [', b'["x"], ', b"[1]]}"),
        (b'{"model": "m", "prompt": "x", "stop": [', b'"", ', b'""]}'),
        (b'{"model": "m", "prompt": "x", "logit_bias": {', b'"KEY": 1, ', b'"x": 1}}'),
        (b'{"model": "m", "prompt": "x", ', b'"KEY": 1, ', b'"x": 1}'),
        (b'{"model": "m", "messages": [', b"1, ", b"1]}"),
        (b'{"model": "m", "messages": [', b'{"role": "user"}, ', b"1]}"),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": [',
            b'{"type": "text"}, ',
            b"1]}]}",
        ),
    ],
)
def test_a_body_full_of_faults_is_rejected_soon(begin: bytes, part: bytes, end: bytes) -> None:
    """Four megabytes of which every entry is wrong, as several things at once, once took a server
    19 seconds to describe.
    """
    count = (4 << 20) // (len(part) + 4)
    middle = (
        b"".join(part.replace(b"KEY", b"%d" % number) for number in range(count))
        if b"KEY" in part
        else part * count
    )
    kind = ChatRequest if b"messages" in begin else CompletionRequest
    began = time.process_time()
    with pytest.raises(ApiError) as caught:
        read(kind, begin + middle + end)
    assert time.process_time() - began < 4
    assert len(str(caught.value)) < 500
