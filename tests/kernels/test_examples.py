"""Every kernel that KERNELS gives an example, against its reference there: a kernel is tested by being registered."""

import numpy as np
import pytest
from nanoinfer.kernels import (
    KERNELS,
    attention,
    convolution,
    depthwise,
    kernel_name,
    matmul,
    normalization,
    pooling,
)
from nanoinfer.kernels.jit import library

from nanoinfer.graph.ops import OPS
from tests.guarded import assert_guards_untouched, guarded, guarded_empty

MEASURED_OR_CONTROL = {"convolution", "peak", "read", "thread_program", "leader", "worker"}  # tested by hand


def address(value):
    return value.ctypes.data if isinstance(value, np.ndarray) else int(value)


def encode(record, fields):
    """A record's words by name, 0 for those that are not given."""
    return np.array([address(fields.get(name, 0)) for name in record._fields], np.int64)


@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if kernel.example])
def test_kernel_matches_its_reference(name, lanes):
    kernel, calls = KERNELS[name], []

    def check(spec, expected, **fields):
        assert isinstance(spec, kernel.spec)
        calls.append(spec)
        floats = {key: guarded(v) for key, v in fields.items() if isinstance(v, np.ndarray) and v.dtype == np.float32}
        for threads in (1, 3) if kernel.instruction else (1,):
            y = guarded_empty(expected.size).reshape(expected.shape)
            run(spec, {**fields, **floats, "y": y}, threads)
            assert_near(y, expected, kernel.tolerance)
            assert_guards_untouched(y)
        for key, array in floats.items():
            if key != "workspace":
                np.testing.assert_array_equal(array, fields[key], f"{kernel_name(spec)} wrote to {key}")

    def run(spec, fields, threads):
        native = library.function(spec)
        if kernel.instruction:
            assert fields.keys() <= set(kernel.instruction._fields)
            row = np.concatenate([[0], encode(kernel.instruction, fields)])
            for thread in range(threads):
                native(row.ctypes.data, thread, threads)
        else:
            assert fields.keys() <= {*convolution.TileLoops._fields, *convolution.TileCall._fields}
            tile, call = encode(convolution.TileLoops, fields), encode(convolution.TileCall, fields)
            native(tile.ctypes.data, call.ctypes.data)

    kernel.example(lanes, np.random.default_rng(0), check)
    assert calls


def assert_near(y, expected, tolerance):
    if tolerance == 0:
        np.testing.assert_array_equal(y, expected)
    else:
        assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()


def test_every_kernel_has_a_reference_or_a_test_by_hand():
    assert {name for name, kernel in KERNELS.items() if not kernel.example} == MEASURED_OR_CONTROL
    assert all(kernel.reference for kernel in KERNELS.values() if kernel.example)


def test_references_are_the_operators():
    """The definitions beside the kernels and those of the graph's operators say the same, in float64."""
    generator = np.random.default_rng(0)
    x, tokens = generator.standard_normal((2, 7, 5, 6)), generator.standard_normal((2, 35, 6))
    images, (weight, bias) = x.transpose(0, 3, 1, 2), generator.standard_normal((2, 6))

    def assert_same(reference, op, inputs, tensors, **attributes):
        y = OPS[op].reference(inputs, tensors, attributes)
        expected = y.transpose(0, 2, 3, 1) if y.ndim == 4 else y
        np.testing.assert_allclose(reference.reshape(expected.shape), expected, rtol=1e-12, atol=1e-14, err_msg=op)

    for group in (1, 2):
        taps = generator.standard_normal((6, group, 3, 3))
        y, attributes = depthwise.reference(x, taps, bias, 2, 1), dict(stride=2, padding=1, groups=6 // group)
        assert_same(y, "conv2d", [images], {"weight": taps, "bias": bias}, **attributes)
    assert_same(pooling.max_reference(x, 3, 2, 1), "max_pool2d", [images], {}, window=3, stride=2, padding=1)
    assert_same(pooling.average_reference(x.reshape(2, 35, 6)), "global_average_pool", [images], {})
    assert_same(attention.reference(tokens, 2), "attention", [tokens], {}, heads=2)
    roles = {"weight": weight, "bias": bias}
    norm = normalization.reference(tokens.reshape(70, 6), weight, bias, 1e-6)
    assert_same(norm, "layer_norm", [tokens], roles, eps=1e-6)
    square = generator.standard_normal((6, 6))
    product = matmul.reference(tokens.reshape(70, 6), square, bias)
    assert_same(product, "linear", [tokens], {"weight": square, "bias": bias})
