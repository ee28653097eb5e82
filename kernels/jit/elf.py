"""Loading object files: what a linker does, for the little that kernels need.

A kernel's object code is an ELF file with one function, its constants and jump tables, and no relocation but 64-bit
absolute addresses. So the sections of all kernels are laid side by side in memory, the addresses filled in, and the
memory made executable. That takes a few milliseconds, where importing llvmlite, a library of more than 100 MB, takes
50 and about as many MB of memory. On other systems, and for anything unexpected in a file, `load` returns None and
LLVM does it.

Format: System V ABI, ELF-64, and its supplement for x86-64.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from collections.abc import Iterable

ELF64_LITTLE, X86_64 = b"\x7fELF\x02\x01", 62
PROGBITS, SYMTAB, RELA = 1, 2, 4
ALLOCATED = 2  # flag of a section that a program has in memory
ABSOLUTE64 = 1  # R_X86_64_64
UNWIND = b".eh_frame"  # for exceptions and debuggers: a kernel raises nothing


class Unexpected(ValueError):
    """Not an object file of the simple kind."""


def leak(memory: object) -> None:
    """Never free `memory`: waiting threads run or read it while the interpreter takes its modules apart."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))


def load(objects: Iterable[tuple[str, bytes]]) -> list[int] | None:
    """Addresses of the functions of (symbol, object code) pairs, or None if they are not for this loader."""
    if sys.platform != "linux":
        return None
    try:
        return _load([(symbol, _Object(code)) for symbol, code in objects])
    except (ValueError, LookupError, struct.error, OSError, AttributeError):
        return None


class _Object:
    """Sections as (type, flags, offset, size, link, info, alignment, entry size), and symbols by number."""

    def __init__(self, code: bytes):
        if code[:6] != ELF64_LITTLE or struct.unpack_from("<H", code, 18) != (X86_64,):
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

    def relocations(self, number: int) -> list[tuple[int, int, int]]:
        """(offset, symbol, addend) of the addresses to fill in in one section."""
        found = []
        for section in self.sections:
            kind, *_, info, _, _ = section
            if kind == RELA and info == number:
                for offset, what, addend in struct.iter_unpack("<QQq", self.content(section)):
                    if what & 0xFFFFFFFF != ABSOLUTE64:
                        raise Unexpected
                    found.append((offset, what >> 32, addend))
        return found


def _load(objects: list[tuple[str, _Object]]) -> list[int]:
    places, size = {}, 0
    for index, (_, file) in enumerate(objects):
        for number in file.parts():
            alignment = max(64, file.sections[number][6])
            size = -(-size // alignment) * alignment
            places[index, number] = size
            size += file.sections[number][3]
    memory = mmap.mmap(-1, size or 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    system = ctypes.CDLL(None)

    def address(index: int, symbol: tuple[bytes, int, int]) -> int:
        name, home, value = symbol
        if home == 0:  # not in the object: a function of the C library
            return ctypes.cast(getattr(system, name.decode()), ctypes.c_void_p).value
        return base + places[index, home] + value

    found = []
    for index, (wanted, file) in enumerate(objects):
        for number in file.parts():
            place = places[index, number]
            memory[place : place + file.sections[number][3]] = file.content(file.sections[number])
            for offset, symbol, addend in file.relocations(number):
                target = address(index, file.symbols[symbol]) + addend
                struct.pack_into("<Q", memory, place + offset, target & 0xFFFFFFFFFFFFFFFF)
        symbol = next((symbol for symbol in file.symbols if symbol[0] == wanted.encode() and symbol[1]), None)
        if symbol is None:
            raise Unexpected
        found.append(address(index, symbol))
    protect = system.mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if protect(base, len(memory), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError
    leak(memory)
    return found
