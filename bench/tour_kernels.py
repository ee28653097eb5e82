"""A matrix product in six steps, from three loops to the micro-kernel of this project: see docs/kernel-tour.md.

    y[p, o] = sum over k of x[p, k] * w[o, k]       M pixels p, N output channels o, K input channels k

Every function here takes the spec of a register tile and returns one step, compiled by `numba.njit`. All arrays are
contiguous float32: x (M, K), y (M, N), with N a multiple of a micro-panel's output channels (only `naive` takes any)
and M at least mr. Where pixels do not come out even, the last tile begins early and computes some of them again.

The operations of a register tile (kernels/simd/tile.py) take addresses and strides in bytes: `address(x, p, k)` is
where x[p, k] lies, and 4 is the size of a float32.
"""

from __future__ import annotations

import numba
import numpy as np
from nanoinfer.kernels.matmul import Matmul
from nanoinfer.kernels.simd import CACHE_LINE, activation
from nanoinfer.kernels.simd.intrinsics import prefetch
from nanoinfer.kernels.simd.tile import register_tile as operations

njit = numba.njit(error_model="numpy")  # no fast-math: every sum in the order in which it is written


@njit
def address(array, row, column):
    return array.ctypes.data + row * array.strides[0] + 4 * column


def naive(_: Matmul):
    """1. The definition. w (N, K) is in its checkpoint's order."""

    @njit
    def product(x, w, y):
        for p in range(x.shape[0]):
            for o in range(w.shape[0]):
                total = np.float32(0)
                for k in range(x.shape[1]):
                    total += x[p, k] * w[o, k]
                y[p, o] = total

    return product


def register_tile(spec: Matmul):
    """2. mr pixels by nr vectors of sums in registers. w (K, N): output channels side by side."""
    tile = operations(spec.mr, spec.nr, spec.lanes)
    zeros, fma_outer, store = tile.zeros, tile.fma_outer, tile.store
    mr, width = spec.mr, spec.nr * spec.lanes

    @njit
    def product(x, w, y):
        m, k, n = x.shape[0], x.shape[1], y.shape[1]
        for first in range(0, m, mr):
            p = min(first, m - mr)
            for o in range(0, n, width):
                acc, a, b = zeros(), address(x, p, 0), address(w, 0, o)
                for _ in range(k):
                    acc = fma_outer(acc, a, 4 * k, b)
                    a += 4
                    b += 4 * n
                store(acc, address(y, p, o), 4 * n)

    return product


def packed_panels(spec: Matmul):
    """3. Weights in the order in which they are read. w (panels, K * width): a micro-panel is one stream."""
    tile = operations(spec.mr, spec.nr, spec.lanes)
    zeros, fma_outer, store = tile.zeros, tile.fma_outer, tile.store
    mr, width = spec.mr, spec.nr * spec.lanes

    @njit
    def product(x, w, y):
        m, k, n = x.shape[0], x.shape[1], y.shape[1]
        for first in range(0, m, mr):
            p = min(first, m - mr)
            for panel in range(len(w)):
                acc, a, b = zeros(), address(x, p, 0), address(w, panel, 0)
                for _ in range(k):
                    acc = fma_outer(acc, a, 4 * k, b)
                    a += 4
                    b += 4 * width
                store(acc, address(y, p, panel * width), 4 * n)

    return product


def cache_blocks(spec: Matmul):
    """4. A block of pixels stays in L2 while all micro-panels pass. `block` is a number of pixels, a multiple of mr."""
    tile = operations(spec.mr, spec.nr, spec.lanes)
    zeros, fma_outer, store = tile.zeros, tile.fma_outer, tile.store
    mr, width = spec.mr, spec.nr * spec.lanes

    @njit
    def product(x, w, y, block):
        m, k, n = x.shape[0], x.shape[1], y.shape[1]
        for start in range(0, m, block):
            for panel in range(len(w)):
                for first in range(start, min(start + block, m), mr):
                    p = min(first, m - mr)
                    acc, a, b = zeros(), address(x, p, 0), address(w, panel, 0)
                    for _ in range(k):
                        acc = fma_outer(acc, a, 4 * k, b)
                        a += 4
                        b += 4 * width
                    store(acc, address(y, p, panel * width), 4 * n)

    return product


def prefetching(spec: Matmul):
    """5. While one micro-panel is used, the next one is prefetched, a cache line with each step over k."""
    tile = operations(spec.mr, spec.nr, spec.lanes)
    zeros, fma_outer, store = tile.zeros, tile.fma_outer, tile.store
    mr, width = spec.mr, spec.nr * spec.lanes

    @njit
    def product(x, w, y, block):
        m, k, n = x.shape[0], x.shape[1], y.shape[1]
        for start in range(0, m, block):
            for panel in range(len(w)):
                ahead = address(w, (panel + 1) % len(w), 0)
                ahead_end = ahead + 4 * k * width
                for first in range(start, min(start + block, m), mr):
                    p = min(first, m - mr)
                    acc, a, b = zeros(), address(x, p, 0), address(w, panel, 0)
                    next_line = ahead if ahead < ahead_end else b
                    for _ in range(k):
                        acc = fma_outer(acc, a, 4 * k, b)
                        prefetch(next_line)
                        next_line += CACHE_LINE
                        a += 4
                        b += 4 * width
                    ahead += k * CACHE_LINE
                    store(acc, address(y, p, panel * width), 4 * n)

    return product


def unfused(spec: Matmul):
    """6a. The whole layer, min(max(x w + bias + residual, 0), 6): the product, then three passes over y."""
    product = prefetching(spec)

    def layer(x, w, bias, residual, y, block):
        product(x, w, y, block)
        np.add(y, bias, out=y)
        np.add(y, residual, out=y)
        np.clip(y, 0, 6, out=y)

    return layer


def fused(spec: Matmul):
    """6b. The same layer: an epilogue finishes the sums while they are in registers.

    What the epilogue reads and writes is prefetched when the tile begins, y with write intent.
    """
    tile = operations(spec.mr, spec.nr, spec.lanes)
    zeros, no_bias, fma_outer, add = tile.zeros, tile.minus_zeros, tile.fma_outer, tile.add
    prefetch_pixels, prefetch_write = tile.prefetch, tile.prefetch_write
    epilogue, relu6 = activation.epilogue(tile, spec.variant), activation.code("relu6")
    mr, width = spec.mr, spec.nr * spec.lanes

    @njit
    def layer(x, w, bias, residual, y, block):
        m, k, n = x.shape[0], x.shape[1], y.shape[1]
        for start in range(0, m, block):
            for panel in range(len(w)):
                ahead = address(w, (panel + 1) % len(w), 0)
                ahead_end = ahead + 4 * k * width
                for first in range(start, min(start + block, m), mr):
                    p, o = min(first, m - mr), panel * width
                    acc, a, b = zeros(), address(x, p, 0), address(w, panel, 0)
                    prefetch_pixels(address(residual, p, o), 4 * n)
                    prefetch_write(address(y, p, o), 4 * n)
                    next_line = ahead if ahead < ahead_end else b
                    for _ in range(k):
                        acc = fma_outer(acc, a, 4 * k, b)
                        prefetch(next_line)
                        next_line += CACHE_LINE
                        a += 4
                        b += 4 * width
                    ahead += k * CACHE_LINE
                    acc = add(acc, address(bias, 0, o), 0)
                    acc = add(acc, address(residual, p, o), 4 * n)
                    epilogue(acc, relu6, address(y, p, o), 4 * n, no_bias())

    return layer
