"""The tensors of a state dict to arrays: parts of storages, which stay in the file wherever that is possible."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...errors import InputError, damaged, printable
from ..buffer import Buffer
from ..stored import Numbers, StoredArray
from .pickle_objects import ITEM_SIZES, Storage, Tensor

# Gives the first byte of a storage in the file, once its `size` in bytes has been checked.
Find = Callable[[Storage, int], int]
Array = np.ndarray | StoredArray


def arrays_of(state: dict[str, Tensor], buffer: Buffer, find: Find, order: str = "<") -> dict[str, Array]:
    """{name: C-contiguous array} for a state dict; floats as float32, integers and bools as they are.

    `find` locates the storages in `buffer`, whose numbers have the byte order `order`. Arrays stay stored, but those of
    tensors that are not contiguous (channels_last, expanded) or negative. A few bytes can describe an expanded tensor
    of any size, and entries of a zip may be the same bytes, so the size of all storages and copies is limited to a
    small multiple of the file's. Raises InputError for a tensor that does not fit its storage or has another dtype.
    """
    storages: dict[tuple, Numbers] = {}
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
        arrays[name] = _array(storages[key], tensor, name, budget)
    return arrays


class _Budget:
    """How many bytes arrays may still take."""

    def __init__(self, buffer: Buffer):
        self.name, self.rest = buffer.name, 4 * len(buffer.data) + 2**24

    def take(self, size: int, tensor: str) -> None:
        """InputError if they exceed what a file of this size can hold."""
        self.rest -= size
        if self.rest < 0:
            what = f"tensor {printable(tensor)!r} repeats its numbers to more than the file can hold"
            raise InputError(f"{self.name}: {what}; save it with .contiguous()")


def _numbers(buffer: Buffer, find: Find, tensor: Tensor, order: str, budget: _Budget) -> Numbers:
    """All numbers of a tensor's storage."""
    storage, bfloat16 = tensor.storage, tensor.code == "bf"
    size = storage.count * ITEM_SIZES[storage.code]
    dtype = np.dtype(order + ("u2" if bfloat16 else tensor.code))
    numbers = Numbers(buffer, find(storage, size), dtype, size // dtype.itemsize, bfloat16)
    budget.take(numbers.count * numbers.read_dtype.itemsize, storage.key)
    return numbers


def _array(numbers: Numbers, tensor: Tensor, name: str, budget: _Budget) -> Array:
    """The tensor, a view of the numbers of its storage; InputError if it reaches beyond them."""
    storage = tensor.storage
    first, count = (0, numbers.count) if storage.length == storage.count else (storage.start, storage.length)
    count = max(0, min(count, numbers.count - first))
    if 0 in tensor.shape:
        return np.empty(tensor.shape, numbers.read_dtype)
    # The stride of a dimension of size 1 is never used, and may be any number.
    strides = [stride if size > 1 else 0 for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    if last >= count:
        what = f"tensor {printable(name)!r} reaches number {last} of a storage of {count}"
        raise damaged(numbers.buffer.name, what)
    first += tensor.offset
    contiguous = [math.prod(tensor.shape[i + 1 :]) if size > 1 else 0 for i, size in enumerate(tensor.shape)]
    if strides == contiguous and not tensor.negative:
        return StoredArray(numbers, tensor.shape, first)
    budget.take(math.prod(tensor.shape) * numbers.read_dtype.itemsize, name)
    flat = numbers.read(first, last + 1 - tensor.offset)
    view = np.ndarray(tensor.shape, flat.dtype, flat, 0, [stride * flat.itemsize for stride in strides])
    return np.negative(view, order="C") if tensor.negative else np.array(view, order="C")
