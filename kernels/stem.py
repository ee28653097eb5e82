"""The tile of a network's stem: matmul.py's chain of multiply-adds where the input has few channels.

An image has three. A loop of three steps within two loops of three taps is left as often as it is entered, and each
time that a core does not foresee it, it loses what ten multiply-adds take. So here is one loop, over a list of offsets
from a pixel of the input to the elements that meet in it, in the order of taps and channels. (M. Dukhan, The Indirect
Convolution Algorithm, 2019, has a list of pointers.) The distance between the pixels of a tile belongs to the kernel:
their addresses are then constants within instructions. Weights are few and soon in L1, so it asks for none.
"""

from __future__ import annotations

from .convolution import REGION, TILE_START
from .simd.activation import finish

OFFSETS = REGION.index("offsets")


def build(rows: int, vectors: int, lanes: int, x_step: int, activation: str):
    """The micro-kernel for `rows` pixels, `x_step` bytes apart in the input, and `vectors` vectors of output channels.

    Assumes of y and the weights what matmul.py does.
    """
    from .simd.intrinsics import arguments, load_i64
    from .simd.tile import block

    t = block(rows, vectors, lanes)
    load_row, fma_outer, ask_to_write = t.load_row, t.fma_outer, t.ask_to_write
    store_activated = finish(t, activation)
    pixel_fields, fields = arguments(2, TILE_START), arguments(4, OFFSETS)
    step = 4 * vectors * lanes

    def stem(region, x, w, bias, y, count, ahead, ahead_end):
        _x_step, y_step = pixel_fields(region)
        offsets, steps, kind, far = fields(region)
        for _ in range(count):
            acc = load_row(bias)
            if far != 0:
                ask_to_write(y, y_step)
            weight = w
            for offset in range(offsets, offsets + 8 * steps, 8):
                acc = fma_outer(acc, x + load_i64(offset), x_step, weight)
                weight += step
            store_activated(acc, kind, y, y_step)
            x += rows * x_step
            y += rows * y_step

    return stem
