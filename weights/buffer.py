"""The bytes of a source: a file that is read where it is needed, or bytes in memory."""

from __future__ import annotations

import io
import os
import stat
import threading
import weakref
from typing import NamedTuple

from ..errors import InputError, printable

_seeking = threading.Lock()  # a position belongs to a file, not to a thread


class OpenFile:
    """A regular file as it was when it was opened: its bytes by slice, or into memory, and never others.

    It is not mapped: of a mapped file that is cut short a read ends the process, and one that is written to has other
    numbers without a word. Here each read ends with a look at size, time and inode, and raises InputError if they are
    not those of the beginning. A file that is deleted, or that another one is renamed over, is still there for whoever
    has it open.
    """

    def __init__(self, descriptor: int, name: str):
        """`descriptor` becomes the object's own, and is closed with it."""
        weakref.finalize(self, os.close, descriptor)
        self.name, self._descriptor = name, descriptor
        self._state = self._look()

    def __len__(self) -> int:
        return self._state[0]

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(len(self))
        content = bytearray(max(0, end - start))
        self.read_into(start, memoryview(content))
        return bytes(content)

    def read_into(self, start: int, memory: memoryview) -> None:
        """Fill `memory`, single bytes, with those from `start` on, which lie within the file."""
        try:
            while memory:
                count = _read_at(self._descriptor, start, memory)
                if not count:
                    break
                start, memory = start + count, memory[count:]
            state = self._look()
        except OSError as error:
            raise unreadable(self.name, error) from None
        if memory or state != self._state:
            raise InputError(
                f"{self.name}: changed since it was opened; create the model again, and replace a file in use by "
                "renaming a new one over it"
            )

    def _look(self) -> tuple[int, ...]:
        """What changes when somebody writes to the file. (Its ctime also does when it is renamed or deleted.)"""
        now = os.fstat(self._descriptor)
        return now.st_size, now.st_mtime_ns, now.st_ino, now.st_dev


def _read_at(descriptor: int, start: int, memory: memoryview) -> int:
    """How many bytes were read, 0 at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [memory], start)
    with _seeking:
        os.lseek(descriptor, start, os.SEEK_SET)
        content = os.read(descriptor, min(len(memory), 2**24))
    memory[: len(content)] = content
    return len(content)


class Buffer(NamedTuple):
    """All bytes of a source, as slices of `data`, and its name in messages."""

    data: OpenFile | bytes
    name: str

    def read_into(self, start: int, memory: memoryview) -> None:
        """Fill `memory`, single bytes, with those from `start` on, which lie within the data."""
        if isinstance(self.data, OpenFile):
            self.data.read_into(start, memory)
        else:
            memory[:] = memoryview(self.data)[start : start + len(memory)]


def open_file(path: str) -> Buffer:
    """The bytes of a regular file; InputError, which says what to do, for everything else."""
    name = printable(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{name}: is not a regular file; save the weights to a file and give its path")
        return Buffer(OpenFile(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), name), name)
    except FileNotFoundError:
        if path.startswith(("http://", "https://")):
            raise InputError(f"{name}: is a web address; download the file and give its path") from None
        raise InputError(f"{name}: no such file; check the path (a hub model is written hub:owner/name)") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise unreadable(name, error) from None


def unreadable(name: str, error: Exception) -> InputError:
    """The error of a file that the system does not let be read."""
    reason = getattr(error, "strerror", None) or error
    return InputError(f"{name}: cannot be read ({reason}); check the path and its permissions")


def read_object(file) -> Buffer:
    """The bytes of a binary file object, from its position to its end; a plain file at its beginning stays open.

    Only `read` is asked for, so that members of archives, responses of servers and io.BytesIO serve as well. A `fileno`
    is no sign of a plain file: that of gzip.open is the file with the compressed bytes.
    """
    name = getattr(file, "name", None)
    name = printable(name) if isinstance(name, str) else "the file object"
    raw = file.raw if isinstance(file, io.BufferedReader) else file
    try:
        if isinstance(raw, io.FileIO) and stat.S_ISREG(os.fstat(raw.fileno()).st_mode) and file.tell() == 0:
            if not raw.readable():
                raise OSError("it is open for writing")
            return Buffer(OpenFile(os.dup(raw.fileno()), name), name)
        data = file.read()
    except Exception as error:  # a file object runs code of its own
        reason = printable(error) or type(error).__name__
        raise InputError(f"{name}: cannot be read ({reason}); open it for reading, in binary mode") from None
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"{name}: gives {type(data).__name__} and no bytes; open it in binary mode: open(path, 'rb')")
    return Buffer(bytes(data), name)
