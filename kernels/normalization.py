"""Layer norm over the channels of each token."""

from __future__ import annotations

import numpy as np

from .simd import PARTIALS

FIELDS = ("x", "x_row", "y", "y_row", "rows", "channels", "weight", "bias", "reciprocal", "eps")


def oracle(x, weight, bias, eps):
    """The definition in NumPy: x (rows, D) -> (rows, D), in the dtype of x; torch.nn.LayerNorm."""
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + eps) * weight + bias


def build():
    """Mean, then mean square deviation, each as 16 partial sums (channel c in sum c % 16) and a fixed tree.

    Vectors are 16 floats at every machine width, so the partial sums are the same everywhere. Assumes: D is a
    multiple of 16. Threads split rows.
    """
    from .simd.intrinsics import arguments, float_from_bits, sqrt
    from .simd.tile import block

    t = block(1, 1, PARTIALS)
    zeros, load, add, plus, times, mul, store = t.zeros, t.load, t.add, t.plus, t.times, t.mul, t.store
    square = t.add_square
    sum_lanes, fields, step = t.sum_lanes, arguments(len(FIELDS)), 4 * PARTIALS

    def layer_norm(instruction, thread, threads):
        x, x_row, y, y_row, rows, channels, weight, bias, reciprocal, eps = fields(instruction)
        reciprocal, eps = float_from_bits(reciprocal), float_from_bits(eps)
        for row in range(rows * thread // threads, rows * (thread + 1) // threads):
            source, target = x + row * x_row, y + row * y_row
            acc = zeros()
            for at in range(0, 4 * channels, step):
                acc = add(acc, source + at, 0)
            mean = sum_lanes(acc) * reciprocal
            acc = zeros()
            for at in range(0, 4 * channels, step):
                acc = square(acc, plus(load(source + at, 0), -mean))
            scale = np.float32(1) / sqrt(sum_lanes(acc) * reciprocal + eps)
            for at in range(0, 4 * channels, step):
                normal = times(plus(load(source + at, 0), -mean), scale)
                store(add(mul(normal, weight + at, 0), bias + at, 0), target + at, 0)

    return layer_norm
