"""Stems and patches: few input channels, large windows."""

import numpy as np
import pytest
from nanoinfer.kernels.stem import Stem

from tests.guarded import MACHINES, WIDE, chained, product, run


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [(3, 112), (7, 111), (3, 30)], ids=str)
def test_stem_border_columns_need_no_extra_kernels(size, threads):
    window, side = size
    case = product((1, 3, side, side), 32, window, stride=2)
    (step,) = case.program(WIDE, threads).steps
    columns = [region for region in step.regions if region.loops.taps_x < window]
    largest = WIDE.tuning.matmul_mr[2]
    assert columns and {region.full_spec.mr for region in columns} <= {largest, 1}
    assert not any(region.edge_spec for region in columns)


@pytest.mark.parametrize("size", [(9, 14), (31, 6), (3, 40)], ids=str)
@pytest.mark.parametrize("machine", MACHINES)
def test_stem_is_one_fma_chain(machine, size):
    """Taps by row and column, then channels, then the bias: those bits exactly. The tall and the wide, in torch's
    layout and in ours, take the same kernels but for the number of rows."""
    for nhwc, strides in ((False, {8}), (True, {8 * machine.lanes})):
        case = product((2, 3, *size), 20, 3, stride=2, bias=True, nhwc=nhwc)
        x = np.pad(case.x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        high, wide = ((side + 1) // 2 for side in size)
        y, weight = np.zeros(1, np.float32), case.tensors["c.weight"]
        for ky, kx, k in np.ndindex(3, 3, 3):
            pixels = x[:, k, None, ky : ky + 2 * high : 2, kx : kx + 2 * wide : 2][..., :high, :wide]
            y = chained(pixels, weight[:, k, ky, kx, None, None], y)
        np.testing.assert_array_equal(run(case, machine, 2), y + case.tensors["c.bias"][:, None, None])
        regions = [region for step in case.program(machine, 2).steps for region in step.regions]
        specs = [region.full_spec for region in regions if region.loops.taps_x == 3]
        assert {type(spec) for spec in specs} == {Stem} and {spec.x_pixel_stride for spec in specs} == strides


@pytest.mark.parametrize("machine", MACHINES)
def test_patch_is_one_fma_chain(machine):
    """Channels, then a patch's pixels by row and column, then the bias: those bits exactly, in both layouts."""
    for nhwc in (False, True):
        case = product((2, 3, 9, 13), 20, 4, stride=4, padding=0, bias=True, nhwc=nhwc)
        y, weight = np.zeros(1, np.float32), case.tensors["c.weight"]
        for k, ky, kx in np.ndindex(3, 4, 4):
            y = chained(case.x[:, k, None, ky:8:4, kx:12:4], weight[:, k, ky, kx, None, None], y)
        np.testing.assert_array_equal(run(case, machine, 2), y + case.tensors["c.bias"][:, None, None])
