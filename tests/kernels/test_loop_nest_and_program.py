"""The loop nest and the interpreter by hand, on records that no plan makes; the kernels that measure the machine."""

import numpy as np
import pytest
from nanoinfer.kernels import convolution, elementwise, kernel_name, packing, peak, program
from nanoinfer.kernels.jit import library
from nanoinfer.kernels.matmul import Matmul
from nanoinfer.kernels.program import TIMESTAMPS
from nanoinfer.kernels.simd.activation import code

from nanoinfer import runtime
from nanoinfer.graph import ops
from tests.guarded import CANARY, blank, guarded_empty


def test_loop_nest_by_hand():
    """Two images, two micro-panels, runs of two tiles and an edge; threads' shares make up the whole, each once."""
    lanes, mr, length, rows, k = 16, 2, 5, 3, 3
    generator = np.random.default_rng(0)
    x = generator.integers(-3, 4, (2, rows, length, k)).astype(np.float32)
    weight = generator.integers(-3, 4, (2 * lanes, k, 1, 1)).astype(np.float32)
    packed, bias = packing.reference(weight, lanes), np.arange(2 * lanes, dtype=np.float32)
    y = guarded_empty(2 * rows * length * 2 * lanes)
    y_pixel, x_pixel = 4 * 2 * lanes, 4 * k
    specs = [Matmul(pixels, 1, lanes, "piecewise", "pointwise") for pixels in (mr, 1)]
    kernels = library.addresses(specs)
    region = blank(
            convolution.Region,
        full_kernel=kernels[kernel_name(specs[0])], edge_kernel=kernels[kernel_name(specs[1])],
        run_tiles=3, full_tiles=2, runs=rows,
        x_run_stride=length * x_pixel, x_tile_stride=mr * x_pixel, y_run_stride=length * y_pixel,
        y_tile_stride=mr * y_pixel,
    )  # fmt: skip
    tile = blank(
            convolution.TileLoops,
        x_pixel_stride=x_pixel, y_pixel_stride=y_pixel, taps_y=1, taps_x=1, k=k, x_k_stride=4, k_block=k,
        activation=code(None),
    )  # fmt: skip
    record = np.array([*region, *tile], np.int64)
    tensors = {"weight": weight, "bias": bias}
    attributes = dict(stride=1, padding=0, groups=1)
    exact = ops.OPS["conv2d"].reference([x.transpose(0, 3, 1, 2)], tensors, attributes)
    exact = exact.transpose(0, 2, 3, 1).ravel()
    nest = library.function(convolution.LoopNest())
    for parallel_n in (0, 1):
        call = convolution.Instruction(
            x=x.ctypes.data, x_image_stride=rows * length * x_pixel, x_group_stride=0, w=packed.ctypes.data,
            w_image_stride=0, panel_stride=packed[0].nbytes, bias=bias.ctypes.data, y=y.ctypes.data,
            y_image_stride=rows * length * y_pixel, y_panel_stride=4 * lanes, images=2, panels=2, panels_per_group=2,
            regions=record.ctypes.data, region_count=1, parallel_n=parallel_n, block_tiles=2, lookahead=0,
            lookahead_bytes=0, next_panel=packed.ctypes.data, next_panel_thread_stride=0,
        )  # fmt: skip
        instruction = np.array([0, *call], np.int64)
        for threads in (1, 3, 7):
            written = 0
            for thread in range(threads):
                y.view(np.uint32)[...] = CANARY
                nest(instruction.ctypes.data, thread, threads)
                mine = y.view(np.uint32) != CANARY
                np.testing.assert_array_equal(y[mine], exact[mine])
                written = written + mine
            assert (written == 1).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_barrier_between_steps_and_timestamps(threads):
    """Each step reads what its neighbour wrote: y[p] = x[p + 1] + 1, 60 times over; then the time stamps."""
    steps, pixels = 60, 40
    spec = elementwise.Elementwise(16, "piecewise")
    table = np.zeros((steps, program.WORDS), np.int64)
    values, one = np.zeros((steps + 1, pixels + steps, 16), np.float32), np.ones(16, np.float32)
    values[0] = np.arange(pixels + steps)[:, None]
    for step in range(steps):
        call = blank(
            elementwise.Instruction,
            x=values[step, 1:].ctypes.data, x_pixel_stride=64, shift=one.ctypes.data, y=values[step + 1].ctypes.data,
            y_pixel_stride=64, images=1, pixels=pixels + steps - step - 1, vectors=1, activation=code(None),
        )  # fmt: skip
        table[step, 0], table[step, 1 : 1 + len(call)] = library.addresses([spec])[kernel_name(spec)], call
        table[step, -1] = 1
    team = runtime.team(threads)
    for _ in range(20):
        values[1:] = np.nan
        team.run(table)
        np.testing.assert_array_equal(values[-1, :pixels, 0], np.arange(pixels) + 2 * steps)
    timestamps = np.zeros((threads, steps, TIMESTAMPS), np.int64)
    team.run(table, timestamps)
    assert (np.diff(timestamps[0].ravel()) >= 0).all() and timestamps[0, 0, 0] > 0


def test_peak_and_read():
    out = np.zeros(24 * 16, np.float32)
    row = np.array([0, *peak.PeakInstruction(5, out.ctypes.data)], np.int64)
    library.function(peak.Peak(24, 16))(row.ctypes.data, 0, 1)
    np.testing.assert_array_equal(out, 2 - 2.0**-5)
    x = np.ones(2048, np.float32)
    row = np.array([0, *peak.ReadInstruction(x.ctypes.data, 4096, 3, out.ctypes.data)], np.int64)
    for thread in range(2):
        library.function(peak.Read(16))(row.ctypes.data, thread, 2)
    assert out[: 2 * 128].sum() == 3 * 2048
