"""What Strassen's scheme multiplies: sums of pixels and channels, side by side with the activations they come from.

Two pixels, each with its channels in two halves, are a 2 x 2 matrix ((a11, a12), (a21, a22)) of vectors;
the four sums are those of Winograd's form of the scheme. nanoinfer/strassen.py says what is done with them.

    s1 = a21 + a22    s2 = s1 - a11    s3 = a11 - a21    s4 = a12 - s2
"""

from __future__ import annotations

import numpy as np

FIELDS = ("x", "x_pair", "x_image", "x_odd", "y", "y_pair", "images", "pairs", "half")


def oracle(x: np.ndarray) -> np.ndarray:
    """The definition in NumPy: x (pairs, 2, channels) -> (pairs, 4, channels / 2)."""
    a11, a12, a21, a22 = np.moveaxis(x.reshape(len(x), 4, -1), 1, 0)
    s1 = a21 + a22
    s2 = s1 - a11
    return np.stack([s1, s2, a11 - a21, a12 - s2], 1)


def build(lanes: int):
    """Threads split the pairs. `x_odd` is how far the odd pixel of a pair is from the even one, `half` half of the
    channels in bytes, whole vectors; images of sums follow each other without gaps."""
    from .simd.intrinsics import arguments, prefetch
    from .simd.tile import block

    t, fields = block(1, 1, lanes), arguments(len(FIELDS))
    load, add, sub, store = t.load, t.add, t.sub, t.store

    def strassen_sums(instruction, thread, threads):
        x, x_pair, x_image, x_odd, y, y_pair, images, pairs, half = fields(instruction)
        for pair in range(images * pairs * thread // threads, images * pairs * (thread + 1) // threads):
            image = pair // pairs
            even = x + image * x_image + (pair - image * pairs) * x_pair
            odd = even + x_odd
            to = y + pair * y_pair
            for at in range(0, half, 4 * lanes):
                prefetch(even + x_pair + at)
                prefetch(even + x_pair + half + at)
                prefetch(odd + x_pair + at)
                prefetch(odd + x_pair + half + at)
                s1 = add(load(odd + at, 0), odd + half + at, 0)
                s2 = sub(s1, even + at, 0)
                store(s1, to + at, 0)
                store(s2, to + half + at, 0)
                store(sub(load(even + at, 0), odd + at, 0), to + 2 * half + at, 0)
                store(sub(load(even + half + at, 0), to + half + at, 0), to + 3 * half + at, 0)

    return strassen_sums
