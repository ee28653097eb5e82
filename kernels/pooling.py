"""Pooling: the maximum of a window, as a micro-kernel of the convolution's loop nest, and the mean of an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .convolution import TileCall, TileLoops
from .program import bits
from .simd import PARTIALS


class MaxPool(NamedTuple):
    mr: int  # pixels
    nr: int  # vectors of channels
    lanes: int


def max_reference(x: np.ndarray, window: int, stride: int, padding: int) -> np.ndarray:
    """x (N, H, W, C) -> (N, OH, OW, C); taps outside of the image do not count."""
    edge = (padding, padding)
    padded = np.pad(x, ((0, 0), edge, edge, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window), (1, 2))
    return windows[:, ::stride, ::stride].max((-2, -1))


def max_example(lanes: int, generator: np.random.Generator, check) -> None:
    """Two tiles of one row of outputs: 3 x 3 at stride 2, no padding."""
    for mr, nr in ((1, 1), (5, 2), (3, 4)):
        x = generator.standard_normal((1, 3, 4 * mr + 1, nr * lanes), np.float32)
        _, row, pixel, _ = x.strides
        check(
            MaxPool(mr, nr, lanes), max_reference(x, 3, 2, 0), x=x, count=2, x_pixel_stride=2 * pixel,
            y_pixel_stride=pixel, taps_y=3, taps_x=3, x_tap_y_stride=row, x_tap_x_stride=pixel,
        )  # fmt: skip


def build_max(spec: MaxPool):
    """Weights and bias are not read."""
    from .simd.intrinsics import reader
    from .simd.tile import register_tile

    mr = spec.mr
    t = register_tile(mr, spec.nr, spec.lanes)
    splat, maximum, store = t.splat, t.max, t.store
    read_loops, read_call, lowest = reader(TileLoops), reader(TileCall), np.float32(-np.inf)

    def max_pool(loops_address, call_address):
        loops, call = read_loops(loops_address), read_call(call_address)
        x, y = call.x, call.y
        for _ in range(call.count):
            acc = splat(lowest)
            for ky in range(loops.taps_y):
                for kx in range(loops.taps_x):
                    tap = x + ky * loops.x_tap_y_stride + kx * loops.x_tap_x_stride
                    acc = maximum(acc, tap, loops.x_pixel_stride)
            store(acc, y, loops.y_pixel_stride)
            x += mr * loops.x_pixel_stride
            y += mr * loops.y_pixel_stride

    return max_pool


BLOCK = 16 * PARTIALS  # pixels of a mean that are summed before they meet the rest


class AveragePool(NamedTuple):
    lanes: int


class AverageInstruction(NamedTuple):
    """The mean over the pixels of each image. Strides are in bytes."""

    x: int  # address of the first pixel
    x_image_stride: int
    x_pixel_stride: int
    pixels: int  # of an image
    y: int  # address
    y_image_stride: int
    images: int
    vectors: int  # of channels
    reciprocal: int  # 1 / pixels, the bits of a float32


def average_reference(x: np.ndarray) -> np.ndarray:
    """x (N, pixels, C) -> (N, C), in the dtype of x."""
    return x.mean(1)


def average_example(lanes: int, generator: np.random.Generator, check) -> None:
    """Fewer than 16 pixels, whole sixteens, some left over, and several blocks."""
    for pixels in (1, 15, 32, 35, 2 * BLOCK + 21):
        x = generator.standard_normal((2, pixels, 3 * lanes), np.float32)
        check(
            AveragePool(lanes), average_reference(x.astype(np.float64)),
            x=x, x_image_stride=x.strides[0], x_pixel_stride=x.strides[1], pixels=pixels, y_image_stride=x.strides[1],
            images=2, vectors=3, reciprocal=bits(1 / pixels),
        )  # fmt: skip


def build_average(spec: AveragePool):
    """Of each 256 pixels, pixel i goes to partial sum i % 16; a fixed tree adds the 16, and a chain their sums.

    Rounding errors of equal values are equal, so those of a long chain over a flat image do not cancel: one of the 196
    pixels that are a sixteenth of 56 x 56 would be 30 times as far off as torch's cascade. The pixels left over after
    the last whole 16 are added one by one. Threads split images and vectors of channels.
    """
    from .simd.intrinsics import float_from_bits, instruction_reader, minimum
    from .simd.tile import register_tile

    vector = 4 * spec.lanes
    partials, single = register_tile(PARTIALS, 1, spec.lanes), register_tile(1, 1, spec.lanes)
    zeros, add_pixels, sum_pixels = partials.zeros, partials.add, partials.sum_pixels
    zero, plus, add, times, store = single.zeros, single.sum, single.add, single.times, single.store
    read = instruction_reader(AverageInstruction)

    def average_pool(row_address, thread, threads):
        call = read(row_address)
        items = call.images * call.vectors
        for item in range(items * thread // threads, items * (thread + 1) // threads):
            image = item // call.vectors
            offset = (item - image * call.vectors) * vector
            pixel = call.x + image * call.x_image_stride + offset
            total = zero()
            for first in range(0, call.pixels // PARTIALS, BLOCK // PARTIALS):
                acc = zeros()
                for _ in range(minimum(BLOCK // PARTIALS, call.pixels // PARTIALS - first)):
                    acc = add_pixels(acc, pixel, call.x_pixel_stride)
                    pixel += PARTIALS * call.x_pixel_stride
                total = plus(total, sum_pixels(acc))
            for _ in range(call.pixels % PARTIALS):
                total = add(total, pixel, 0)
                pixel += call.x_pixel_stride
            store(times(total, float_from_bits(call.reciprocal)), call.y + image * call.y_image_stride + offset, 0)

    return average_pool
