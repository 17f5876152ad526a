"""The kernels of each tier that this processor runs."""

import pytest

from puna.native.kernels import Kernels
from puna.native.library import available_tiers, load

NONE = pytest.param(None, marks=pytest.mark.skip(reason="the native core is not built"))


@pytest.fixture(params=available_tiers() or [NONE], scope="session")
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return Kernels(load(request.param))
