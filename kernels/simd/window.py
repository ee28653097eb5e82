"""One row of taps of a depthwise convolution on a register tile: what neighbouring outputs share is loaded once.

    acc[p] += sum over kx, k of shuffled(x[p * stride + kx], k) * w[kx][k]

Groups have `group` channels; `shuffled(x, k)` puts lane l ^ k in lane l, so that in `group` steps every output channel
meets every input channel of its group (depthwise.py).
"""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

from llvmlite import ir

from .intrinsics import int64, offset_by, operation
from .vector import i32, i64


class Window(NamedTuple):
    """A row of taps, in input columns under a tile."""

    size: int  # taps
    stride: int  # input columns from an output pixel to the next
    padding: int  # columns that may lie beyond either end of an image row
    group: int  # channels of a group: 1, 2, 4 or 8
    skipped: tuple[int, int] | None = None  # (left, right): as many columns always lie beyond, and are left out


def windows(tile) -> dict:
    """The operation `fma_window(window)` of a tile of one vector a pixel; see the module's docstring.

    The intrinsic takes (acc, x, stride, w, pad_left, pad_right, zeros): of the first and last columns, as many as
    `pad_left` and `pad_right` say (up to `padding`) are read from `zeros`, a vector of zeros, instead. They are not
    looked at where the window has `skipped` columns.
    """

    def fma_window(window: Window):
        columns = (tile.mr - 1) * window.stride + window.size
        left, right = window.skipped or (0, 0)
        interleaved = _interleaved_columns(tile.mr, window, range(left, columns - right))

        def shuffled(builder, value, k):
            if k == 0:
                return value
            order = [lane ^ k for lane in range(tile.lanes)]
            return builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(i32, tile.lanes), order))

        @operation(tile, tile, *[int64] * 6)
        def fma(builder, acc, x, stride, w, *border):
            pad_left, pad_right, zeros = border

            def column_address(column):
                address = offset_by(builder, x, stride, column)
                for pad, distance in ((pad_left, column), (pad_right, columns - 1 - column)):
                    if distance < window.padding and not window.skipped:
                        beyond = builder.icmp_signed(">", pad, ir.Constant(i64, distance))
                        address = builder.select(beyond, zeros, address)
                return address

            acc, step = tile.unpack(builder, acc), ir.Constant(i64, 4 * tile.lanes * tile.nr)
            taps = range(window.size * window.group)
            weights = [tile.load_pixel(builder, offset_by(builder, w, step, index)) for index in taps]
            for turn in interleaved:
                memory = {column: tile.load_pixel(builder, column_address(column)) for column, _ in turn}
                for k in range(window.group):
                    for column, pixels in turn:
                        parts = [shuffled(builder, value, k) for value in memory[column]]
                        for kx in range(window.size):
                            p, rest = divmod(column - kx, window.stride)
                            if rest == 0 and p in pixels:
                                for v in range(tile.nr):
                                    weight = weights[kx * window.group + k][v]
                                    acc[p, v] = tile.fma(builder, parts[v], weight, acc[p, v])
            return tile.pack(builder, acc.values())

        return fma

    return dict(fma_window=fma_window)


def _interleaved_columns(mr: int, window: Window, present: range) -> list[list[tuple[int, range]]]:
    """Turns of one or two (column, output pixels that it serves), in the order in which columns are loaded.

    An output's chain of multiply-adds walks along the columns; the two halves of a tile take turns, so that a chain
    need not wait for its own last result.
    """
    middle = (mr + 1) // 2
    halves = [
        [
            (column, range(first, end))
            for column in range(first * window.stride, (end - 1) * window.stride + window.size)
        ]
        for first, end in ((0, middle), (middle, mr))
        if first < end
    ]
    return [[part for part in turn if part and part[0] in present] for turn in zip_longest(*halves)]
