"""Depthwise convolution and its relative with narrow groups: lanes run over channels.

    y[p, c] = activation(bias[c] + sum over ky, kx, k of x[p * stride + (ky, kx) - padding, g(c) + k] * w[c, k, ky, kx])

g(c) is the first channel of c's group, and k runs over the channels of a group: one in a depthwise convolution, 4
or 8 in ResNeXt, where a vector holds several whole groups, or one. In step k every lane meets input channel k of its
group: a vector that is one group takes it by a broadcast from memory, and others by a shuffle.

A tile is a run of `mr` output pixels of one image row, one vector of channels wide. For each row of taps and each k the
input pixels under the tile are loaded (and spread over their groups), and each is multiplied into every output that it
belongs to: (mr - 1) * stride + window loads for mr * window multiply-adds (simd/window.py). An output receives its taps
in the order (ky, k, kx), so its bits depend neither on where its tile starts nor on the lanes. Pixels beyond the ends
of an image row are read from a vector of zeros, or left out where a tile is a whole image row (the result is the same
unless a weight is infinite). Rows of taps beyond the image are left out.

Vectors that share cache lines take turns at each run of pixels, and with groups those of two lines do: pixels and
weights still fit L1, and each page of memory is visited for two lines. With groups, each tile also prefetches its share
of the pixels that the next tile is the first to read; a depthwise tile computes too little to hide that. (Those of the
next row of outputs would be too many for L1.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .packing import reference as packed
from .simd import CACHE_LINE
from .simd.activation import epilogue

GROUPS = (1, 2, 4, 8)  # channels of a group that the kernel takes
LINES = 2  # cache lines of channels that a thread computes together, with groups


class Depthwise(NamedTuple):
    window: int  # taps in each direction
    stride: int
    padding: int  # columns of padding to the left of an image
    mr: int  # pixels of a tile, at most the width of the output
    lanes: int
    variant: str  # of the activation
    group: int  # channels of a group
    whole_row: int = 0  # width of the input where a tile is a whole row of the output, so that its ends are known
    more_right: int = 0  # columns by which windows go further beyond the right end of an image row than the left


class Instruction(NamedTuple):
    """One convolution. The input may be a circular line buffer: image row n lies at n modulo `buffer_rows`."""

    x: int  # address of the first input pixel
    x_image_stride: int  # strides are in bytes
    x_row_stride: int
    x_pixel_stride: int
    w: int  # address of the packed weights
    bias: int  # address
    zeros: int  # address of a vector of zeros
    y: int  # address of the first output pixel
    y_image_stride: int
    y_row_stride: int
    y_pixel_stride: int
    residual_offset: int  # bytes from an output element to the one that is added to it; 0: none
    images: int
    height: int  # rows of the whole input image
    width: int
    out_height: int  # rows that are computed
    out_width: int
    first_row: int  # y begins with this row of the output
    padding_top: int  # rows of padding above an image
    buffer_rows: int  # rows that x has memory for
    block_rows: int  # rows that all vectors of channels pass over before the next block: few enough to stay in cache
    vectors: int  # of channels
    activation: int  # its code within the kernel's variant


def reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """x (N, H, W, C), weight (C, group, K, K), bias (C,) -> (N, OH, OW, C), in the dtype of x."""
    channels, group, size, _ = weight.shape
    edge = (padding, padding)
    padded = np.pad(x, ((0, 0), edge, edge, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    first = np.arange(channels) // group * group
    y = sum(
        np.einsum("nhwcij,cij->nhwc", windows[:, :, :, first + k], weight[:, k].astype(x.dtype)) for k in range(group)
    )
    return y + bias.astype(x.dtype)


def example(lanes: int, generator: np.random.Generator, check) -> None:
    """Two images of two vectors of channels: borders on all sides, tiles that overlap, and narrow groups."""
    for window, stride, group, mr in ((3, 1, 1, 4), (3, 2, 1, 2), (5, 1, 1, 3), (3, 1, 4, 2)):
        channels, padding, size = 2 * max(lanes, group), window // 2, (5, 9)
        x = generator.standard_normal((2, *size, channels), np.float32)
        weight = generator.standard_normal((channels, group, window, window), np.float32)
        bias = generator.standard_normal(channels, np.float32)
        expected = reference(x.astype(np.float64), weight, bias, stride, padding)
        _, out_height, out_width, _ = expected.shape
        check(
            Depthwise(window, stride, padding, mr, lanes, "piecewise", group), expected,
            x=x, x_image_stride=x.strides[0], x_row_stride=x.strides[1], x_pixel_stride=x.strides[2],
            w=packed(weight, lanes), bias=bias, zeros=np.zeros(lanes, np.float32),
            y_image_stride=out_height * out_width * 4 * channels, y_row_stride=out_width * 4 * channels,
            y_pixel_stride=4 * channels, images=2, height=size[0], width=size[1], out_height=out_height,
            out_width=out_width, padding_top=padding, buffer_rows=size[0], block_rows=2, vectors=channels // lanes,
        )  # fmt: skip


def build(spec: Depthwise):
    """Threads split items of one block of rows and one cache line of channels, or two of them with groups.

    The last tile of a row starts early enough to be a full one; the pixels that it computes again come out the same.
    Assumes: the channels of a pixel are contiguous and have room for whole vectors.
    """
    from .simd.intrinsics import instruction_reader, minimum
    from .simd.tile import register_tile
    from .simd.window import Window

    mr, size, stride, padding, whole_row = spec.mr, spec.window, spec.stride, spec.padding, spec.whole_row
    columns, grouped = (mr - 1) * stride + size, spec.group > 1  # columns of input under a tile
    skipped = (padding, max(0, columns - padding - whole_row)) if whole_row else None
    t, vector = register_tile(mr, 1, spec.lanes), 4 * spec.lanes
    zeros, minus_zeros, add, store_result = t.zeros, t.minus_zeros, t.add, epilogue(t, spec.variant)
    line_vectors, lines = max(1, CACHE_LINE // vector), LINES if grouped else 1
    # Vectors of a cache line prefetch equal shares of the columns that the tile goes on by.
    share = -(-mr * stride // line_vectors) if grouped else 0
    window = Window(size, stride, padding + spec.more_right, spec.group, skipped, share)
    window_rows, fma_window, read = t.window_rows(window), t.fma_window(window), instruction_reader(Instruction)
    w_vector_stride = size * size * spec.group * vector

    def depthwise(row_address, thread, threads):
        call = read(row_address)
        rows = call.images * call.out_height
        parts = -(-call.vectors // (lines * line_vectors))
        items = -(-rows // call.block_rows) * parts
        for item in range(items * thread // threads, items * (thread + 1) // threads):
            first, first_vector = item // parts * call.block_rows, item % parts * lines * line_vectors
            end_vector = minimum(first_vector + lines * line_vectors, call.vectors)
            image = first // call.out_height
            row = first - image * call.out_height
            for _ in range(minimum(call.block_rows, rows - first)):
                top = (call.first_row + row) * stride - call.padding_top
                x_image, slot = call.x + image * call.x_image_stride, top % call.buffer_rows
                rows_of_window = window_rows(x_image, call.x_row_stride, slot, call.buffer_rows, top, call.height)
                new = minimum(top + size, call.height) - stride  # the first row that no window above reads
                x_new = x_image + new % call.buffer_rows * call.x_row_stride + first_vector * vector
                below = minimum(new, call.height - 2 * stride) + stride
                x_below = x_image + below % call.buffer_rows * call.x_row_stride + first_vector * vector
                y_row = call.y + image * call.y_image_stride + row * call.y_row_stride
                for tile in range(0, call.out_width, mr):
                    start = minimum(tile, call.out_width - mr)
                    left = start * stride - padding
                    beyond = left + columns - call.width
                    x_next = x_below if start + mr == call.out_width else x_new + (left + columns) * call.x_pixel_stride
                    for v in range(first_vector, end_vector):
                        line, part = (v - first_vector) % lines, (v - first_vector) // lines
                        ahead = x_next + line * CACHE_LINE + part * share * call.x_pixel_stride
                        acc = fma_window(
                            zeros(), rows_of_window, left * call.x_pixel_stride + v * vector, call.x_pixel_stride,
                            call.w + v * w_vector_stride, -left, beyond, call.zeros, ahead, call.x_row_stride,
                        )  # fmt: skip
                        y, bias = y_row + start * call.y_pixel_stride + v * vector, call.bias + v * vector
                        if call.residual_offset != 0:
                            acc = add(add(acc, bias, 0), y + call.residual_offset, call.y_pixel_stride)
                            bias = minus_zeros()
                        store_result(acc, call.activation, y, call.y_pixel_stride, bias)
                row += 1
                if row == call.out_height:
                    row, image = 0, image + 1

    return depthwise
