"""Register tiles for Numba: explicit SIMD with the registers under the kernel's control.

A register tile holds `mr` pixels of `nr` vectors of `lanes` float32 each, in registers. `register_tile(mr, nr, lanes)`
gives the operations on tiles of one shape, as intrinsics to be called from Numba code. Addresses and strides are int64,
in bytes; a stride leads from a pixel to the next, and stride 0 uses the same memory for all pixels. Their names:

    zeros()                         every element 0
    splat(x)                        every element x
    load(x, stride)                 pixel p from x + p * stride
    store(acc, y, stride)           pixel p to y + p * stride
    store_sum(acc, x, y, stride)    the same of acc[p] + x[p]
    prefetch(x, stride)             prefetch the cache lines of pixel p, at x + p * stride, into L2
    prefetch_steps(steps)(x, distance)
                                    prefetch what some steps of a product go on by, a distance each
    prefetch_write(y, stride)       the same with write intent
    fma_outer(acc, a, stride, b)    acc[p][v] += a[p] * b[v]: one step of a matrix product, a[p] a single float
    fma_rows(steps)(acc, rows, stride, k_stride, b)
                                    some steps, quick where the stride is in a register; see product.py
    fma_offsets(steps)(acc, x, offsets, stride, b)
                                    some steps whose a lie as far behind x as a list of int64 says
    unroll                          how many such steps are best made at once
    rows(a, stride)                 what fma_rows reads a by
    advance(rows, bytes)            the same, some bytes further on
    window_rows(window)(x, ...)     the rows of an image under a window, which fma_window reads; see window.py
    fma_window(window)(acc, ...)    all taps of a depthwise convolution
    add, sub, mul(acc, x, stride)   acc[p] combined with x[p]
    max(acc, x, stride)             acc[p] = max(acc[p], x[p]); NaN stays
    sum(acc, x), add_square(acc, x) acc + x, acc + x * x, x a tile
    plus(acc, x), times(acc, x)     every element + x, * x
    fma_scalars(acc, x, y)          every element * x + y
    map(function)                   an intrinsic acc -> acc that applies `function(Vector) -> Vector`
    epilogue(functions)(acc, n, y, stride, bias)
                                    functions[n](acc[p] + bias), each Vector -> Vector, to y + p * stride
    minus_zeros()                   the address of a pixel of -0.0: a bias that changes nothing
    sum_pixels(acc)                 one-pixel tile: the pixels summed as a fixed tree
    sum_lanes(acc), max_lanes(acc)  float32, of a tile of one vector, as a fixed tree

Every multiply-add is one llvm.fma, so a result has the same bits at every tile shape and every vector width.
Importing this module imports Numba.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import register_model

from . import CACHE_LINE
from .intrinsics import (
    declare,
    float32,
    int64,
    keep_order,
    load_from,
    offset_by,
    operation,
    prefetch_from,
    store_to,
    void,
)
from .vector import Vector, f32, i32, i64


class RegisterTile(types.Type):
    """The Numba type of a tile: an LLVM array of mr * nr vectors, which LLVM keeps in registers.

    Its methods write LLVM code for one tile; an element is a vector, and `every` lists the (pixel, vector) of each.
    """

    def __init__(self, mr: int, nr: int, lanes: int):
        self.mr, self.nr, self.lanes = mr, nr, lanes
        self.vector = ir.VectorType(f32, lanes)
        self.array = ir.ArrayType(self.vector, mr * nr)
        self.every = [(p, v) for p in range(mr) for v in range(nr)]
        super().__init__(name=f"RegisterTile({mr}x{nr}x{lanes})")

    def pack(self, builder, elements):
        """A tile of its elements, in the order of `every`."""
        value = ir.Constant(self.array, ir.Undefined)
        for number, element in enumerate(elements):
            value = builder.insert_value(value, element, number)
        return value

    def unpack(self, builder, tile) -> dict:
        """{(pixel, vector): element}."""
        return {at: builder.extract_value(tile, number) for number, at in enumerate(self.every)}

    def vector_address(self, builder, address, v: int):
        return builder.add(address, ir.Constant(i64, 4 * self.lanes * v))

    def address(self, builder, base, stride, at: tuple[int, int]):
        """The address of an element of a tile in memory."""
        p, v = at
        return self.vector_address(builder, offset_by(builder, base, stride, p), v)

    def load_pixel(self, builder, address) -> list:
        """The vectors of one pixel in memory."""
        return [load_from(builder, self.vector_address(builder, address, v), self.vector) for v in range(self.nr)]

    def fma(self, builder, a, b, c):
        """a * b + c of vectors, in one rounding."""
        vector = self.vector
        return builder.call(declare(builder, f"llvm.fma.v{self.lanes}f32", vector, vector, vector, vector), [a, b, c])


@register_model(RegisterTile)
class _RegisterTileModel(models.PrimitiveModel):
    def __init__(self, manager, tile):
        super().__init__(manager, tile, tile.array)


@cache
def register_tile(mr: int, nr: int, lanes: int) -> SimpleNamespace:
    """The operations on tiles of one shape; see the module's docstring."""
    from .product import products
    from .window import windows

    tile = RegisterTile(mr, nr, lanes)
    return SimpleNamespace(
        **_memory(tile), **_arithmetic(tile), **_functions(tile), **_reductions(tile), **products(tile), **windows(tile)
    )


