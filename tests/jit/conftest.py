"""Caches of compiled kernels that a first process has filled."""

import pytest

from tests.jit.processes import PREDICT, run_linear_gelu, start


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """(a cache folder, what the LINEAR_GELU process that filled it printed)."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    return cache, run_linear_gelu(cache)


@pytest.fixture(scope="session")
def predicted(tmp_path_factory):
    """(a cache folder, what the `nanoinfer predict` that filled it wrote to stdout and stderr)."""
    cache = tmp_path_factory.mktemp("predicted")
    return cache, start(PREDICT, cache).communicate(timeout=300)
