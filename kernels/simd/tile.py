"""Vector values for Numba: explicit SIMD with the registers under the kernel's control.

A *block* is a small array of vectors, rows x vectors, each of `lanes` float32, that lives in registers: a register
tile. `block(rows, vectors, lanes)` gives the operations on blocks of one shape, as intrinsics to be called from
Numba code; addresses and strides are int64, in bytes. Their names:

    zeros()                         every element 0
    splat(x)                        every element x
    load(x, stride)                 row r from x + r * stride
    load_row(x)                     the same row, from x, in every row
    store(acc, y, stride)           row r to y + r * stride
    store_sum(acc, x, y, stride)    the same of acc[r] + x[r]
    ask(x, stride)                  bring the lines of row r, at x + r * stride, into L2
    ask_to_write(y, stride)         the same, and take them from other cores' caches
    fma_outer(acc, a, stride, b)    acc[r][v] += a[r] * b[v]: one step of a matrix product, a[r] a single float
    fma_window(size, stride, padding, width, absent)(acc, x, pixel, w, missing_left, missing_right, zeros)
                                    acc[r] += sum over kx, k of crossed(x[r * stride + kx], k) * w[kx][k]: a line of
                                    taps of a convolution whose groups have `width` channels; crossed puts lane l ^ k
                                    in lane l. `missing` many of the first and last pixels (up to `padding`) are read
                                    from `zeros` instead; with `absent`, (left, right), so many are left out
    add(acc, x, stride)             acc[r] += x[r]
    mul(acc, x, stride)             acc[r] *= x[r]
    max(acc, x, stride)             acc[r] = max(acc[r], x[r]); NaN stays
    add_square(acc, x)              acc + x * x, x a block
    plus(acc, x), times(acc, x)     every element + x, * x
    fma_scalars(acc, x, y)          every element * x + y
    map(function)                   an intrinsic acc -> acc applying `function(Vector) -> Vector`
    store_as(functions)(acc, n, y, stride)
                                    row r of functions[n](every element), each Vector -> Vector, to y + r * stride
    sum_rows(acc)                   one-row block: the rows summed as a fixed tree
    sum_lanes(acc), max_lanes(acc)  float32, of a one-vector block, as a fixed tree

Stride 0 uses one row for all. Every multiply-add is one llvm.fma, so a result has the same bits at every tile
shape and every vector width. Importing this module imports Numba.
"""

from __future__ import annotations

from functools import cache
from itertools import zip_longest
from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from . import CACHE_LINE
from .intrinsics import declare, load_from, offset_by, prefetch_from
from .vector import Vector, f32, i32, i64


class Block(types.Type):
    """rows x vectors vectors of `lanes` float32."""

    def __init__(self, rows: int, vectors: int, lanes: int):
        self.rows, self.vectors, self.lanes = rows, vectors, lanes
        super().__init__(name=f"Block({rows}x{vectors}x{lanes})")


@register_model(Block)
class _BlockModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        vector = ir.VectorType(f32, kind.lanes)
        super().__init__(manager, kind, ir.ArrayType(vector, kind.rows * kind.vectors))


