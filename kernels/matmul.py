"""The matrix-product tile: every input channel of a pixel meets every output channel of a panel.

Used for pointwise and dense convolution, linear layers, patch embedding, and grouped convolution whose groups are
whole vectors and not depthwise.py's. Within a tile of R pixels and V vectors of output channels,

    acc[r][v] = bias[v];   for each tap, for each k:   acc[r][v] = fma(x[r][k], w[tap][k][v], acc[r][v])

in the order of taps and k, whatever R and V are. Rounding errors grow with the length of a chain; so where a tap has
more than `sum_block` input channels, each later block of that many is a chain of its own, from zero, and is added to
what went before. (One chain over the 3,072 channels of vit_b_32's MLP has three times the error of torch's sums.)

R V accumulators, V weights and one broadcast must fit the vector registers: R = 14, V = 2 of 32 registers gives 28
multiply-adds for 2 vector loads and 14 broadcasts folded into the multiply-add.
"""

from __future__ import annotations

from .convolution import REGION, TILE_START
from .simd import CACHE_LINE
from .simd.activation import finish
from .simd.activation import oracle as activate


def oracle(x, weight, bias, activation=None):
    """The definition in NumPy: x (M, K), weight (N, K) -> (M, N), in the dtype of x."""
    return activate(x @ weight.T.astype(x.dtype) + bias.astype(x.dtype), activation)


def build(rows: int, vectors: int, lanes: int, activation: str, form: str = "pointwise"):
    """The micro-kernel for `rows` pixels and `vectors` vectors of output channels.

    While a tile works, it asks for the lines from `ahead` on, one a step, unless that has reached `ahead_end`: what is
    needed next, or later, streams from memory while these weights are in use. A single row computes too little for
    that: it is as fast as its own weights arrive, and to ask for others would hold them up.

    The form "pointwise" has a single tap, and no loops over taps to enter and leave; "taps" has any number. (Each says
    the chain for itself: Numba takes longer over a function that it inlines.) "partial" (for Strassen's scheme, see
    strassen.py) has a single tap, adds a partial sum to the tile's own and, unless `also_to` is 0, stores what another
    partial sum and the tile's own make besides.

    Assumes: x_step and x_depth are any multiples of 4; a tap's weights are depth * vectors * lanes floats in a row;
    y and the residual have room for whole vectors. Unaligned addresses are fine.
    """
    from .simd.intrinsics import arguments, minimum, prefetch
    from .simd.tile import block

    t = block(rows, vectors, lanes)
    zeros, load_row, fma_outer, add, store, ask = t.zeros, t.load_row, t.fma_outer, t.add, t.store, t.ask
    store_activated, fields = finish(t, activation), arguments(len(REGION) - TILE_START, TILE_START)
    store_sum, ask_to_write = t.store_sum, t.ask_to_write
    step, adds, asks = 4 * vectors * lanes, form == "partial", rows > 1

    def pointwise(region, x, w, bias, y, count, ahead, ahead_end):
        (x_step, y_step, taps_y, taps_x, x_tap_y, x_tap_x, depth, x_depth, sum_block, w_skip, residual,
         _offsets, _steps, kind, far, partial, also_add, also_to) = fields(region)  # fmt: skip
        for _ in range(count):
            acc = load_row(bias)
            if far != 0:
                ask_to_write(y, y_step)
                if residual != 0:
                    ask(y + residual, y_step)
            if adds:
                ask(y + partial, y_step)
                if also_to != 0:
                    ask(y + also_add, y_step)
            a, weight = x, w
            coming = ahead if ahead < ahead_end else w
            for first in range(0, depth, sum_block):
                if first != 0:
                    store(acc, y, y_step)
                    acc = zeros()
                for _k in range(minimum(sum_block, depth - first)):
                    acc = fma_outer(acc, a, x_step, weight)
                    if asks:
                        prefetch(coming)
                        coming += CACHE_LINE
                    a += x_depth
                    weight += step
                if first != 0:
                    acc = add(acc, y, y_step)
            if adds:
                if also_to != 0:
                    store_sum(acc, y + also_add, y + also_to, y_step)
                acc = add(acc, y + partial, y_step)
            if residual != 0:
                acc = add(acc, y + residual, y_step)
            store_activated(acc, kind, y, y_step)
            x += rows * x_step
            y += rows * y_step
            ahead += depth * CACHE_LINE

    def taps(region, x, w, bias, y, count, ahead, ahead_end):
        (x_step, y_step, taps_y, taps_x, x_tap_y, x_tap_x, depth, x_depth, sum_block, w_skip, residual,
         _offsets, _steps, kind, far, partial, also_add, also_to) = fields(region)  # fmt: skip
        for _ in range(count):
            acc = load_row(bias)
            if far != 0:
                ask_to_write(y, y_step)
                if residual != 0:
                    ask(y + residual, y_step)
            weight = w
            coming = ahead if ahead < ahead_end else w
            for ky in range(taps_y):
                for kx in range(taps_x):
                    a = x + ky * x_tap_y + kx * x_tap_x
                    for first in range(0, depth, sum_block):
                        if first != 0:
                            store(acc, y, y_step)
                            acc = zeros()
                        for _k in range(minimum(sum_block, depth - first)):
                            acc = fma_outer(acc, a, x_step, weight)
                            if asks:
                                prefetch(coming)
                                coming += CACHE_LINE
                            a += x_depth
                            weight += step
                        if first != 0:
                            acc = add(acc, y, y_step)
                weight += w_skip
            if residual != 0:
                acc = add(acc, y + residual, y_step)
            store_activated(acc, kind, y, y_step)
            x += rows * x_step
            y += rows * y_step
            ahead += taps_y * taps_x * depth * CACHE_LINE

    return taps if form == "taps" else pointwise
