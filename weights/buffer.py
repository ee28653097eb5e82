"""The bytes of a source: a file is mapped, other sources are read."""

from __future__ import annotations

import io
import mmap
import os
import stat
from typing import NamedTuple

import numpy as np

from ..errors import InputError, printable

_CAN_FORGET = hasattr(mmap, "MADV_DONTNEED")


class Buffer(NamedTuple):
    """All bytes of a file, and its name in messages. Arrays of a mapped file are views that keep the mapping alive."""

    data: mmap.mmap | bytes
    name: str

    def array(self, dtype: np.dtype, count: int, start: int) -> np.ndarray:
        """`count` numbers from byte `start` on, which lie within the data, 1-d: a read-only view if it is aligned.

        A format that does not promise alignment gives a copy where numbers have none, since kernels need it.
        """
        if count == 0:  # frombuffer refuses a start at the very end of the data
            return np.empty(0, dtype)
        flat = np.frombuffer(self.data, dtype, count, start)
        return flat if flat.flags.aligned else flat.copy()

    def forget(self, start: int, size: int) -> None:
        """Take bytes that have been read out of this process's memory; they are mapped again where they are needed."""
        if isinstance(self.data, mmap.mmap) and _CAN_FORGET and size:
            begin = start - start % mmap.PAGESIZE
            self.data.madvise(mmap.MADV_DONTNEED, begin, start + size - begin)


def map_file(path: str) -> Buffer:
    """The bytes of a regular file that is not empty; InputError, which says what to do, for everything else.

    A file system that cannot map files has them read.
    """
    name = printable(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{name}: is not a regular file; save the weights to a file and give its path")
        with open(path, "rb") as file:
            return Buffer(_mapped(file), name)
    except FileNotFoundError:
        if path.startswith(("http://", "https://")):
            raise InputError(f"{name}: is a web address; download the file and give its path") from None
        raise InputError(f"{name}: no such file; check the path (a hub model is written hub:owner/name)") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read ({reason}); check the path and its permissions") from None


def read_object(file) -> Buffer:
    """The bytes of a binary file object, from its position to its end; a plain file at its beginning is mapped.

    Only `read` is asked for, so that members of archives, responses of servers and io.BytesIO serve as well. A `fileno`
    is no sign of a plain file: that of gzip.open is the file with the compressed bytes.
    """
    name = getattr(file, "name", None)
    name = printable(name) if isinstance(name, str) else "the file object"
    raw = file.raw if isinstance(file, io.BufferedReader) else file
    try:
        if isinstance(raw, io.FileIO) and stat.S_ISREG(os.fstat(raw.fileno()).st_mode) and file.tell() == 0:
            return Buffer(_mapped(file), name)
        data = file.read()
    except Exception as error:  # a file object runs code of its own
        reason = printable(error) or type(error).__name__
        raise InputError(f"{name}: cannot be read ({reason}); open it for reading, in binary mode") from None
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"{name}: gives {type(data).__name__} and no bytes; open it in binary mode: open(path, 'rb')")
    return Buffer(bytes(data), name)


def _mapped(file) -> mmap.mmap | bytes:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: the file is empty
        return file.read()


def release(array: np.ndarray) -> None:
    """Give the memory behind an array of a mapped file back to the system, which rereads the file if it is used.

    Nothing happens to an array that is not a view of a mapped file.
    """
    base = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and _CAN_FORGET:
        base.madvise(mmap.MADV_DONTNEED)
