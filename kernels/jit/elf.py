"""Loading object files: what a linker does, for the little that kernels need.

A kernel's object code is an ELF file with one function, its constants and jump tables, and a few kinds of relocation,
which `relocations` has for each machine. So the sections of all kernels are laid side by side in memory, the addresses
filled in, and the memory made executable. It is never writable and executable at once. Where a system lets no memory
become executable that was writable (MemoryDenyWriteExecute of systemd), it is the mapping of a file that lies in
memory.

That takes a few milliseconds, where importing llvmlite, a library of more than 100 MB, takes 50 and about as many MB of
memory. On other systems, and for anything unexpected in a file, `load` returns None and LLVM does it. Whoever calls it
has checked that the bytes are those that were compiled.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterable

import numpy as np

from ...errors import InputError
from . import relocations

ELF64_LITTLE = b"\x7fELF\x02\x01"
PROGBITS, SYMTAB, RELA = 1, 2, 4
ALLOCATED = 2  # flag of a section that a program has in memory
UNWIND = b".eh_frame"  # for exceptions and debuggers: a kernel raises nothing
MFD_EXEC = 0x10  # a file in memory whose mappings may be executable; Linux before 6.3 does not know the flag


class Unexpected(ValueError):
    """Not an object file of the simple kind."""


class Refused(InputError):
    """The system gives no executable memory."""

    def __init__(self, why: str):
        super().__init__(
            f"this system refuses executable memory, which compiled kernels need ({why}); allow it to this process, "
            "for instance with MemoryDenyWriteExecute=no in a unit of systemd"
        )


def leak(memory: object) -> None:
    """Never free `memory`: waiting threads run or read it while the interpreter takes its modules apart."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))


def load(objects: Iterable[tuple[str, bytes]]) -> list[int] | None:
    """Addresses of the functions of (symbol, object code) pairs, or None if they are not for this loader.

    Raises Refused if the system gives no executable memory.
    """
    machine = relocations.host() if sys.platform == "linux" else None
    if machine is None:
        return None
    try:
        return _load([(symbol, _Object(code, machine)) for symbol, code in objects], machine)
    except Refused:
        raise
    except (ValueError, LookupError, struct.error, OSError, AttributeError):
        return None


class _Object:
    """Sections as (type, flags, offset, size, link, info, alignment, entry size), and symbols by number."""

    def __init__(self, code: bytes, machine: relocations.Machine):
        if code[:6] != ELF64_LITTLE or struct.unpack_from("<H", code, 18) != (machine.number,):
            raise Unexpected
        (table,) = struct.unpack_from("<Q", code, 40)
        entry, count, names = struct.unpack_from("<HHH", code, 58)
        self.code = code
        headers = [struct.unpack_from("<IIQQQQIIQQ", code, table + number * entry) for number in range(count)]
        self.sections = [(kind, flags, *rest) for _, kind, flags, _, *rest in headers]
        self.names = [self._text(self.sections[names], name) for name, *_ in headers]
        self.symbols = []
        for section in self.sections:
            if section[0] == SYMTAB:
                strings = self.sections[section[4]]
                for name, _, _, home, value, _ in struct.iter_unpack("<IBBHQQ", self.content(section)):
                    self.symbols.append((self._text(strings, name), home, value))

    def content(self, section: tuple) -> bytes:
        _, _, offset, size, *_ = section
        return self.code[offset : offset + size]

    def _text(self, strings: tuple, start: int) -> bytes:
        text = self.content(strings)
        return text[start : text.index(b"\0", start)]

    def parts(self) -> list[int]:
        """Numbers of the sections that have to be in memory."""
        numbers = []
        for number, (kind, flags, _, size, *_) in enumerate(self.sections):
            if flags & ALLOCATED and size and self.names[number] != UNWIND:
                if kind != PROGBITS:
                    raise Unexpected
                numbers.append(number)
        return numbers

    def relocations(self, number: int) -> list[tuple[int, int, int, int]]:
        """(offset, kind, symbol, addend) of the addresses to fill in in one section."""
        found = []
        for section in self.sections:
            kind, *_, info, _, _ = section
            if kind == RELA and info == number:
                for offset, what, addend in struct.iter_unpack("<QQq", self.content(section)):
                    found.append((offset, what & 0xFFFFFFFF, what >> 32, addend))
        return found


