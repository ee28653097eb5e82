"""Shapes and dtypes, for all readers: which shapes NumPy can hold, float32 from every floating dtype, array-likes."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping

import numpy as np

from ..errors import InputError, printable

Arrays = dict[str, np.ndarray]
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


def as_arrays(mapping: Mapping) -> Arrays:
    """{str: array-like} -> {str: C-contiguous ndarray}, with their own dtypes.

    Torch tensors are recognised by their methods, so torch is never imported. Raises InputError, which names the entry,
    if a key is not a string or a value is not an array of real numbers.
    """
    arrays = {}
    for name, value in mapping.items():
        if not isinstance(name, str):
            raise InputError(
                f"weights: the key {printable(repr(name))} is not a string; name every array by its parameter"
            )
        try:
            if hasattr(value, "detach"):
                value = value.detach().cpu()
                if hasattr(value, "resolve_neg"):
                    value = value.resolve_neg()
                if str(value.dtype) == "torch.bfloat16":  # NumPy has no such dtype
                    value = value.float()
            array = np.asarray(value, order="C")
            if array.dtype.name == "bfloat16":  # from the ml_dtypes package
                array = array.astype(np.float32)
        except Exception as error:  # array-likes run code of their own: any exception means "no array"
            reason = printable(error)
            raise InputError(
                f"weights: {printable(name)!r} is not an array ({reason}); convert it to float32"
            ) from None
        if array.dtype.kind not in "fiub":
            kind = f"{type(value).__name__} of dtype {array.dtype}"
            raise InputError(
                f"weights: {printable(name)!r} is a {kind}, not real numbers; convert it to float32 or remove it"
            )
        arrays[name] = array
    return arrays


def tensors_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of the names, dtypes, shapes and numbers of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
