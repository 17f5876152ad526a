"""What all tests of the statistics share."""

import gc

import pytest


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """statsmodels collects garbage at every call, 0.1 s each: too long for thousands of studies."""
    monkeypatch.setattr(gc, "collect", lambda: 0)
