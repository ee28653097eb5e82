"""Caches of compiled kernels that a first process has filled."""

import pytest
from nanoinfer.kernels.jit import cache

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


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The cache's module with a folder that does not exist yet; what it keeps is forgotten before and afterwards."""
    monkeypatch.setenv("NANOINFER_CACHE_DIR", str(tmp_path / "cache"))
    for kept in (cache.folder, cache._warn, cache._sweep):
        kept.cache_clear()
    yield cache
    for kept in (cache.folder, cache._warn, cache._sweep):
        kept.cache_clear()
