"""The two kernels that the machine is measured with: multiply-adds from registers, and reads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PEAK_FACTOR, PEAK_SUMMAND = np.float32(0.5), np.float32(1.0)
READ_MR = 8  # vectors of a tile of sums: enough loads under way for any core


class Peak(NamedTuple):
    chains: int  # accumulators: enough to hide the latency of a multiply-add on every unit
    lanes: int


class PeakInstruction(NamedTuple):
    iterations: int
    y: int  # address of `chains` vectors for each thread


def build_peak(spec: Peak):
    """2 * chains * lanes * iterations FLOP, with nothing but registers."""
    from .simd.intrinsics import instruction_reader
    from .simd.tile import register_tile

    t, vector = register_tile(spec.chains, 1, spec.lanes), 4 * spec.lanes
    splat, fma_scalars, store, read = t.splat, t.fma_scalars, t.store, instruction_reader(PeakInstruction)
    y_thread_stride = spec.chains * vector

    def peak(row_address, thread, threads):
        call = read(row_address)
        acc = splat(PEAK_SUMMAND)
        for _ in range(call.iterations):
            acc = fma_scalars(acc, PEAK_FACTOR, PEAK_SUMMAND)
        store(acc, call.y + thread * y_thread_stride, vector)

    return peak


class Read(NamedTuple):
    lanes: int


class ReadInstruction(NamedTuple):
    x: int  # address of `size` bytes for each thread
    size: int
    repeats: int
    y: int  # address of READ_MR vectors for each thread


def build_read(spec: Read):
    """Every vector of a buffer loaded and added, over and over; each thread has a buffer of its own."""
    from .simd.intrinsics import instruction_reader
    from .simd.tile import register_tile

    t, vector = register_tile(READ_MR, 1, spec.lanes), 4 * spec.lanes
    zeros, add, store, read_instruction = t.zeros, t.add, t.store, instruction_reader(ReadInstruction)
    tile_bytes = READ_MR * vector

    def read(row_address, thread, threads):
        call = read_instruction(row_address)
        x = call.x + thread * call.size
        acc = zeros()
        for _ in range(call.repeats):
            for at in range(x, x + call.size, tile_bytes):
                acc = add(acc, at, vector)
        store(acc, call.y + thread * tile_bytes, vector)

    return read
