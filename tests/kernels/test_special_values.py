"""NaN, infinities and denormals go where they go in float64, and no further."""

from dataclasses import replace

import numpy as np
import pytest

from tests.cases import NETWORKS
from tests.guarded import network, product, run

# Of a pair of pixels, Strassen's scheme makes sums before it multiplies.
BY_ITS_DEFINITION = [name for name in NETWORKS if not name.startswith("strassen")]


@pytest.mark.parametrize("name", BY_ITS_DEFINITION)
def test_nan_stays_in_its_image(name):
    case = NETWORKS[name]
    clean, x = run(case), case.x.copy()
    x[1].flat[x[1].size // 2] = np.nan
    y = run(case, x=x)
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])
    exact = replace(case, x=x).exact()
    assert np.isnan(exact[1]).any()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("name", BY_ITS_DEFINITION)
def test_inf_as_in_float64(name, value):
    case = NETWORKS[name]
    x = case.x.copy()
    x[1].flat[x[1].size // 2] = value
    with np.errstate(invalid="ignore"):
        exact = replace(case, x=x).exact()
    y = run(case, x=x)
    for special in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(special(y), special(exact))


def test_denormals_not_flushed():
    smallest = np.float32(2) ** -149
    x = np.arange(1, 49, dtype=np.float32).reshape(1, 48) * smallest
    case = product((1, 48), 48)
    case.tensors["c.weight"], case.tensors["c.bias"] = np.eye(48, dtype=np.float32), np.zeros(48, np.float32)
    np.testing.assert_array_equal(run(case, x=x), x)
    case = network((1, 48, 1, 1), lambda b, x: b.residual(x, x, "r"))
    np.testing.assert_array_equal(run(case, x=x.reshape(1, 48, 1, 1)).ravel(), 2 * x[0])
