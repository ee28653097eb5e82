"""Squeeze-and-excite, folded into the product that follows: weights times gates, instead of activations times gates.

    y[image][panel][k][lane] = packed[panel][k][lane] * gate[image][k]

The gate scales input channel k of a pointwise convolution, so it may as well scale that channel's weights; there are
several times fewer of them than activations.
"""

from __future__ import annotations

import numpy as np

FIELDS = ("packed", "gate", "gate_image", "y", "images", "rows", "depth", "vectors")


def oracle(packed: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """The definition in NumPy: packed (panels, depth, width), gate (N, depth) -> (N, panels, depth, width)."""
    return packed * gate[:, None, :, None]


def build(lanes: int):
    """`rows` are the panels * depth rows of a packed weight, `vectors` vectors each. Threads split images and rows."""
    from .simd.intrinsics import arguments, load_f32
    from .simd.tile import block

    t, fields = block(1, 1, lanes), arguments(len(FIELDS))
    load, times, store = t.load, t.times, t.store

    def gating(instruction, thread, threads):
        packed, gate, gate_image, y, images, rows, depth, vectors = fields(instruction)
        row_bytes = 4 * lanes * vectors
        units = images * rows
        for unit in range(units * thread // threads, units * (thread + 1) // threads):
            image = unit // rows
            row = unit - image * rows
            factor = load_f32(gate + image * gate_image + 4 * (row % depth))
            for at in range(0, row_bytes, 4 * lanes):
                store(times(load(packed + row * row_bytes + at, 0), factor), y + unit * row_bytes + at, 0)

    return gating
