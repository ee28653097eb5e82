"""The two kernels that limits.py measures the machine with: multiply-adds from registers, and reads."""

from __future__ import annotations

import numpy as np

PEAK_FIELDS = ("iterations", "y")
READ_FIELDS = ("x", "bytes", "repeats", "y")
CHAINS = {32: 24, 16: 12}  # accumulators by vector registers: latency times throughput of any core, and then some


def build_peak(lanes: int, registers: int):
    """Multiply-adds with nothing but registers: chains enough to fill every unit."""
    from .simd.intrinsics import arguments
    from .simd.tile import block

    chains = CHAINS[registers]
    t, fields = block(chains, 1, lanes), arguments(len(PEAK_FIELDS))
    splat, fma, sum_into, factor, summand = t.splat, t.fma_scalars, t.store, np.float32(0.5), np.float32(1.0)

    def peak(instruction, thread, threads):
        iterations, y = fields(instruction)
        acc = splat(summand)
        for _ in range(iterations):
            acc = fma(acc, factor, summand)
        sum_into(acc, y + thread * chains * lanes * 4, lanes * 4)

    return peak


def build_read(lanes: int):
    """Every vector of a buffer loaded and added, over and over; each thread has a buffer of its own."""
    from .simd.intrinsics import arguments
    from .simd.tile import block

    t, fields = block(8, 1, lanes), arguments(len(READ_FIELDS))
    zeros, add, store = t.zeros, t.add, t.store
    step = 4 * lanes

    def read(instruction, thread, threads):
        x, size, repeats, y = fields(instruction)
        x += thread * size
        acc = zeros()
        for _ in range(repeats):
            for at in range(x, x + size, 8 * step):
                acc = add(acc, at, step)
        store(acc, y + thread * 8 * step, step)

    return read
