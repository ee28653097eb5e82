"""What both file readers share: which shapes NumPy can hold, and every floating dtype to float32."""

import math

import numpy as np

MAX_DIMENSIONS = 32  # NumPy 1.x holds no more; networks use five at most


def is_shape(shape):
    """True when ``shape`` is a sequence of sizes that an array can have, so that making one cannot raise.

    Zero sizes are left out of the product because NumPy limits that product, too.
    """
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_DIMENSIONS:
        return False
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        return False
    return math.prod(size for size in shape if size) < 2**48


def to_float32(array):
    """Any floating array -> float32; integers and bools keep their dtype. Native byte order, no copy if none is needed.

    A float64 beyond the float32 range becomes inf, as it does in torch.
    """
    if array.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return array.astype(np.float32, copy=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def bfloat16_to_float32(bits):
    """uint16 bit patterns of bfloat16 -> float32. Exact: a bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
