"""The stem's micro-kernel: matmul.py's chain of multiply-adds for an input of few channels.

An image has three. A loop of three steps within two loops of three taps is left as often as it is entered, and each
exit that a core mispredicts costs ten multiply-adds. So here is one loop, over a list of offsets from a pixel of the
input to the elements that meet in it, in the order of taps and channels (M. Dukhan, The Indirect Convolution Algorithm,
2019, has a list of pointers). The distance between the pixels of a tile is a constant of the kernel, so their addresses
are constants within instructions. The weights are few and soon in L1, so the kernel prefetches none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .convolution import TileCall, TileLoops
from .matmul import reference
from .packing import reference as packed
from .simd.activation import epilogue


class Stem(NamedTuple):
    mr: int  # pixels
    nr: int  # vectors of output channels
    lanes: int
    x_pixel_stride: int  # bytes from a pixel of the tile to the next in the input
    variant: str  # of the activation


def example(lanes: int, generator: np.random.Generator, check) -> None:
    """One tile of a 3 x 3 convolution at stride 2 over three rows of three channels."""
    for mr, nr in ((1, 2), (5, 1), (4, 3)):
        width, pixels = nr * lanes, 2 * mr + 1
        x = generator.standard_normal((3, pixels, 3), np.float32)
        weight, bias = generator.standard_normal((width, 27), np.float32), generator.standard_normal(width, np.float32)
        offsets = np.add.outer(np.arange(3) * x.strides[0], np.arange(9) * 4).ravel()
        patches = np.stack([x[:, 2 * p : 2 * p + 3].ravel() for p in range(mr)])
        check(
            Stem(mr, nr, lanes, 24, "piecewise"), reference(patches.astype(np.float64), weight, bias),
            x=x, w=packed(weight[:, :, None, None], width), bias=bias, count=1, y_pixel_stride=4 * width,
            stem_offsets=offsets.astype(np.int64), stem_steps=27,
        )  # fmt: skip


def build(spec: Stem):
    """Assumes of y and the weights what matmul.py does; there is no residual."""
    from .simd.intrinsics import reader
    from .simd.tile import register_tile

    mr, x_pixel_stride = spec.mr, spec.x_pixel_stride
    t = register_tile(mr, spec.nr, spec.lanes)
    zeros, prefetch_write = t.zeros, t.prefetch_write
    unroll, fma_steps, fma_step = t.unroll, t.fma_offsets(t.unroll), t.fma_offsets(1)
    store_result, read_loops, read_call = epilogue(t, spec.variant), reader(TileLoops), reader(TileCall)
    w_step_stride = 4 * spec.nr * spec.lanes

    def stem(loops_address, call_address):
        loops, call = read_loops(loops_address), read_call(call_address)
        x, y = call.x, call.y
        for _ in range(call.count):
            acc = zeros()
            if loops.output_exceeds_l2 != 0:
                prefetch_write(y, loops.y_pixel_stride)
            w, offsets = call.w, loops.stem_offsets
            w_end = w + loops.stem_steps * w_step_stride
            w_unrolled = w_end - loops.stem_steps % unroll * w_step_stride
            while w != w_unrolled:
                acc = fma_steps(acc, x, offsets, x_pixel_stride, w)
                w += unroll * w_step_stride
                offsets += 8 * unroll
            while w != w_end:
                acc = fma_step(acc, x, offsets, x_pixel_stride, w)
                w += w_step_stride
                offsets += 8
            store_result(acc, loops.activation, y, loops.y_pixel_stride, call.bias)
            x += mr * x_pixel_stride
            y += mr * loops.y_pixel_stride

    return stem
