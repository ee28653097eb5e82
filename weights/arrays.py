"""Shapes and dtypes, for both file readers: which shapes NumPy can hold, and float32 from every floating dtype."""

from __future__ import annotations

import math
import os

import numpy as np

StrPath = str | os.PathLike

MAX_DIMENSIONS = 32  # NumPy 1.x holds no more; networks use five at most


def is_shape(shape: object) -> bool:
    """Whether `shape`, from a file, is a sequence of sizes that an array can have, so that making one cannot raise.

    The product leaves out sizes of zero, because NumPy limits the product of the others too.
    """
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_DIMENSIONS:
        return False
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        return False
    return math.prod(size for size in shape if size) < 2**48


def to_float32(array: np.ndarray) -> np.ndarray:
    """Any floating array -> float32; integers and bools keep their dtype. In native byte order, a copy only if needed.

    A float64 beyond the range of float32 becomes inf, as in torch.
    """
    if array.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return array.astype(np.float32, copy=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16, as uint16 bit patterns -> float32. The result is exact: a bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
