"""Pooling, layer norm and attention: maxima and sums in a fixed order."""

import numpy as np
import pytest
from nanoinfer.kernels import convolution
from nanoinfer.kernels.jit import library
from nanoinfer.kernels.pooling import MaxPool

from tests.guarded import (
    ARM,
    CANARY,
    MACHINES,
    NARROW,
    ULP,
    WIDE,
    assert_near,
    guarded,
    guarded_empty,
    network,
    owner,
    run,
)  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
def test_max_pool_is_exact(machine):
    for window, stride, padding, *size in ((3, 2, 1, 7, 9), (2, 2, 0, 6, 5), (3, 1, 1, 1, 2), (3, 2, 1, 2, 12)):
        for batch, channels in ((1, machine.lanes - 1), (3, 2 * machine.lanes), (1, 3 * machine.lanes + 1)):
            case = network(
                (batch, channels, *size),
                lambda b, x, options=(window, stride, padding): b.max_pool2d(x, "p", *options),
            )
            case.x.flat[::7] = -np.inf
            np.testing.assert_array_equal(run(case, machine, batch), case.exact())
    wide = network((1, 50 * machine.lanes, 2, 2), lambda b, x: b.max_pool2d(x, "p", 2, 2, 0))
    np.testing.assert_array_equal(run(wide, machine), wide.exact())


@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_max_pool_micro_kernel(lanes):
    mr, nr, width = 3, 2, 2 * lanes
    x = guarded(np.random.default_rng(0).standard_normal(700, np.float32))
    y = guarded_empty(2 * mr * (width + 1))
    fields = dict(
        x_pixel_stride=4 * 71, y_pixel_stride=4 * (width + 1), taps_y=2, taps_x=2, x_tap_y_stride=4 * 150,
        x_tap_x_stride=4 * 33,
    )  # fmt: skip
    tile = np.array([fields.get(name, 0) for name in convolution.TileLoops._fields], np.int64)
    call = np.array(convolution.TileCall(x.ctypes.data, 0, 0, y.ctypes.data, 2, 0, 0), np.int64)
    library.function(MaxPool(mr, nr, lanes))(tile.ctypes.data, call.ctypes.data)
    for pixel in range(2 * mr):
        taps = [x[pixel * 71 + tap : pixel * 71 + tap + width] for tap in (0, 33, 150, 183)]
        np.testing.assert_array_equal(y[pixel * (width + 1) :][:width], np.max(taps, 0))
    assert (owner(y) == CANARY).sum() == owner(y).size - 2 * mr * width


def test_max_pool_keeps_nan_as_torch_does():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((1, 16, 9, 9)).astype(np.float32)
    x[0, :, ::4, ::3] = np.nan
    case = network(x.shape, lambda b, x: b.max_pool2d(x, "p", 3, 2, 1))
    for machine in (WIDE, NARROW):
        y = run(case, machine, x=x)
        np.testing.assert_array_equal(y, torch.nn.functional.max_pool2d(torch.from_numpy(x), 3, 2, 1).numpy())


@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 35, 49])
@pytest.mark.parametrize("machine", MACHINES)
def test_average_pool(machine, pixels):
    for channels in (machine.lanes - 1, machine.lanes, 2 * machine.lanes + 1):
        case = network((3, channels, 1, pixels), lambda b, x: b.global_average_pool(x, "p"))
        size = np.abs(case.x).mean((2, 3), keepdims=True, dtype=np.float64)
        assert_near(case, (pixels // 16 + 4 + pixels % 16 + 2) * ULP * size, machine, threads=2)


@pytest.mark.parametrize("channels", [16, 48, 768])
@pytest.mark.parametrize("machine", MACHINES)
def test_layer_norm(machine, channels):
    for rows, offset in ((1, 0), (3, 5)):
        case = network((2, rows, channels), lambda b, x: b.layer_norm(x, "n", 1e-6))
        case.x += np.float32(offset)
        x = case.x.astype(np.float64)
        mean, deviation = x.mean(-1, keepdims=True), x.std(-1, keepdims=True)
        shift = np.abs(x).mean(-1, keepdims=True) / deviation  # a mean off by some ulp of the mean, in deviations
        size = (1 + shift + np.abs(x - mean) / deviation) * np.abs(case.tensors["n.weight"])
        bound = (channels // 16 + 12) * ULP * (size + np.abs(case.tensors["n.bias"]))
        assert_near(case, bound, machine, threads=2)


def test_layer_norm_refuses_other_widths():
    with pytest.raises(ValueError, match="multiple of 16"):
        run(network((1, 2, 24), lambda b, x: b.layer_norm(x, "n")))


@pytest.mark.parametrize("case", [(1, 16), (5, 64), (6, 64), (7, 64), (50, 48), (17, 32)], ids=str)
@pytest.mark.parametrize("machine", MACHINES)
def test_attention(machine, case):
    assert_attention(machine, *case)


@pytest.mark.parametrize("depth", [4, 8, 12, 20])
def test_attention_of_shallow_heads(depth):
    for machine in (NARROW, ARM):
        assert_attention(machine, 17, depth)
    with pytest.raises(ValueError, match="no multiple of 16 lanes"):
        assert_attention(WIDE, 17, depth)


def assert_attention(machine, tokens, depth, heads=3):
    case = network((2, tokens, 3 * heads * depth), lambda b, x: b.attention(x, heads, "a"))
    q, k, v = case.x.astype(np.float64).reshape(2, tokens, 3, heads, depth).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(depth)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    score = (depth + 4) * ULP * (np.abs(q) @ np.abs(k).swapaxes(-1, -2)).max(-1, keepdims=True) / np.sqrt(depth)
    bound = (2 * score + (tokens + tokens / 16 + 16) * ULP) * (weights @ np.abs(v))
    assert_near(case, bound.transpose(0, 2, 1, 3).reshape(2, tokens, -1), machine, threads=2)
