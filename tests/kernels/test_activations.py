"""The accuracy and the special values of activations, exp and erf."""

import math

import numpy as np
import pytest
from nanoinfer.kernels import elementwise
from nanoinfer.kernels.jit import library
from nanoinfer.kernels.simd.activation import code, variant

from tests.guarded import ACTIVATIONS, HOST, blank


def apply(activation, x, lanes=HOST.lanes):
    """An activation of a vector, by the elementwise kernel."""
    size = -(-x.size // 16) * 16
    source, y = np.zeros(size, np.float32), np.empty(size, np.float32)
    source[: x.size] = x
    call = blank(
            elementwise.Instruction,
        x=source.ctypes.data, x_pixel_stride=64, y=y.ctypes.data, y_pixel_stride=64, images=1, pixels=size // 16,
        vectors=16 // lanes, activation=code(activation),
    )  # fmt: skip
    row = np.array([0, *call], np.int64)
    library.function(elementwise.Elementwise(lanes, variant(activation)))(row.ctypes.data, 0, 1)
    return y[: x.size]


SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 88.72284, -87.4, -103.97, -104.1, 3.95, 3.92], np.float32
)


def torch():
    """Torch, which an emulated machine does not have."""
    return pytest.importorskip("torch")


TRUTH = {"exp": np.exp, "erf": lambda x: torch().erf(torch().from_numpy(x)).numpy()}


def worst_ulp(activation, x):
    """The largest error in units of the last place of the true value; checks NaN, infinities and signs besides."""
    y = apply(activation, x)
    with np.errstate(all="ignore"):
        exact = TRUTH[activation](x.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    if activation == "erf":
        np.testing.assert_array_equal(np.signbit(y)[x == x], np.signbit(x)[x == x])
    valid = x == x
    y, exact = np.clip(y[valid].astype(np.float64), -(2.0**128), 2.0**128), np.clip(exact[valid], None, 2.0**128)
    _, exponent = np.frexp(np.clip(np.abs(exact), 2.0**-126, 2.0**127))
    return float(np.max(np.abs(y - exact) / np.ldexp(1.0, exponent - 24), initial=0))


@pytest.mark.parametrize("activation", TRUTH)
def test_exp_and_erf_within_two_ulp(activation):
    x = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = np.random.default_rng(0).uniform(-105, 90, 200_000).astype(np.float32)
    assert max(worst_ulp(activation, part) for part in (x, near, near / 25, SPECIAL)) <= 2


def test_gelu_within_three_ulp_of_argument():
    far = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = np.random.default_rng(0).uniform(-15, 10, 500_000).astype(np.float32)
    for x in (far[np.isfinite(far)], near):
        wide = x.astype(np.float64)
        exact = wide / 2 * torch().special.erfc(torch().from_numpy(-wide * math.sqrt(0.5))).numpy()
        assert np.max(np.abs(apply("gelu", x) - exact) / np.spacing(np.abs(x)).astype(np.float64)) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("activation", TRUTH)
def test_exp_and_erf_within_two_ulp_everywhere(activation):
    step = 2**22
    starts = range(0, 2**32, step)
    assert max(worst_ulp(activation, np.arange(at, at + step).astype(np.uint32).view(np.float32)) for at in starts) <= 2


@pytest.mark.parametrize("activation", [*ACTIVATIONS[1:], "exp", "erf"])
def test_activation_same_bits_for_any_lanes(activation):
    x = np.concatenate([SPECIAL, np.random.default_rng(0).normal(0, 4, 5000).astype(np.float32)])
    wide = apply(activation, x, 16).view(np.uint32)
    for lanes in (8, 4):
        np.testing.assert_array_equal(apply(activation, x, lanes).view(np.uint32), wide)


def test_special_values_of_exp_and_erf():
    np.testing.assert_array_equal(apply("exp", SPECIAL[:5]), np.array([1, 1, np.inf, 0, np.nan], np.float32))
    np.testing.assert_array_equal(apply("erf", SPECIAL[:5]), np.array([0, -0.0, 1, -1, np.nan], np.float32))
    assert np.signbit(apply("erf", SPECIAL[:2])).tolist() == [False, True]
    denormal = apply("exp", np.float32([-90, -100, -103]))
    assert (denormal > 0).all() and (denormal < 2.0**-126).all()


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_special_values_pass_as_in_torch(activation):
    names = {"hard_swish": "hardswish", "scaled_hard_swish": "hardswish", "hard_sigmoid": "hardsigmoid"}
    x = np.concatenate([SPECIAL, np.float32([2.9, 3, 3.1, 5.9, 6, 6.1, -2.9, -3, -3.1, 1e-40, -1e-40])])
    y = apply(activation, x)
    argument = x.astype(np.float64) * (math.sqrt(6) if activation == "scaled_hard_swish" else 1)
    expected = getattr(torch().nn.functional, names.get(activation, activation))(torch().from_numpy(argument)).numpy()
    if activation == "gelu":
        expected[np.isposinf(x)] = np.inf  # torch's vector code gives NaN here, its scalar code inf
    np.testing.assert_allclose(y, expected, 1e-6, 1e-6)