def _load(objects: list[tuple[str, _Object]], machine: relocations.Machine) -> list[int]:
    places, size = {}, 0
    for index, (_, file) in enumerate(objects):
        for number in file.parts():
            alignment = max(64, file.sections[number][6])
            size = -(-size // alignment) * alignment
            places[index, number] = size
            size += file.sections[number][3]
    outside = _outside({name for _, file in objects for name, home, _ in file.symbols if name and home == 0})
    veneers = {}
    for name in outside if machine.veneer else ():
        veneers[name] = size = -(-size // 16) * 16
        size += len(machine.veneer) + 8

    def address(base: int, index: int, symbol: tuple[bytes, int, int]) -> int:
        name, home, value = symbol
        if home == 0:  # not in the object
            return base + veneers[name] if veneers else outside[name]
        return base + places[index, home] + value

    def image(base: int) -> bytearray:
        """What lies in memory from the address `base` on."""
        content = bytearray(size)
        for (index, number), place in places.items():
            file = objects[index][1]
            part = file.content(file.sections[number])
            if len(part) != file.sections[number][3]:
                raise Unexpected
            content[place : place + len(part)] = part
            for offset, kind, symbol, addend in file.relocations(number):
                target = address(base, index, file.symbols[symbol]) + addend
                machine.relocations[kind](content, place + offset, base + place + offset, target)
        for name, place in veneers.items():
            content[place : place + len(machine.veneer) + 8] = machine.veneer + struct.pack("<Q", outside[name])
        return content

    entries = []
    for index, (wanted, file) in enumerate(objects):
        symbol = next((symbol for symbol in file.symbols if symbol[0] == wanted.encode() and symbol[1]), None)
        if symbol is None:
            raise Unexpected
        entries.append((index, symbol))
    clear = relocations.cache_clearer(machine)
    base = _executable(size, image)
    clear(base, base + size)
    return [address(base, *entry) for entry in entries]


def _outside(names: Iterable[bytes]) -> dict[bytes, int]:
    """Addresses of functions of the C library."""
    system = ctypes.CDLL(None)
    return {name: ctypes.cast(getattr(system, name.decode()), ctypes.c_void_p).value for name in sorted(names)}


def _executable(size: int, image: Callable[[int], bytes]) -> int:
    """The address of memory that holds `image` of that address, can be executed and is never freed. Raises Refused."""
    problems = []
    for way in (_protected, _mapped):
        try:
            memory = way(size or 1, image)
        except OSError as error:
            problems.append(f"{way.__name__.strip('_')}: {error.strerror or error}")
        else:
            leak(memory)
            return _address(memory)
    raise Refused(", ".join(problems))


def _address(memory: mmap.mmap) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data


def _protected(size: int, image: Callable[[int], bytes]) -> mmap.mmap:
    """Memory that is written, and then made executable instead of writable."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = image(_address(memory)).ljust(size, b"\0")
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if protect(_address(memory), size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return memory


def _mapped(size: int, image: Callable[[int], bytes]) -> mmap.mmap:
    """A file in memory, mapped as executable and written as a file; that it has no name keeps others from it."""
    try:
        file = os.memfd_create("nanoinfer", os.MFD_CLOEXEC | MFD_EXEC)
    except OSError:
        file = os.memfd_create("nanoinfer", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, size)
        memory = mmap.mmap(file, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        content = memoryview(image(_address(memory)))
        while content:
            content = content[os.pwrite(file, content, size - len(content)) :]
    finally:
        os.close(file)
    return memory


def refusals() -> dict[str, str]:
    """{"protected" or "mapped": why the system gives no executable memory in this way, "" where it does}."""
    found = {}
    for way in (_protected, _mapped):
        try:
            way(mmap.PAGESIZE, lambda base: bytearray(mmap.PAGESIZE)).close()
        except OSError as error:
            found[way.__name__.strip("_")] = error.strerror or str(error)
        else:
            found[way.__name__.strip("_")] = ""
    return found
