"""Arrays that stay where they are stored until somebody reads their numbers."""

from __future__ import annotations

import math
import mmap
import weakref
from typing import NamedTuple

import numpy as np

from .arrays import bfloat16_to_float32, to_float32
from .buffer import Buffer

_MAPPED = 2**16  # numbers from which on an array has pages of its own


def _own_pages(dtype: np.dtype, count: int) -> np.ndarray:
    """An array whose memory goes back to the system with it, rather than stay with the allocator."""
    flags = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE} if hasattr(mmap, "MAP_POPULATE") else {}
    )
    return np.frombuffer(mmap.mmap(-1, count * dtype.itemsize, **flags), dtype)


class Numbers(NamedTuple):
    """Numbers that lie side by side in a source, which is at least as long.

    They are read in native byte order: floats as float32, `bfloat16` (of dtype uint16) too, integers and bools as they
    are.
    """

    buffer: Buffer
    start: int  # first byte
    dtype: np.dtype  # as they are stored
    count: int
    bfloat16: bool = False

    @property
    def read_dtype(self) -> np.dtype:
        is_float = self.bfloat16 or self.dtype.kind == "f"
        return np.dtype(np.float32) if is_float else self.dtype.newbyteorder("=")

    def read(self, first: int, count: int) -> np.ndarray:
        """`count` numbers from number `first` on, 1-d, in memory of their own. InputError if the file has changed."""
        stored = np.empty(count, self.dtype) if count < _MAPPED else _own_pages(self.dtype, count)
        if count:
            self.buffer.read_into(self.start + first * self.dtype.itemsize, memoryview(stored.view(np.uint8)))
        return bfloat16_to_float32(stored) if self.bfloat16 else to_float32(stored)


def _nothing() -> None:
    """A reference to what is gone."""


class StoredArray:
    """An array, C-contiguous, whose numbers are read each time that somebody asks for them: `numpy.asarray(array)`.

    So a file of weights takes no memory beside what is made of them, and nothing that happens to the file later can
    change numbers or end the process: a read gives what the file held when it was opened, or raises InputError. (Only
    what is written within a tick of the file system's clock after the opening, some ms, cannot be told.)
    """

    def __init__(self, numbers: Numbers, shape: tuple[int, ...], first: int = 0):
        """`first`: which of `numbers` is the array's first."""
        self.numbers, self.shape, self.first = numbers, tuple(shape), first
        self._read = _nothing  # what was read last, if somebody still holds it

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))
    dtype = property(lambda self: self.numbers.read_dtype)
    nbytes = property(lambda self: self.size * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """The array, read-only; all who hold it at a time share one."""
        array = self._read()
        if array is None:
            array = self.numbers.read(self.first, self.size).reshape(self.shape)
            array.flags.writeable = False
            self._read = weakref.ref(array)
        return array.astype(dtype or array.dtype, copy=bool(copy))

    def __getitem__(self, index):
        """Some rows (of the first axis) as a stored array; whatever else is indexed is read."""
        if not isinstance(index, slice) or index.step is not None:
            return np.asarray(self)[index]
        begin, end, _ = index.indices(len(self))
        row, rows = math.prod(self.shape[1:]), max(0, end - begin)
        return StoredArray(self.numbers, (rows, *self.shape[1:]), self.first + begin * row)

    def astype(self, dtype) -> np.ndarray:
        return self.__array__(dtype)

    def reshape(self, *shape: int) -> StoredArray:
        """The same numbers, as many, in another shape."""
        return StoredArray(self.numbers, shape, self.first)

    def __reduce__(self):
        """A copy holds the numbers: the file need not be where it is used."""
        return np.asarray, (np.asarray(self),)

    def __repr__(self) -> str:
        return f"<{self.dtype} {self.shape} in {self.numbers.buffer.name}>"


def in_memory(arrays) -> dict[str, np.ndarray]:
    """{name: ndarray} of stored and other arrays. Stored arrays of the same numbers share memory, as in torch."""
    read: dict[tuple, np.ndarray] = {}

    def of(array: StoredArray) -> np.ndarray:
        numbers = array.numbers
        key = id(numbers.buffer.data), *numbers[1:]
        if key not in read:
            read[key] = numbers.read(0, numbers.count)
        return read[key][array.first : array.first + array.size].reshape(array.shape)

    return {name: of(array) if isinstance(array, StoredArray) else array for name, array in arrays.items()}
