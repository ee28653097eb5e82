"""Depthwise convolution, and grouped convolution of any width."""

import numpy as np
import pytest

from tests.cases import NETWORKS, WINDOWS, window_id
from tests.guarded import MACHINES, MIDDLE, NARROW, WIDE, assert_product, chained, product, run, tuned


@pytest.mark.parametrize("case", [WINDOWS[n] for n in (1, 2, 4, 6, 7, 8, 9, 12, 13, 14)], ids=window_id)
@pytest.mark.parametrize("machine", MACHINES)
def test_depthwise_convolution(machine, case):
    window, stride, padding, *size = case
    for batch, channels, threads in ((1, machine.lanes - 1, 1), (3, 2 * machine.lanes, 2), (1, 3 * machine.lanes, 3)):
        options = dict(stride=stride, padding=padding, groups=channels, bias=True)
        assert_product(product((batch, channels, *size), channels, window, **options), machine, threads)


@pytest.mark.parametrize("name", ["depthwise", "groups4", "groups8"])
def test_depthwise_same_bits_for_any_split(name):
    """Threads split vectors of channels or, where a thread's part would not stay in cache, bands of rows."""
    case = NETWORKS[name]
    expected = run(case, WIDE)
    for block_bytes in (1, 2000, 1 << 20):
        for machine, threads in ((WIDE, 1), (WIDE, 2), (MIDDLE, 3), (NARROW, 5)):
            machine = tuned(machine, block_bytes=block_bytes)
            np.testing.assert_array_equal(run(case, machine, threads), expected)
            np.testing.assert_array_equal(run(case, machine, threads, case.x[:1])[0], expected[0])


def test_depthwise_thread_balance():
    for channels, threads, by_panel in ((32, 2, True), (16, 2, False), (48, 2, False), (144, 2, True), (192, 8, False)):
        case = product((1, channels, 16, 16), channels, 3, groups=channels)
        (step,) = case.program(WIDE, threads).steps
        assert (step.instruction.block_rows == 16) == by_panel
        units = -(-16 // step.instruction.block_rows) * step.instruction.vectors
        assert -(-units // threads) * threads <= 1.125 * units


@pytest.mark.parametrize("machine", MACHINES)
def test_depthwise_around_tile_sizes(machine):
    rows = machine.tuning.depthwise_mr
    for pixels in (rows - 1, rows, rows + 1):
        for channels in (machine.lanes - 1, machine.lanes, machine.lanes + 1):
            options = dict(groups=channels, residual=True, padding=1)
            assert_product(product((1, channels, 3, pixels), channels, 3, **options), machine)
    channels = 2 * machine.lanes
    for activation in ("relu6", "hard_swish"):
        assert_product(product((2, channels, 3, 3), channels, 3, activation, groups=channels), machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_depthwise_is_one_fma_chain(machine):
    """Taps by row and column, then the bias, then the residual: those bits exactly."""
    case = product((2, 20, 5, 7), 20, 3, groups=20, residual=True, bias=True)
    x = np.pad(case.x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros(case.x.shape, np.float32)
    for ky in range(3):
        for kx in range(3):
            y = chained(x[:, :, ky : ky + 5, kx : kx + 7], case.tensors["c.weight"][:, 0, ky, kx, None, None], y)
    np.testing.assert_array_equal(run(case, machine, 2), y + case.tensors["c.bias"][:, None, None] + case.x)


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("machine", MACHINES)
def test_narrow_groups_are_one_fma_chain(machine, width):
    """In step k an output meets input channel k of its group: those bits exactly."""
    channels = 24
    case = product((1, channels, 3, 5), channels, 3, groups=channels // width, bias=True)
    x = np.pad(case.x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros(case.x.shape, np.float32)
    first = np.arange(channels) // width * width  # of an output's group
    for ky in range(3):
        for k in range(width):
            for kx in range(3):
                taps = case.tensors["c.weight"][:, k, ky, kx, None, None]
                y = chained(x[:, first + k, ky : ky + 3, kx : kx + 5], taps, y)
    np.testing.assert_array_equal(run(case, machine), y + case.tensors["c.bias"][:, None, None])


@pytest.mark.parametrize("per_group", [4, 8, 16, 32])
@pytest.mark.parametrize("machine", MACHINES)
def test_grouped_convolution(machine, per_group):
    """Groups narrower than a vector, of one vector and of two; also as many channels as leave a vector half empty."""
    rows = machine.tuning.grouped_mr
    for groups, size in ((3, (4, rows - 1)), (32 // per_group, (4, rows + 1)), (5, (rows + 2, 4))):
        channels = groups * per_group
        for stride in (1, 2):
            options = dict(stride=stride, groups=groups, residual=stride == 1, bias=True)
            assert_product(product((2, channels, *size), channels, 3, **options), machine, stride)
