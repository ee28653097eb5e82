"""Max pooling, as a tile of the convolution loop nest, and the global average."""

from __future__ import annotations

import numpy as np

from .convolution import REGION, TILE_START
from .simd import PARTIALS

AVERAGE_FIELDS = ("x", "x_image", "x_pixel", "pixels", "y", "y_image", "images", "vectors", "reciprocal")


def max_oracle(x, kernel, stride, padding):
    """The definition in NumPy: x (N, H, W, C) -> (N, OH, OW, C); taps outside of the image do not count."""
    edge = (padding, padding)
    padded = np.pad(x, ((0, 0), edge, edge, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))
    return windows[:, ::stride, ::stride].max((-2, -1))


def build_max(rows: int, vectors: int, lanes: int):
    """The micro-kernel for `rows` pixels and `vectors` vectors of channels; weights and bias are not read."""
    from .simd.intrinsics import arguments
    from .simd.tile import block

    t = block(rows, vectors, lanes)
    splat, maximum, store = t.splat, t.max, t.store
    fields, lowest = arguments(REGION.index("depth") - TILE_START, TILE_START), np.float32(-np.inf)

    def max_pool(region, x, w, bias, y, count, ahead, ahead_end):
        (x_step, y_step, taps_y, taps_x, x_tap_y, x_tap_x) = fields(region)
        for _ in range(count):
            acc = splat(lowest)
            for ky in range(taps_y):
                for kx in range(taps_x):
                    acc = maximum(acc, x + ky * x_tap_y + kx * x_tap_x, x_step)
            store(acc, y, y_step)
            x += rows * x_step
            y += rows * y_step

    return max_pool


def average_oracle(x):
    """The definition in NumPy: x (N, pixels, C) -> (N, C)."""
    return x.mean(1)


def build_average(lanes: int):
    """Mean over an image's pixels: pixel i goes to partial sum i % 16, the partial sums to a fixed tree.

    The pixels left over after the last whole 16 are added to the tree's result one by one.
    """
    from .simd.intrinsics import arguments, float_from_bits
    from .simd.tile import block

    sums, one = block(PARTIALS, 1, lanes), block(1, 1, lanes)
    zeros, add_rows, sum_rows, add, times, store = sums.zeros, sums.add, sums.sum_rows, one.add, one.times, one.store
    fields = arguments(len(AVERAGE_FIELDS))

    def average_pool(instruction, thread, threads):
        x, x_image, x_pixel, pixels, y, y_image, images, vectors, reciprocal = fields(instruction)
        units = images * vectors
        for unit in range(units * thread // threads, units * (thread + 1) // threads):
            image = unit // vectors
            offset = (unit - image * vectors) * (4 * lanes)
            pixel = x + image * x_image + offset
            acc = zeros()
            for _ in range(pixels // PARTIALS):
                acc = add_rows(acc, pixel, x_pixel)
                pixel += PARTIALS * x_pixel
            total = sum_rows(acc)
            for _ in range(pixels % PARTIALS):
                total = add(total, pixel, 0)
                pixel += x_pixel
            store(times(total, float_from_bits(reciprocal)), y + image * y_image + offset, 0)

    return average_pool
