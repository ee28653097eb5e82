"""All taps of a depthwise convolution on a register tile: what neighbouring outputs share is loaded once.

    acc[p] += sum over ky, k, kx of spread(x[ky, p * stride + kx], k) * w[ky][kx][k]

Groups have `group` channels; `spread(x, k)` has channel k of each group in all lanes of the group (depthwise.py).
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir
from numba import types

from .intrinsics import int64, keep_order, offset_by, opaque, operation, prefetch_from
from .vector import i32, i64

# Between two taps of a row this many other outputs take theirs: more would wait less for the multiply-add before, but
# keep more columns in registers.
SKEW = 1
COLUMNS = 5  # columns that are addressed from one register: stride * 0, 1, 2, 3 and 4 further on


class Window(NamedTuple):
    """Taps, and where an image may end under a tile."""

    size: int  # taps in each direction
    stride: int  # input columns from an output pixel to the next
    padding: int  # columns that may lie beyond either end of an image row
    group: int  # channels of a group: 1, 2, 4 or 8
    skipped: tuple[int, int] | None = None  # (left, right): as many columns always lie beyond, and are left out
    prefetched: int = 0  # columns of which a tile prefetches a cache line


class Inputs(NamedTuple):
    """What a tile is computed from, as LLVM values. Strides are in bytes.

    `rows` are what `window_rows` gave; `offset` leads from there to the first column of the tile. Of the first and last
    columns, as many as `pad_left` and `pad_right` say (up to `Window.padding`) are read from `zeros`, a vector of
    zeros, instead; they are not looked at where the window has `skipped` columns. Meanwhile `Window.prefetched` columns
    from `ahead` on are prefetched, of as many image rows as the window goes on by.
    """

    rows: object
    offset: object
    pixel_stride: object
    w: object
    pad_left: object
    pad_right: object
    zeros: object
    ahead: object
    row_stride: object


def windows(tile) -> dict:
    """Operations of a tile of one vector a pixel.

    `window_rows(window)(x, row_stride, slot, slots, top, height)`: addresses of the rows of an image under a window, 0
    where it goes beyond the image of `height` rows. x is a circular buffer of `slots` rows, in which image row `top`,
    the first of the window, is at `slot`. A whole row of tiles has the same.
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
                    x = builder.add(row, inputs.offset)
                    of_row = inputs._replace(rows=x, w=builder.add(inputs.w, taps))
                    summed, after = _with_row(builder, tile, window, ky, of_row, list(acc)), builder.block
                acc = [_phi(builder, (old, before), (new, after)) for old, new in zip(acc, summed, strict=True)]
            return tile.pack(builder, acc)

        return fma

    return dict(window_rows=window_rows, fma_window=fma_window)


def _with_row(builder, tile, window: Window, ky: int, row: Inputs, acc: list) -> list:
    """The accumulators after row ky of the taps, whose columns begin at `rows` and whose weights at `w` of `row`."""
    columns, (left, right) = (tile.mr - 1) * window.stride + window.size, window.skipped or (0, 0)
    starts = (offset_by(builder, row.rows, row.pixel_stride, column) for column in range(0, columns, COLUMNS))
    bases = [opaque(builder, start) for start in starts]
    triple = opaque(builder, builder.mul(row.pixel_stride, ir.Constant(i64, 3)))

    def vector(column):
        base, further = bases[column // COLUMNS], column % COLUMNS
        address = builder.add(base, triple) if further == 3 else offset_by(builder, base, row.pixel_stride, further)
        for pad, distance in ((row.pad_left, column), (row.pad_right, columns - 1 - column)):
            if distance < window.padding and not window.skipped:
                beyond = builder.icmp_signed(">", pad, ir.Constant(i64, distance))
                address = builder.select(beyond, row.zeros, address)
        return tile.load_pixel(builder, address)[0]

    def prefetch(k):
        """The prefetches of one step of a row: all at once would occupy the line fill buffers."""
        count, step, steps = window.prefetched * window.stride, ky * window.group + k, window.size * window.group
        for number in range(step * count // steps, (step + 1) * count // steps):
            column, row_below = divmod(number, window.stride)
            start = offset_by(builder, row.ahead, row.row_stride, row_below)
            prefetch_from(builder, offset_by(builder, start, row.pixel_stride, column))

    def weight(kx, k):
        offset = 4 * tile.lanes * (kx * window.group + k)
        return tile.load_pixel(builder, builder.add(row.w, ir.Constant(i64, offset)))[0]

    for k in range(window.group):
        prefetch(k)
        weights, values = [weight(kx, k) for kx in range(window.size)], {}
        for slot in range(tile.mr + SKEW * (window.size - 1)):
            # LLVM would load early, and a column once for all k, and would need more registers than there are.
            keep_order(builder)
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