def _memory(tile: RegisterTile) -> dict:
    """Tiles from constants and memory, to memory, and prefetches."""

    @operation(tile)
    def zeros(builder):
        return ir.Constant(tile.array, None)

    @operation(int64)
    def minus_zeros(builder):
        kind = ir.ArrayType(f32, tile.nr * tile.lanes)
        values = ir.Constant(kind, [-0.0] * kind.count)
        return builder.ptrtoint(cgutils.global_constant(builder, "minus_zeros", values), i64)

    @operation(tile, float32)
    def splat(builder, x):
        return tile.pack(builder, [Vector.splat(builder, x, tile.lanes).value] * len(tile.every))

    @operation(tile, int64, int64)
    def load(builder, x, stride):
        pixels = [tile.load_pixel(builder, offset_by(builder, x, stride, p)) for p in range(tile.mr)]
        return tile.pack(builder, [element for pixel in pixels for element in pixel])

    @operation(void, tile, int64, int64)
    def store(builder, acc, y, stride):
        for at, element in tile.unpack(builder, acc).items():
            store_to(builder, element, tile.address(builder, y, stride, at))

    @operation(void, tile, int64, int64, int64)
    def store_sum(builder, acc, x, y, stride):
        # Element by element: LLVM does not know that it need not load every x first, which takes registers.
        for at, element in tile.unpack(builder, acc).items():
            other = load_from(builder, tile.address(builder, x, stride, at), tile.vector)
            store_to(builder, builder.fadd(element, other), tile.address(builder, y, stride, at))

    def prefetching(write):
        @operation(void, int64, int64)
        def prefetch(builder, x, stride):
            for p in range(tile.mr):
                for at in range(0, 4 * tile.lanes * tile.nr, CACHE_LINE):
                    address = builder.add(offset_by(builder, x, stride, p), ir.Constant(i64, at))
                    prefetch_from(builder, address, write)

        return prefetch

    return dict(
        zeros=zeros, minus_zeros=minus_zeros, splat=splat, load=load, store=store, store_sum=store_sum,
        prefetch=prefetching(write=False), prefetch_write=prefetching(write=True),
    )  # fmt: skip


