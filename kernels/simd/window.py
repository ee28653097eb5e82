"""All taps of a depthwise convolution on a register tile: what neighbouring outputs share is loaded once.

    acc[p] += sum over ky, k, kx of spread(x[ky, p * stride + kx], k) * w[ky][kx][k]

Groups have `group` channels; `spread(x, k)` has channel k of each group in all lanes of the group (depthwise.py).
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir
from numba import types

from .intrinsics import int64, offset_by, operation, prefetch_from, void
from .vector import i32, i64

# Between two taps of a row this many other outputs take theirs: by then the multiply-add before has its result.
SKEW = 2


class Window(NamedTuple):
    """Taps, and where an image may end under a tile."""

    size: int  # taps in each direction
    stride: int  # input columns from an output pixel to the next
    padding: int  # columns that may lie beyond either end of an image row
    group: int  # channels of a group: 1, 2, 4 or 8
    skipped: tuple[int, int] | None = None  # (left, right): as many columns always lie beyond, and are left out


class Inputs(NamedTuple):
    """What a tile is computed from, as LLVM values. Strides are in bytes.

    `rows` are what `window_rows` gave; `offset` leads from there to the first column of the tile. Of the first and last
    columns, as many as `pad_left` and `pad_right` say (up to `Window.padding`) are read from `zeros`, a vector of
    zeros, instead; they are not looked at where the window has `skipped` columns.
    """

    rows: object
    offset: object
    pixel_stride: object
    w: object
    pad_left: object
    pad_right: object
    zeros: object


def windows(tile) -> dict:
    """Operations of a tile of one vector a pixel.

    `window_rows(window)(x, row_stride, slot, slots, top, height)`: addresses of the rows of an image under a window, 0
    where it goes beyond the image of `height` rows. x is a circular buffer of `slots` rows, in which image row `top`,
    the first of the window, is at `slot`. A whole row of tiles has the same.
    `prefetch_rows(window)(rows, offset, pixel_stride)` prefetches as many columns as a tile goes on by, into L1, of
    each of `stride` rows.
    `fma_window(window)` takes acc and the fields of Inputs, and gives acc.
    """

    def window_rows(window: Window):
        @operation(types.UniTuple(int64, window.size), *[int64] * 6)
        def rows(builder, *words):
            x, row_stride, slot, slots, top, height = words
            packed = ir.Constant(ir.ArrayType(i64, window.size), ir.Undefined)
            for ky in range(window.size):
                inside = builder.icmp_unsigned("<", builder.add(top, ir.Constant(i64, ky)), height)
                at = builder.add(slot, ir.Constant(i64, ky))
                at = builder.select(builder.icmp_signed("<", at, slots), at, builder.sub(at, slots))
                row = builder.add(x, builder.mul(at, row_stride))
                packed = builder.insert_value(packed, builder.select(inside, row, ir.Constant(i64, 0)), ky)
            return packed

        return rows

    def fma_window(window: Window):
        @operation(tile, tile, types.UniTuple(int64, window.size), *[int64] * (len(Inputs._fields) - 1))
        def fma(builder, acc, *words):
            acc, inputs = [builder.extract_value(acc, p) for p in range(tile.mr)], Inputs(*words)
            for ky in range(window.size):
                row, before = builder.extract_value(inputs.rows, ky), builder.block
                with builder.if_then(builder.icmp_unsigned("!=", row, ir.Constant(i64, 0))):
                    taps = ir.Constant(i64, 4 * tile.lanes * window.size * window.group * ky)
                    of_row = inputs._replace(w=builder.add(inputs.w, taps))
                    x = builder.add(row, inputs.offset)
                    summed, after = _with_row(builder, tile, window, x, of_row, list(acc)), builder.block
                acc = [_phi(builder, (old, before), (new, after)) for old, new in zip(acc, summed, strict=True)]
            return tile.pack(builder, acc)

        return fma

    def prefetch_rows(window: Window):
        @operation(void, types.UniTuple(int64, window.stride), int64, int64)
        def prefetch(builder, rows, offset, pixel_stride):
            for number in range(window.stride):
                row = builder.extract_value(rows, number)
                with builder.if_then(builder.icmp_unsigned("!=", row, ir.Constant(i64, 0))):
                    for column in range(tile.mr * window.stride):
                        address = offset_by(builder, builder.add(row, offset), pixel_stride, column)
                        prefetch_from(builder, address, near=True)

        return prefetch

    return dict(window_rows=window_rows, prefetch_rows=prefetch_rows, fma_window=fma_window)


def _with_row(builder, tile, window: Window, x, row: Inputs, acc: list) -> list:
    """The accumulators after one row of taps, whose columns begin at x and whose weights at w of `row`."""
    columns, (left, right) = (tile.mr - 1) * window.stride + window.size, window.skipped or (0, 0)

    def vector(column):
        address = offset_by(builder, x, row.pixel_stride, column)
        for pad, distance in ((row.pad_left, column), (row.pad_right, columns - 1 - column)):
            if distance < window.padding and not window.skipped:
                beyond = builder.icmp_signed(">", pad, ir.Constant(i64, distance))
                address = builder.select(beyond, row.zeros, address)
        return tile.load_pixel(builder, address)[0]

    def weight(kx, k):
        offset = 4 * tile.lanes * (kx * window.group + k)
        return tile.load_pixel(builder, builder.add(row.w, ir.Constant(i64, offset)))[0]

    for k in range(window.group):
        if k:
            # No instruction, but LLVM loads x again: kept for all k, it would take more registers than there are, while
            # a shuffle or a broadcast takes its operand from memory.
            builder.fence("seq_cst", "singlethread")
        weights, values = [weight(kx, k) for kx in range(window.size)], {}
        for slot in range(tile.mr + SKEW * (window.size - 1)):
            for kx in range(window.size):
                p = slot - SKEW * kx
                column = p * window.stride + kx
                if 0 <= p < tile.mr and left <= column < columns - right:
                    if column not in values:
                        values[column] = _spread(builder, vector(column), window.group, k)
                    acc[p] = tile.fma(builder, values[column], weights[kx], acc[p])
    return acc


def _spread(builder, value, group: int, k: int):
    """Channel k of each group in all lanes of the group."""
    lanes = value.type.count
    order = ir.Constant(ir.VectorType(i32, lanes), [lane // group * group + k for lane in range(lanes)])
    return builder.shuffle_vector(value, value, order) if group > 1 else value


def _phi(builder, *incoming):
    phi = builder.phi(incoming[0][0].type)
    for value, block in incoming:
        phi.add_incoming(value, block)
    return phi
