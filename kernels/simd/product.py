"""Steps of a matrix product on a register tile, with few instructions beside multiply-adds and loads.

x86 adds two registers and a constant in a load for nothing. A step on 6 x 2 vectors can thus be 12 multiply-adds,
2 loads and 6 broadcasts; a core that issues six instructions a cycle has room for 16 more, but where two hardware
threads share it, each has half of them, and every other instruction takes time. LLVM by itself derives the address of
each pixel from that of the one before, an instruction for each.
"""

from __future__ import annotations

from functools import cache, partial

from llvmlite import ir
from numba import types

from . import CACHE_LINE
from .intrinsics import int64, keep_order, load_from, offset_by, opaque, operation, prefetch_from, void
from .vector import Vector, f32, i64

ROW = 3  # pixels that are addressed from one register: stride * 0, 1 and 2 further on


def products(tile) -> dict:
    """The operations of a tile that make up a matrix product; see tile.py."""
    # A step of few multiply-adds leaves no room for a loop's own instructions.
    unroll = 4 if len(tile.every) <= 12 else 1
    return dict(unroll=unroll, prefetch_steps=_prefetch_steps, **_rows(tile), **_steps(tile))


def _rows_type(tile):
    return types.UniTuple(int64, -(-tile.mr // ROW))


def _rows(tile) -> dict:
    """Addresses of every third pixel."""
    kind = _rows_type(tile)

    def pack(builder, addresses):
        packed = ir.Constant(ir.ArrayType(i64, kind.count), ir.Undefined)
        for number, address in enumerate(addresses):
            packed = builder.insert_value(packed, address, number)
        return packed

    @operation(kind, int64, int64)
    def rows(builder, a, stride):
        return pack(builder, [opaque(builder, offset_by(builder, a, stride, p)) for p in range(0, tile.mr, ROW)])

    @operation(kind, kind, int64)
    def advance(builder, rows, distance):
        addresses = (builder.extract_value(rows, number) for number in range(kind.count))
        return pack(builder, [builder.add(address, distance) for address in addresses])

    return dict(rows=rows, advance=advance)


def _steps(tile) -> dict:
    """Steps by one address and a stride, by rows, and by a list of offsets."""

    def multiply_add(builder, acc, address_of, b) -> dict:
        """The accumulators after one step; address_of(p) is where the float of pixel p lies."""
        b, out = tile.load_pixel(builder, b), {}
        for p in range(tile.mr):
            a = Vector.splat(builder, load_from(builder, address_of(p), f32), tile.lanes).value
            out |= {(p, v): tile.fma(builder, a, b[v], acc[p, v]) for v in range(tile.nr)}
        return out

    @operation(tile, tile, int64, int64, int64)
    def fma_outer(builder, acc, a, stride, b):
        acc = multiply_add(builder, tile.unpack(builder, acc), lambda p: offset_by(builder, a, stride, p), b)
        return tile.pack(builder, acc.values())

    def several(builder, acc, addresses, b):
        """A step for each of `addresses`, in that order: LLVM moves no load before those of an earlier step."""
        acc = tile.unpack(builder, acc)
        for step, address_of in enumerate(addresses):
            if step:
                keep_order(builder)
            acc = multiply_add(builder, acc, address_of, tile.vector_address(builder, b, step * tile.nr))
        return tile.pack(builder, acc.values())

    @cache
    def fma_rows(steps):
        @operation(tile, tile, _rows_type(tile), int64, int64, int64)
        def fma_rows(builder, acc, rows, stride, k_stride, b):
            def address_of(p, step):
                row = offset_by(builder, builder.extract_value(rows, p // ROW), k_stride, step)
                return offset_by(builder, row, stride, p % ROW)

            return several(builder, acc, [partial(address_of, step=step) for step in range(steps)], b)

        return fma_rows

    @cache
    def fma_offsets(steps):
        @operation(tile, tile, int64, int64, int64, int64)
        def fma_offsets(builder, acc, x, offsets, stride, b):
            def address_of(p, step):
                offset = load_from(builder, builder.add(offsets, ir.Constant(i64, 8 * step)), i64, 8)
                return offset_by(builder, builder.add(x, offset), stride, p)

            return several(builder, acc, [partial(address_of, step=step) for step in range(steps)], b)

        return fma_offsets

    return dict(fma_outer=fma_outer, fma_rows=fma_rows, fma_offsets=fma_offsets)


@cache
def _prefetch_steps(steps):
    """Where two distances are within a cache line, every second prefetch would be for nothing."""

    @operation(void, int64, int64)
    def prefetch_steps(builder, address, distance):
        for step in range(0, steps, 2):
            prefetch_from(builder, offset_by(builder, address, distance, step))
        if steps > 1:
            far = builder.icmp_signed(">", distance, ir.Constant(i64, CACHE_LINE // 2))
            with builder.if_then(far):
                for step in range(1, steps, 2):
                    prefetch_from(builder, offset_by(builder, address, distance, step))

    return prefetch_steps