def _arithmetic(tile: RegisterTile) -> dict:
    """Tiles combined with memory, with tiles and with scalars."""

    @operation(tile, tile, tile)
    def add_square(builder, acc, x):
        acc, x = tile.unpack(builder, acc), tile.unpack(builder, x)
        return tile.pack(builder, [tile.fma(builder, x[at], x[at], acc[at]) for at in tile.every])

    @operation(tile, tile, tile)
    def sum_of(builder, acc, x):
        acc, x = tile.unpack(builder, acc), tile.unpack(builder, x)
        return tile.pack(builder, [builder.fadd(acc[at], x[at]) for at in tile.every])

    def with_memory(combine):
        @operation(tile, tile, int64, int64)
        def combined(builder, acc, x, stride):
            acc, out = tile.unpack(builder, acc), []
            for p in range(tile.mr):
                memory = tile.load_pixel(builder, offset_by(builder, x, stride, p))
                out += [combine(builder, acc[p, v], memory[v]) for v in range(tile.nr)]
            return tile.pack(builder, out)

        return combined

    def with_scalars(combine, count):
        @operation(tile, tile, *[float32] * count)
        def combined(builder, acc, *scalars):
            scalars = [Vector.splat(builder, scalar, tile.lanes) for scalar in scalars]
            elements = tile.unpack(builder, acc).values()
            return tile.pack(builder, [combine(Vector(builder, e), *scalars).value for e in elements])

        return combined

    return dict(
        add_square=add_square, sum=sum_of,
        add=with_memory(lambda builder, a, b: builder.fadd(a, b)),
        sub=with_memory(lambda builder, a, b: builder.fsub(a, b)),
        mul=with_memory(lambda builder, a, b: builder.fmul(a, b)),
        max=with_memory(lambda builder, a, b: Vector(builder, a).maximum_or_nan(Vector(builder, b)).value),
        plus=with_scalars(Vector.__add__, 1), times=with_scalars(Vector.__mul__, 1),
        fma_scalars=with_scalars(Vector.fma, 2),
    )  # fmt: skip


def _functions(tile: RegisterTile) -> dict:
    """Functions of one vector, applied to every element."""

    def mapped(function):
        @operation(tile, tile)
        def apply(builder, acc):
            elements = tile.unpack(builder, acc).values()
            return tile.pack(builder, [function(Vector(builder, e)).value for e in elements])

        return apply

    def epilogue(functions):
        # Each branch adds and stores for itself, element by element: the end of a tile then waits for one chain of
        # multiply-adds at a time, while others are still under way, and stores do not come all at once.
        @operation(void, tile, int64, int64, int64, int64)
        def store_result(builder, acc, which, y, stride, bias):
            elements, end = tile.unpack(builder, acc), builder.append_basic_block()
            first, *others = (builder.append_basic_block() for _ in functions)
            cases = builder.switch(which, first)
            for number, (branch, function) in enumerate(zip((first, *others), functions, strict=True)):
                if number:
                    cases.add_case(ir.Constant(i64, number), branch)
                builder.position_at_end(branch)
                for (p, v), element in elements.items():
                    addend = load_from(builder, tile.vector_address(builder, bias, v), tile.vector)
                    result = function(Vector(builder, builder.fadd(element, addend))).value
                    store_to(builder, result, tile.address(builder, y, stride, (p, v)))
                    keep_order(builder)
                builder.branch(end)
            builder.position_at_end(end)

        return store_result

    return dict(map=mapped, epilogue=epilogue)


def _reductions(tile: RegisterTile) -> dict:
    """Sums over pixels and over lanes, each as a fixed tree: halves are combined until one is left."""
    single = RegisterTile(1, tile.nr, tile.lanes)

    @operation(single, tile)
    def sum_pixels(builder, acc):
        acc, half = tile.unpack(builder, acc), tile.mr
        while half > 1:
            half //= 2
            acc = {(p, v): builder.fadd(acc[p, v], acc[p + half, v]) for p in range(half) for v in range(tile.nr)}
        return single.pack(builder, [acc[0, v] for v in range(tile.nr)])

    def across(combine):
        @operation(float32, tile)
        def reduce(builder, acc):
            value, half = builder.extract_value(acc, 0), tile.lanes
            while half > 1:
                half //= 2
                order = [lane + half if lane < half else lane for lane in range(tile.lanes)]
                moved = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(i32, tile.lanes), order))
                value = combine(Vector(builder, value), Vector(builder, moved)).value
            return builder.extract_element(value, ir.Constant(i32, 0))

        return reduce

    return dict(sum_pixels=sum_pixels, sum_lanes=across(Vector.__add__), max_lanes=across(Vector.maximum))
