"""The matrix-product micro-kernel: every input channel of a pixel meets every output channel of a micro-panel.

It serves pointwise and dense convolution, linear layers, patch embedding, and grouped convolution whose groups are
whole vectors. Within a tile of mr pixels and nr vectors of output channels,

    acc[p][v] = 0;   for each tap, for each k:   acc[p][v] = fma(x[p][k], w[tap][k][v], acc[p][v])

in the order of taps and k, whatever mr and nr are. The bias comes last: a chain that began with it would round every
sum to the precision of the bias, which is coarse where products are small beside it. Rounding errors grow with the
length of a chain; so where a tap has more than `k_block` input channels, each later block of that many is a chain of
its own, from zero, and is added to the sum of the blocks before it. (One chain over the 3,072 channels of vit_b_32's
MLP has three times the error of torch's sums.)

mr * nr accumulators, nr vectors of weights and one broadcast must fit the vector registers: mr = 14, nr = 2 of 32
registers gives 28 multiply-adds for 2 vector loads and 14 broadcast loads, and takes 31 registers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .convolution import TileCall, TileLoops
from .packing import reference as packed
from .simd.activation import epilogue


class Matmul(NamedTuple):
    """`form` says which loops and which epilogue there are:

    pointwise: a single tap, so no loop over taps;
    taps: any number of taps;
    strided: any number of taps, and elements over k that are not neighbours, such as planes of the network's input;
    partial: a single tap, and partial sums of Strassen's scheme in the epilogue.
    """

    mr: int  # pixels
    nr: int  # vectors of output channels
    lanes: int
    variant: str  # of the activation
    form: str = "pointwise"


def reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x (M, K), weight (N, K), bias (N,) -> (M, N), in the dtype of x."""
    return x @ weight.T.astype(x.dtype) + bias.astype(x.dtype)


def example(lanes: int, generator: np.random.Generator, check) -> None:
    """Two tiles of one micro-panel, with chains of at most 16 steps."""
    for mr, nr, k in ((1, 4, 70), (6, 1, 5), (4, 2, 33)):
        width = nr * lanes
        x, weight, bias = (generator.standard_normal(s, np.float32) for s in ((2 * mr, k), (width, k), (width,)))
        check(
            Matmul(mr, nr, lanes, "piecewise"), reference(x.astype(np.float64), weight, bias),
            x=x, w=packed(weight[:, :, None, None], width), bias=bias, count=2, x_pixel_stride=x.strides[0],
            y_pixel_stride=4 * width, k=k, x_k_stride=4, k_block=16,
        )  # fmt: skip


def build(spec: Matmul):
    """Assumes: strides of x are multiples of 4; a tap's weights are k * nr * lanes floats in a row; y, the residual and
    partial sums have room for whole vectors. Addresses need no alignment.
    """
    from .simd.intrinsics import minimum, reader
    from .simd.tile import register_tile

    mr, t = spec.mr, register_tile(spec.mr, spec.nr, spec.lanes)
    zeros, minus_zeros, add, store, store_sum = t.zeros, t.minus_zeros, t.add, t.store, t.store_sum
    prefetch_pixels, prefetch_write, store_result = t.prefetch, t.prefetch_write, epilogue(t, spec.variant)
    rows_of, chain, read_loops, read_call = t.rows, _chain(spec, t), reader(TileLoops), reader(TileCall)
    # Constants: with `single`, both loops over taps run once and LLVM removes them, as it removes the branches of an
    # epilogue that the form does not have.
    single, partial = spec.form in ("pointwise", "partial"), spec.form == "partial"

    def matmul(loops_address, call_address):
        loops, call = read_loops(loops_address), read_call(call_address)
        taps_y, taps_x = (1, 1) if single else (loops.taps_y, loops.taps_x)
        x, y, ahead = call.x, call.y, call.prefetch
        for _ in range(call.count):
            acc = zeros()
            if loops.output_exceeds_l2 != 0:
                prefetch_write(y, loops.y_pixel_stride)
                if loops.residual_offset != 0:
                    prefetch_pixels(y + loops.residual_offset, loops.y_pixel_stride)
            if partial:
                prefetch_pixels(y + loops.partial_offset, loops.y_pixel_stride)
                if loops.aux_out_offset != 0:
                    prefetch_pixels(y + loops.aux_in_offset, loops.y_pixel_stride)
            w, next_line = call.w, ahead if ahead < call.prefetch_end else call.w
            # No `range`: Numba would first compute its number of steps, and where input channels are few, the time
            # between the multiply-adds of two tiles counts.
            ky = 0
            while ky < taps_y:
                kx = 0
                while kx < taps_x:
                    a = x + ky * loops.x_tap_y_stride + kx * loops.x_tap_x_stride
                    rows, first = rows_of(a, loops.x_pixel_stride), 0
                    while first < loops.k:
                        steps = minimum(loops.k_block, loops.k - first)
                        acc, rows, w, next_line = chain(acc, rows, w, next_line, steps, loops)
                        if first + steps < loops.k:  # the sum so far waits in y: there are no registers for two
                            if first == 0:
                                store(acc, y, loops.y_pixel_stride)
                            else:
                                store_sum(acc, y, y, loops.y_pixel_stride)
                            acc = zeros()
                        elif first != 0:
                            acc = add(acc, y, loops.y_pixel_stride)
                        first += steps
                    kx += 1
                w += loops.w_skip
                ky += 1
            bias = call.bias  # what is left for the epilogue to add
            if partial:
                acc = add(acc, bias, 0)
                if loops.aux_out_offset != 0:
                    store_sum(acc, y + loops.aux_in_offset, y + loops.aux_out_offset, loops.y_pixel_stride)
                acc, bias = add(acc, y + loops.partial_offset, loops.y_pixel_stride), minus_zeros()
            if loops.residual_offset != 0:
                acc = add(add(acc, bias, 0), y + loops.residual_offset, loops.y_pixel_stride)
                bias = minus_zeros()
            store_result(acc, loops.activation, y, loops.y_pixel_stride, bias)
            x += mr * loops.x_pixel_stride
            y += mr * loops.y_pixel_stride
            ahead += taps_y * taps_x * loops.k * loops.prefetch_step

    return matmul


def _chain(spec: Matmul, t):
    """A function: some steps over k, from the weights at w on; the prefetches go on at `next_line`.

    A tile of a single pixel computes too little to hide another stream behind its own weights, so it prefetches none.
    """
    from numba import njit

    neighbours, prefetches = spec.form != "strided", spec.mr > 1
    unroll, w_k_stride, advance = t.unroll if neighbours else 1, 4 * spec.nr * spec.lanes, t.advance
    fma_steps, fma_step, prefetch_steps = t.fma_rows(unroll), t.fma_rows(1), t.prefetch_steps(unroll)

    @njit(error_model="numpy", inline="always")
    def chain(acc, rows, w, next_line, steps, loops):
        k_stride = 4 if neighbours else loops.x_k_stride
        w_end = w + steps * w_k_stride
        w_unrolled = w_end - steps % unroll * w_k_stride
        while w != w_unrolled:
            if prefetches:
                prefetch_steps(next_line, loops.prefetch_step)
                next_line += unroll * loops.prefetch_step
            acc = fma_steps(acc, rows, loops.x_pixel_stride, k_stride, w)
            rows = advance(rows, unroll * k_stride)
            w += unroll * w_k_stride
        while w != w_end:
            acc = fma_step(acc, rows, loops.x_pixel_stride, k_stride, w)
            rows = advance(rows, k_stride)
            w += w_k_stride
        return acc, rows, w, next_line

    return chain
