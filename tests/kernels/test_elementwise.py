"""Unfused operators, element by element, and the sums of Strassen's scheme."""

import numpy as np
import pytest
from nanoinfer.kernels import elementwise
from nanoinfer.kernels.jit import library

from tests.guarded import ACTIVATIONS, MACHINES, ULP, assert_guards_untouched, assert_near, guarded_empty, network


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_elementwise(machine, activation):
    def activate(builder, value):
        return builder.activation(value, activation, "a") if activation else value

    for channels in (machine.lanes - 1, machine.lanes, 2 * machine.lanes + 1):
        shape = (3, channels, 3, 5)
        cases = [network(shape, lambda b, x: activate(b, b.residual(x, x, "r")))]
        if activation:
            cases.append(network(shape, lambda b, x: activate(b, x)))
            cases[-1].x *= np.float32(4)
        else:
            cases.append(network(shape, lambda b, x: b.batch_norm(x, "n")))
            cases.append(network(shape, lambda b, x: b.scale(x, b.global_average_pool(x, "p"), "s")))
            cases.append(network((3, 20, channels), lambda b, x: b.activation(x, "relu", "a")))
        for case in cases:
            assert_near(case, 24 * ULP * (1 + np.abs(case.exact())) * 4, machine, threads=2)


@pytest.mark.parametrize("machine", MACHINES)
def test_tokens(machine):
    def add(builder, x):
        position = builder.parameter("position", 1, 1 + 9, x.channels)
        return builder.tokens(x, builder.parameter("first", 1, 1, x.channels), position, "t")

    for channels in (16, 2 * machine.lanes + 1):
        case = network((3, channels, 3, 3), add)
        assert_near(case, ULP * (1 + np.abs(case.exact())), machine, threads=2)


@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize("pairs", [1, 5])
def test_strassen_sums(lanes, pairs):
    channels, gap = 6 * lanes, 4
    x = np.random.default_rng(0).standard_normal((2, pairs, 2, channels + gap), np.float32)
    expected = elementwise.sums_reference(x[..., :channels].reshape(2 * pairs, 2, channels)).reshape(2 * pairs, -1)
    for between in (1, pairs):  # as neighbours, or the odd ones behind all of the even ones
        if between > 1:
            x = np.ascontiguousarray(x.swapaxes(1, 2))
        for threads in (1, 3, 20):
            y = guarded_empty(x.size)
            y[...] = 7
            call = elementwise.SumsInstruction(
                x=x.ctypes.data, x_pair_stride=x.strides[2 if between > 1 else 1], x_image_stride=x.strides[0],
                odd_offset=between * 4 * x.shape[3], y=y.ctypes.data, y_pair_stride=8 * x.shape[3], images=2,
                pairs=pairs, half=2 * channels,
            )  # fmt: skip
            row = np.array([0, *call], np.int64)
            for thread in range(threads):
                library.function(elementwise.StrassenSums(lanes))(row.ctypes.data, thread, threads)
            sums = y.reshape(2 * pairs, -1)
            np.testing.assert_array_equal(sums[:, : 2 * channels], expected)
            assert (sums[:, 2 * channels :] == 7).all()
            assert_guards_untouched(y)
