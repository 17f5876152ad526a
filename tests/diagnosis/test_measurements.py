"""Measured limits: what they count, how often they repeat, and what is not measured."""

import itertools

import pytest
import torch

from puna.diagnosis import measurements
from puna.diagnosis.measurements import Measurement, measure_limits

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves a quarter of a second a look, no other programs, and a peak for each
    call.
    """
    clock = itertools.count(step=0.25)
    monkeypatch.setattr(measurements.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(measurements, "watch_others", lambda: lambda: 0.25)
    monkeypatch.setattr(measurements, "measure_matmul_peak", lambda *_, windows: 1e9 * windows)
    monkeypatch.setattr(measurements, "has_bfloat16_arithmetic", lambda _: True)
    monkeypatch.setattr(measurements, "LEAST_READ", MIB)
    monkeypatch.setattr(torch, "_int_mm", lambda *_: None)


def by_name(cache: int = 1000, room: int | None = None) -> dict[str, Measurement]:
    return {each.name: each for each in measure_limits(CPU, cache, room)}


@pytest.mark.usefixtures("ticks")
def test_every_limit_has_its_unit_and_the_load_beside_it() -> None:
    found = by_name()
    assert {name: each.unit for name, each in found.items()} == {
        "matmul float32": "FLOP/s",
        "matmul bfloat16": "FLOP/s",
        "matmul int8": "op/s",
        "reading": "B/s",
    }
    assert {each.others for each in found.values()} == {0.25}
    assert found["matmul float32"].value == 4e9  # one window, then four, the best counts


@pytest.mark.usefixtures("ticks")
def test_limits_are_measured_by_name() -> None:
    found = measure_limits(CPU, 1000, None, ["reading", "matmul int8"])
    assert [each.name for each in found] == ["matmul int8", "reading"]


@pytest.mark.usefixtures("ticks")
def test_reading_counts_the_bytes_of_the_buffer() -> None:
    """One MiB in a quarter of a second; a larger cache needs a larger buffer."""
    assert by_name()["reading"].value == 4 * MIB
    found = by_name(cache=2 * MIB)["reading"]
    assert (found.value, found.note) == (4 * 8 * MIB, "sum of 8 MiB")


@pytest.mark.usefixtures("ticks")
def test_an_eighth_of_the_free_memory_is_read_or_nothing() -> None:
    found = by_name(cache=2 * MIB, room=40 * MIB)["reading"]
    assert found.note == "sum of 5 MiB"
    found = by_name(cache=2 * MIB, room=20 * MIB)["reading"]
    assert (found.value, found.note) == (
        None,
        "too little free memory for a buffer that no cache holds",
    )


@pytest.mark.usefixtures("ticks")
def test_a_slow_measurement_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "SECONDS", 0.25)
    assert by_name()["matmul float32"].value == 1e9


@pytest.mark.usefixtures("ticks")
def test_int8_counts_two_operations_a_multiplication(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of 256 predicts 16 s for 1,024, so it stays at the probe."""
    monkeypatch.setattr(measurements, "measure_matmul_peak", lambda *_, **__: 1.0)
    assert by_name()["matmul int8"].value == 2 * 256**3 / 0.25


@pytest.mark.usefixtures("ticks")
def test_an_int8_product_that_is_no_faster_is_left_out() -> None:
    found = by_name()["matmul int8"]
    assert found.value is None
    assert "slower" in (found.note or "")


@pytest.mark.usefixtures("ticks")
def test_what_pytorch_cannot_do_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_product(*_: object) -> None:
        raise NotImplementedError("'_int_mm' is not there for 'mps'\nand a long list")

    monkeypatch.setattr(torch, "_int_mm", no_product)
    monkeypatch.setattr(measurements, "has_bfloat16_arithmetic", lambda _: False)
    found = by_name()
    assert (found["matmul int8"].value, found["matmul int8"].note) == (
        None,
        "'_int_mm' is not there for 'mps'",
    )
    assert found["matmul bfloat16"].value is None
    assert "emulated" in (found["matmul bfloat16"].note or "")
