"""Depthwise convolution and its relative with narrow groups: lanes run over channels.

    y[p, c] = activation(bias[c] + sum over ky, kx, k of x[p stride + (ky, kx) - padding, first(c) + k] w[c, k, ky, kx])

first(c) is the first channel of c's group. k runs over the `group` channels of a group: one in a depthwise convolution,
4 or 8 in ResNeXt, where a vector holds several whole groups and shuffles inside the register bring each input channel
to all lanes of its group. In step k, lane l meets input channel l ^ k: these shuffles are half as many instructions as
those that spread channel k over its group, since they swap neighbours, pairs of lanes and quadruples and no more.
Weights are packed in the same order (`crossed`).

A tile is a run of `rows` output pixels of one line, one vector of channels wide. For each line of taps the input
pixels under the tile are loaded (and shuffled) once, from left to right, and each is multiplied into every output that
it belongs to: (rows - 1) stride + size loads for rows * size * group multiply-adds. An output still receives its
taps in the order (ky, kx, k), so its bits do not depend on where its tile starts or on how many lanes there are. Pixels
beyond the border are read from a vector of zeros, or left out where a tile is a whole line (which is the same, unless a
weight is infinite); lines beyond it are left out.
"""

from __future__ import annotations

import numpy as np

from .simd.activation import FIELDS as ACTIVATION
from .simd.activation import finish

FIELDS = (
    "x", "x_image", "x_line", "x_pixel", "w", "bias", "zeros", "y", "y_image", "y_line", "y_pixel", "residual",
    "images", "height", "width", "out_height", "out_width", "first", "ring", "band", "panels", *ACTIVATION,
)  # fmt: skip


def oracle(x, weight, bias, stride, padding):
    """The definition in NumPy: x (N, H, W, C), weight (C, group, K, K) -> (N, OH, OW, C), in the dtype of x."""
    channels, group, size, _ = weight.shape
    edge = (padding, padding)
    padded = np.pad(x, ((0, 0), edge, edge, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    first = np.arange(channels) // group * group
    y = sum(
        np.einsum("nhwcij,cij->nhwc", windows[:, :, :, first + k], weight[:, k].astype(x.dtype)) for k in range(group)
    )
    return y + bias.astype(x.dtype)


def crossed(weight: np.ndarray) -> np.ndarray:
    """(O, group, K, K) with the weights of input channel k ^ (o mod group) in place of those of channel k."""
    out, group, *_ = weight.shape
    channels = np.arange(group) ^ np.arange(out)[:, None] % group
    return np.take_along_axis(weight, channels[..., None, None], 1)


def build(size: int, stride: int, padding: int, rows: int, lanes: int, activation: str, group: int, whole: int):
    """Taps size x size; tiles of `rows` pixels, at most the width of the output; groups of `group` channels.

    The last tile of a line starts early enough to be a full one; what it computes again comes out the same. Threads
    split units of one panel (a vector of channels) and one band (`band` lines: few enough to stay in cache while all
    panels pass over them, or all there are). The input may be a ring of lines, line n at n modulo `ring`, and y some
    lines of the output from line `first` on. `whole` is the width of the input if a tile is a whole line of the output,
    or else 0: what lies beyond the ends of a line is then known, and left out. Assumes: the channels of a pixel are
    contiguous with room for whole vectors.
    """
    from .simd.intrinsics import arguments, maximum, minimum
    from .simd.tile import block

    t = block(rows, 1, lanes)
    absent = (padding, max(0, (rows - 1) * stride + size - padding - whole)) if whole else None
    load_row, add, fma_window = t.load_row, t.add, t.fma_window(size, stride, padding, group, absent)
    store_activated, fields = finish(t, activation), arguments(len(FIELDS))
    vector = 4 * lanes
    line_of_taps = size * group * vector

    def depthwise(instruction, thread, threads):
        (x, x_image, x_line, x_pixel, w, bias, zeros, y, y_image, y_line, y_pixel, residual, images, height, width,
         out_height, out_width, first_row, ring, band, panels, kind) = fields(instruction)  # fmt: skip
        lines = images * out_height
        units = -(-lines // band) * panels
        for unit in range(units * thread // threads, units * (thread + 1) // threads):
            first, panel = unit // panels * band, unit % panels
            weights = w + panel * size * line_of_taps
            for line in range(first, minimum(first + band, lines)):
                image = line // out_height
                row = line - image * out_height
                top = (first_row + row) * stride - padding
                source = x + image * x_image + panel * vector
                target = y + image * y_image + row * y_line + panel * vector
                first_tap, end_tap = maximum(0, -top), minimum(size, height - top)
                first_slot = (top + first_tap) % ring
                for tile in range(0, out_width, rows):
                    start = minimum(tile, out_width - rows)
                    left = start * stride - padding
                    beyond = left + (rows - 1) * stride + size - width
                    acc, slot = load_row(bias + panel * vector), first_slot
                    for ky in range(first_tap, end_tap):
                        at = source + slot * x_line + left * x_pixel
                        acc = fma_window(acc, at, x_pixel, weights + ky * line_of_taps, -left, beyond, zeros)
                        slot = slot + 1 if slot + 1 < ring else 0
                    out = target + start * y_pixel
                    if residual != 0:
                        acc = add(acc, out + residual, y_pixel)
                    store_activated(acc, kind, out, y_pixel)

    return depthwise
