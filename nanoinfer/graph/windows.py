"""Windows over an image: how padding is given, how many windows there are, and what each of them holds.

An operator's "padding" is a number of pixels on all four sides, or SAME. SAME is TensorFlow's rule: ceil(size / stride)
outputs along an axis, and as much padding as they need, of which the end gets the larger half. So how much it is
depends on the size of the image, and an image of even sides under a 3 x 3 window of stride 2 has none before its first
pixel and one behind its last, where torch's padding=1 has one before and none behind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

SAME = "same"


def edges(size: int, window: int, stride: int, padding: int | str) -> tuple[int, int]:
    """(pixels before, pixels behind) that padding adds along an axis of `size` pixels."""
    if padding != SAME:
        return padding, padding
    missing = max(0, (-(-size // stride) - 1) * stride + window - size)
    return missing // 2, missing - missing // 2


def padding_before(attributes: Mapping, height_width: tuple[int, int], window: int) -> tuple[int, int]:
    """(rows above, columns to the left) that padding adds to an image; `attributes` are those of the operator."""
    return tuple(edges(size, window, attributes["stride"], attributes["padding"])[0] for size in height_width)


def windows(x: np.ndarray, window: int, stride: int, padding: int | str, fill: float) -> np.ndarray:
    """(N, C, H, W) -> (N, C, OH, OW, window, window); `fill` stands for what padding adds."""
    sides = [edges(size, window, stride, padding) for size in x.shape[2:]]
    padded = np.pad(x, ((0, 0), (0, 0), *sides), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, (window, window), (2, 3))[:, :, ::stride, ::stride]


def window_shape(shape: tuple[int, ...], window: int, stride: int, padding: int | str) -> tuple[int, ...]:
    """The shape (N, C, OH, OW) of one output for each window; ValueError if none fits into the image."""
    n, c, h, w = shape
    size = tuple((side + sum(edges(side, window, stride, padding)) - window) // stride + 1 for side in (h, w))
    if min(size) < 1:
        raise ValueError(f"a {window} x {window} window does not fit into {h} x {w}; the image is too small")
    return n, c, *size


def blur_padding(window: int, stride: int) -> int:
    """Pixels of reflected border around an image that is blurred; timm's rule."""
    return (stride - 1 + window - 1) // 2


def blur_weights(window: int) -> np.ndarray:
    """(window, window) float64: the products of binomial coefficients, of sum 1."""
    row = np.array([math.comb(window - 1, k) for k in range(window)]) / 2 ** (window - 1)
    return row[:, None] * row
