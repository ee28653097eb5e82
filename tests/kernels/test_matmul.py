"""Matrix products: linear layers and dense convolution around their register tiles."""

import numpy as np
import pytest
from nanoinfer.kernels import convolution
from nanoinfer.kernels.jit import library
from nanoinfer.kernels.matmul import Matmul
from nanoinfer.kernels.simd.activation import code

from tests.cases import WINDOWS, window_id
from tests.guarded import (
    ACTIVATIONS,
    CANARY,
    MACHINES,
    assert_product,
    chained,
    guarded,
    guarded_empty,
    network,
    owner,
    product,
    run,
)  # fmt: skip


@pytest.mark.parametrize("k", [1, 3, 16, 17])
@pytest.mark.parametrize("machine", MACHINES)
def test_matmul_around_tile_sizes(machine, k):
    rows, width = machine.tuning.matmul_mr[2], 2 * machine.lanes
    for pixels in (rows - 1, rows, rows + 1):
        for channels in (width - 1, width, width + 1):
            assert_product(product((pixels, k), channels), machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_matmul_channel_counts(machine):
    for channels in (
        1,
        machine.lanes - 1,
        machine.lanes,
        9 * machine.lanes // 2,
        5 * machine.lanes,
        6 * machine.lanes + 1,
    ):
        assert_product(product((2, 5, 7), channels), machine, 3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_matmul_activations(machine, activation):
    width = 2 * machine.lanes
    assert_product(product((1, 4, width), width, activation=activation), machine)
    assert_product(product((2, 2, width), width, activation=activation, residual=True), machine)


@pytest.mark.parametrize("case", WINDOWS, ids=window_id)
@pytest.mark.parametrize("machine", MACHINES)
def test_dense_convolution(machine, case):
    window, stride, padding, *size = case
    for nhwc, batch, threads in ((False, 1, 1), (True, 3, 2)):
        options = dict(stride=stride, padding=padding, bias=nhwc, nhwc=nhwc)
        assert_product(product((batch, 3, *size), 2 * machine.lanes - 1, window, **options), machine, threads)


@pytest.mark.parametrize("machine", MACHINES)
def test_groups_with_different_inputs_and_outputs(machine):
    for inputs, outputs in ((6, 32), (32, 64), (2, 96)):
        assert_product(product((2, inputs, 4, 6), outputs, 3, groups=2), machine, 2)
    with pytest.raises(ValueError, match="groups of 3 input and 5 output"):
        run(product((1, 6, 4, 4), 10, 3, groups=2), machine)


@pytest.mark.parametrize(("form", "x_k"), [("taps", 1), ("strided", 7)])
@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_matmul_micro_kernel_is_fma_chains(lanes, form, x_k):
    """Taps by row and column, depth in blocks, then the bias, then the residual: those bits exactly, in any tile."""
    mr, nr, count, taps_y, taps_x, skipped = 5, 2, 2, 2, 3, 2
    depth, block, width = 11, 6, nr * lanes  # blocks of four steps and some
    x_pixel, tap_y, tap_x, y_pixel = 131, 67, 41, width + 3  # in floats
    generator = np.random.default_rng(lanes)
    sizes = 1600, taps_y * (taps_x + skipped) * depth * width, width, count * mr * y_pixel
    x, w, bias, residual = (guarded(generator.standard_normal(size, np.float32)) for size in sizes)
    y = guarded_empty(count * mr * y_pixel)

    fields = dict(
        x_pixel_stride=4 * x_pixel, y_pixel_stride=4 * y_pixel, taps_y=taps_y, taps_x=taps_x, x_tap_y_stride=4 * tap_y,
        x_tap_x_stride=4 * tap_x, k=depth, k_block=block, x_k_stride=4 * x_k, w_skip=4 * skipped * depth * width,
        residual_offset=residual.ctypes.data - y.ctypes.data, activation=code("relu6"),
    )  # fmt: skip
    tile = np.array([fields.get(name, 0) for name in convolution.TileLoops._fields], np.int64)
    call = convolution.TileCall(*(array.ctypes.data for array in (x, w, bias, y)), count, 0, 0)
    kernel = library.function(Matmul(mr, nr, lanes, "piecewise", form))
    kernel(tile.ctypes.data, np.array(call, np.int64).ctypes.data)

    weights = w.reshape(taps_y, taps_x + skipped, depth, width)
    expected = np.full((count * mr, y_pixel), CANARY, np.uint32).view(np.float32)
    for pixel in range(count * mr):
        acc = np.zeros(width, np.float32)
        for ky in range(taps_y):
            for kx in range(taps_x):
                first = pixel * x_pixel + ky * tap_y + kx * tap_x
                for start in range(0, depth, block):
                    part = np.zeros(width, np.float32) if start else acc
                    for k in range(start, min(start + block, depth)):
                        part = chained(x[first + k * x_k], weights[ky, kx, k], part)
                    acc = part + acc if start else part
        acc = acc + bias + residual[pixel * y_pixel : pixel * y_pixel + width]
        expected[pixel, :width] = np.clip(acc, np.float32(0), np.float32(6))
    np.testing.assert_array_equal(y.view(np.uint32), expected.ravel().view(np.uint32))
    assert (owner(y) == CANARY).sum() == owner(y).size - count * mr * width


def test_residual_view_with_strides_of_its_own():
    """A token of each image is (tokens * channels) floats from the next image's; the sum that it meets is dense."""

    def add(builder, x):
        token = builder.select_token(builder.activation(x, "relu", "a"), 0, "t")
        return builder.residual(builder.linear(token, "l", 32), token, "r")

    case = network((3, 5, 32), add)
    np.testing.assert_allclose(run(case), case.exact(), 1e-4, 1e-4)


def test_patch_and_dense_convolution_share_a_weight():
    def add(net, x):
        tensors = {"weight": net.parameter("w", 16, 3, 4, 4)}
        one, other = (
            net.add("conv2d", [x], 16, name, tensors, stride=stride, padding=0, groups=1)
            for name, stride in (("a", 4), ("b", 3))
        )
        return net.residual(one, other, "sum")

    case = network((1, 3, 8, 8), add)
    np.testing.assert_allclose(run(case), case.exact(), rtol=1e-4, atol=1e-4)


def test_products_share_a_weight_but_not_a_bias():
    def add(net, x):
        one = net.linear(x, "a", 16, weight="w", bias="first")
        return net.residual(one, net.linear(x, "c", 16, weight="w", bias="second"), "sum")

    case = network((3, 20), add)
    np.testing.assert_allclose(run(case), case.exact(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [16, 32])
def test_fused_residual_of_another_shape_refused(channels):
    """Also where a pass has fused it: less of it, and a kernel would read what lies beyond."""
    case = network((1, 32, 4, 4), lambda net, x: net.residual(net.conv2d(x, "c", 32, 1), x, "r"))
    case.tensors[case.graph.nodes[0].tensors["weight"]] = np.ones((channels, 32, 1, 1), np.float32)
    if channels == 32:
        run(case)
    else:
        with pytest.raises(ValueError, match="shapes differ"):
            run(case)


def test_gate_of_another_shape_refused():
    with pytest.raises(ValueError, match="cannot scale the channels"):
        run(network((1, 16, 4, 4), lambda net, x: net.scale(x, net.activation(x, "hard_sigmoid", "h"), "s")))
