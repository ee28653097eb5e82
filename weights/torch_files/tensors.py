"""The tensors of a state dict to arrays: views of storages, which are views of the file wherever that is possible."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...errors import InputError, damaged, printable
from ..arrays import bfloat16_to_float32, to_float32
from ..buffer import Buffer
from .pickle_objects import ITEM_SIZES, Storage, Tensor

# Gives the first byte of a storage in the file, once its `size` in bytes has been checked.
Find = Callable[[Storage, int], int]


def arrays_of(state: dict[str, Tensor], buffer: Buffer, find: Find, order: str = "<") -> dict[str, np.ndarray]:
    """{name: C-contiguous array} for a state dict; floats as float32, integers and bools as they are.

    `find` locates the storages in `buffer`, whose numbers have the byte order `order`. Tensors that share a storage
    share memory. float32 and integers are views of the buffer unless their bytes are unaligned or swapped, or the
    tensor is not contiguous (channels_last, expanded) or negative. A few bytes can describe an expanded tensor of any
    size, and entries of a zip may be the same bytes, so the size of all copies is limited to a small multiple of the
    file's. Raises InputError for a tensor that does not fit its storage or has another dtype.
    """
    storages: dict[tuple, np.ndarray] = {}
    budget = _Budget(buffer)
    arrays = {}
    for name, tensor in state.items():
        if tensor.code is None:
            kind = printable(tensor.kind.rpartition(".")[2].removesuffix("Storage"))
            what = f"tensor {printable(name)!r} has dtype {kind}, which is not supported"
            raise InputError(f"{buffer.name}: {what}; save it as float32")
        storage = tensor.storage
        key = (storage.key, storage.code, storage.count, tensor.code)
        if key not in storages:
            storages[key] = _numbers(buffer, find, tensor, order, budget)
        flat = storages[key]
        if storage.length != storage.count:
            flat = flat[storage.start : storage.start + storage.length]
        array = _view(flat, tensor, name, buffer.name)
        if tensor.negative:
            budget.take(array.nbytes, name)
            array = np.negative(array, order="C")
        elif not array.flags.c_contiguous:
            budget.take(array.nbytes, name)
            array = np.array(array, order="C")
        arrays[name] = array
    return arrays


class _Budget:
    """How many bytes may still be copied."""

    def __init__(self, buffer: Buffer):
        self.name, self.rest = buffer.name, 4 * len(buffer.data) + 2**24

    def take(self, size: int, tensor: str) -> None:
        """InputError if the copies exceed what a file of this size can hold."""
        self.rest -= size
        if self.rest < 0:
            what = f"tensor {printable(tensor)!r} repeats its numbers to more than the file can hold"
            raise InputError(f"{self.name}: {what}; save it with .contiguous()")


def _numbers(buffer: Buffer, find: Find, tensor: Tensor, order: str, budget: _Budget) -> np.ndarray:
    """All numbers of a tensor's storage, 1-d; floats widened to float32."""
    storage = tensor.storage
    size = storage.count * ITEM_SIZES[storage.code]
    dtype = np.dtype(order + ("u2" if tensor.code == "bf" else tensor.code))
    start = find(storage, size)
    flat = buffer.array(dtype, size // dtype.itemsize, start)
    if flat.flags.owndata:  # its bytes are not aligned
        budget.take(flat.nbytes, storage.key)
    wide = bfloat16_to_float32(flat) if tensor.code == "bf" else to_float32(flat)
    if wide is not flat:
        budget.take(wide.nbytes, storage.key)
    if wide is not flat or flat.flags.owndata:  # a copy
        buffer.forget(start, size)
    return wide


def _view(flat: np.ndarray, tensor: Tensor, name: str, file: str) -> np.ndarray:
    """The tensor as a view of its storage `flat`; InputError if it reaches beyond the storage."""
    if 0 in tensor.shape:
        return np.empty(tensor.shape, flat.dtype)
    # The stride of a dimension of size 1 is never used, and may be any number.
    strides = [stride if size > 1 else 0 for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    if last >= flat.size:
        raise damaged(file, f"tensor {printable(name)!r} reaches number {last} of a storage of {flat.size}")
    item = flat.itemsize
    if strides == [math.prod(tensor.shape[i + 1 :]) if size > 1 else 0 for i, size in enumerate(tensor.shape)]:
        return flat[tensor.offset : last + 1].reshape(tensor.shape)
    return np.ndarray(tensor.shape, flat.dtype, flat, tensor.offset * item, [stride * item for stride in strides])