@cache
def block(rows: int, vectors: int, lanes: int) -> SimpleNamespace:
    """The operations on blocks of one shape; see the module's docstring."""
    kind, vector = Block(rows, vectors, lanes), ir.VectorType(f32, lanes)
    array = ir.ArrayType(vector, rows * vectors)
    every = [(r, v) for r in range(rows) for v in range(vectors)]

    def pack(builder, elements):
        value = ir.Constant(array, ir.Undefined)
        for (r, v), element in zip(every, elements, strict=True):
            value = builder.insert_value(value, element, r * vectors + v)
        return value

    def unpack(builder, value):
        return {(r, v): builder.extract_value(value, r * vectors + v) for r, v in every}

    def row(builder, address):
        """The vectors of one row in memory."""
        return [
            load_from(builder, builder.add(address, ir.Constant(i64, 4 * lanes * v)), vector) for v in range(vectors)
        ]

    def fma(builder, a, b, c):
        return builder.call(declare(builder, f"llvm.fma.v{lanes}f32", vector, vector, vector, vector), [a, b, c])

    def operation(emit, *parameters):
        """An intrinsic with int64 or float32 parameters that returns a block."""
        names = ["typingctx", *(f"p{n}" for n in range(len(parameters)))]

        def codegen(context, builder, sig, args):
            return emit(builder, *args)

        # Numba reads the number of parameters off the function itself, so it needs them by name.
        scope = {"signature": kind(*parameters), "codegen": codegen}
        exec(f"def op({', '.join(names)}):\n    return signature, codegen", scope)  # noqa: S102
        return intrinsic(scope["op"])

    def elementwise(combine):
        """acc[r][v] combined with memory's row r."""

        def emit(builder, acc, x, stride):
            acc, out = unpack(builder, acc), []
            for r in range(rows):
                memory = row(builder, offset_by(builder, x, stride, r))
                out += [combine(builder, acc[r, v], memory[v]) for v in range(vectors)]
            return pack(builder, out)

        return operation(emit, kind, types.int64, types.int64)

    def splat(builder, x):
        return pack(builder, [Vector.splat(builder, x, lanes).value] * len(every))

    def load(builder, x, stride):
        return pack(builder, [e for r in range(rows) for e in row(builder, offset_by(builder, x, stride, r))])

    def fma_outer(builder, acc, a, stride, b):
        acc, b, out = unpack(builder, acc), row(builder, b), []
        for r in range(rows):
            scalar = Vector.splat(builder, load_from(builder, offset_by(builder, a, stride, r), f32), lanes).value
            out += [fma(builder, scalar, b[v], acc[r, v]) for v in range(vectors)]
        return pack(builder, out)

    def fma_window(size, window_stride, padding, width, absent=None):
        columns = (rows - 1) * window_stride + size
        first_column, end_column = (absent[0], columns - absent[1]) if absent else (0, columns)

        def crossed(builder, value, k):
            if k == 0:
                return value
            order = [lane ^ k for lane in range(lanes)]
            return builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(i32, lanes), order))

        # A row's chain of multiply-adds walks along the columns; rows far apart take turns, so that it need not wait.
        middle = (rows + 1) // 2
        halves = [
            [(column, range(first, end)) for column in range(first * window_stride, (end - 1) * window_stride + size)]
            for first, end in ((0, middle), (middle, rows))
            if first < end
        ]
        turns = [
            [part for part in turn if part and first_column <= part[0] < end_column] for turn in zip_longest(*halves)
        ]

        def pixel_address(builder, x, pixel, missing_left, missing_right, zeros, column):
            address = offset_by(builder, x, pixel, column)
            for missing, distance in ((missing_left, column), (missing_right, columns - 1 - column)):
                if distance < padding and not absent:
                    beyond = builder.icmp_signed(">", missing, ir.Constant(i64, distance))
                    address = builder.select(beyond, zeros, address)
            return address

        def emit(builder, acc, x, pixel, w, *border):
            acc, arguments = unpack(builder, acc), (x, pixel, *border)
            step = ir.Constant(i64, 4 * lanes * vectors)
            weights = [row(builder, offset_by(builder, w, step, index)) for index in range(size * width)]
            for turn in turns:
                memory = {column: row(builder, pixel_address(builder, *arguments, column)) for column, _ in turn}
                for k in range(width):
                    for column, those in turn:
                        parts = [crossed(builder, value, k) for value in memory[column]]
                        for kx in range(size):
                            r, rest = divmod(column - kx, window_stride)
                            if rest == 0 and r in those:
                                for v in range(vectors):
                                    acc[r, v] = fma(builder, parts[v], weights[kx * width + k][v], acc[r, v])
            return pack(builder, acc.values())

        return operation(emit, kind, *[types.int64] * 6)

    def element_address(builder, y, stride, r, v):
        return builder.add(offset_by(builder, y, stride, r), ir.Constant(i64, 4 * lanes * v))

    def put(builder, element, address):
        builder.store(element, builder.inttoptr(address, vector.as_pointer()), align=4)

    @intrinsic
    def store(typingctx, acc, y, stride):
        def codegen(context, builder, sig, args):
            acc, *to = args
            for at, element in unpack(builder, acc).items():
                put(builder, element, element_address(builder, *to, *at))
            return context.get_dummy_value()

        return types.void(kind, types.int64, types.int64), codegen

    @intrinsic
    def store_sum(typingctx, acc, x, y, stride):
        # Element by element: LLVM does not know that it need not load every x first, which takes registers.
        def codegen(context, builder, sig, args):
            acc, x, y, stride = args
            for at, element in unpack(builder, acc).items():
                other = load_from(builder, element_address(builder, x, stride, *at), vector)
                put(builder, builder.fadd(element, other), element_address(builder, y, stride, *at))
            return context.get_dummy_value()

        return types.void(kind, types.int64, types.int64, types.int64), codegen

    def asking(write):
        @intrinsic
        def ask(typingctx, y, stride):
            def codegen(context, builder, sig, args):
                for r in range(rows):
                    for line in range(0, 4 * lanes * vectors, CACHE_LINE):
                        address = builder.add(offset_by(builder, *args, r), ir.Constant(i64, line))
                        prefetch_from(builder, address, write)
                return context.get_dummy_value()

            return types.void(types.int64, types.int64), codegen

        return ask

    def mapped(function):
        def emit(builder, acc):
            return pack(builder, [function(Vector(builder, e)).value for e in unpack(builder, acc).values()])

        return operation(emit, kind)

    def store_as(functions):
        # Each way stores for itself, element by element: stores then begin while multiply-adds are still under way,
        # and LLVM, which would work on all elements before the first store, needs no more registers.
        @intrinsic
        def finish(typingctx, acc, which, y, stride):
            def codegen(context, builder, sig, args):
                acc, which, *to = args
                elements, end = unpack(builder, acc), builder.append_basic_block()
                addresses = {at: element_address(builder, *to, *at) for at in every}
                first, *others = (builder.append_basic_block() for _ in functions)
                cases = builder.switch(which, first)
                for number, (way, function) in enumerate(zip((first, *others), functions, strict=True)):
                    if number:
                        cases.add_case(ir.Constant(i64, number), way)
                    builder.position_at_end(way)
                    for at in every:
                        put(builder, function(Vector(builder, elements[at])).value, addresses[at])
                    builder.branch(end)
                builder.position_at_end(end)
                return context.get_dummy_value()

            return types.void(kind, types.int64, types.int64, types.int64), codegen

        return finish

    def add_square(builder, acc, x):
        acc, x = unpack(builder, acc), unpack(builder, x)
        return pack(builder, [fma(builder, x[at], x[at], acc[at]) for at in every])

    def with_scalars(combine, count):
        """Every vector combined with `count` splatted scalars."""

        def emit(builder, acc, *scalars):
            splats = [Vector.splat(builder, scalar, lanes) for scalar in scalars]
            return pack(builder, [combine(Vector(builder, e), *splats).value for e in unpack(builder, acc).values()])

        return operation(emit, kind, *[types.float32] * count)

    @intrinsic
    def sum_rows(typingctx, acc):
        def codegen(context, builder, sig, args):
            acc, half = unpack(builder, args[0]), rows
            while half > 1:
                half //= 2
                acc = {(r, v): builder.fadd(acc[r, v], acc[r + half, v]) for r in range(half) for v in range(vectors)}
            result = ir.Constant(ir.ArrayType(vector, vectors), ir.Undefined)
            for v in range(vectors):
                result = builder.insert_value(result, acc[0, v], v)
            return result

        return Block(1, vectors, lanes)(kind), codegen

    def across(combine):
        """Lanes of a one-vector block combined in halves: lane i with lane i + lanes / 2, and so on."""

        @intrinsic
        def reduce(typingctx, acc):
            def codegen(context, builder, sig, args):
                value, half = builder.extract_value(args[0], 0), lanes
                while half > 1:
                    half //= 2
                    order = [lane + half if lane < half else lane for lane in range(lanes)]
                    moved = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(i32, lanes), order))
                    value = combine(Vector(builder, value), Vector(builder, moved)).value
                return builder.extract_element(value, ir.Constant(i32, 0))

            return types.float32(kind), codegen

        return reduce

    return SimpleNamespace(
        zeros=operation(lambda builder: ir.Constant(array, None)),
        splat=operation(splat, types.float32),
        load=operation(load, types.int64, types.int64),
        load_row=operation(lambda builder, x: pack(builder, row(builder, x) * rows), types.int64),
        store=store,
        store_sum=store_sum,
        ask=asking(write=False),
        ask_to_write=asking(write=True),
        fma_outer=operation(fma_outer, kind, types.int64, types.int64, types.int64),
        fma_window=fma_window,
        add=elementwise(lambda builder, a, b: builder.fadd(a, b)),
        sub=elementwise(lambda builder, a, b: builder.fsub(a, b)),
        mul=elementwise(lambda builder, a, b: builder.fmul(a, b)),
        max=elementwise(lambda builder, a, b: Vector(builder, a).maximum_or_nan(Vector(builder, b)).value),
        store_as=store_as,
        add_square=operation(add_square, kind, kind),
        plus=with_scalars(Vector.__add__, 1),
        times=with_scalars(Vector.__mul__, 1),
        fma_scalars=with_scalars(Vector.fma, 2),
        map=mapped,
        sum_rows=sum_rows,
        sum_lanes=across(Vector.__add__),
        max_lanes=across(Vector.maximum),
    )
