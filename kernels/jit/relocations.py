"""How addresses are filled into the code of each machine that `elf` loads object files for.

x86-64 takes whole addresses. On Arm an instruction has room for a part of one, or for a distance: a call reaches 128
MiB. What the C library holds may be further away, so calls of it go through a veneer, two instructions with the address
behind them, that lies beside the kernels.

Format: System V ABI, ELF-64, its supplement for x86-64, and ELF for the Arm 64-bit architecture (AAELF64).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

WORD = 0xFFFFFFFFFFFFFFFF


class Machine(NamedTuple):
    """`relocations` are functions (content, offset, address of that place, target), by number."""

    number: int  # in the header of an object file
    relocations: dict[int, Callable[[bytearray, int, int, int], None]]
    veneer: bytes  # what jumps to the address that follows it; empty where calls reach everything
    clears_cache: bool  # whether what was written as data has to be announced to the cache of instructions


def _address(content: bytearray, at: int, place: int, target: int) -> None:
    struct.pack_into("<Q", content, at, target & WORD)


def _instruction(field: Callable[[int, int], int]) -> Callable[[bytearray, int, int, int], None]:
    """Fills the bits of an instruction that `field` makes of its own address and the target's."""

    def fill(content, at, place, target):
        (word,) = struct.unpack_from("<I", content, at)
        struct.pack_into("<I", content, at, word | field(place, target))

    return fill


def _within(distance: int, bits: int) -> int:
    """A signed distance in so many bits. Raises ValueError if it needs more."""
    if not -1 << bits - 1 <= distance < 1 << bits - 1:
        raise ValueError("an address is out of reach")
    return distance & (1 << bits) - 1


def _pages(place: int, target: int) -> int:
    pages = _within((target >> 12) - (place >> 12), 21)
    return (pages & 3) << 29 | pages >> 2 << 5


def _move(shift: int) -> Callable[[bytearray, int, int, int], None]:
    return _instruction(lambda place, target: (target >> shift & 0xFFFF) << 5)


X86_64 = Machine(62, {1: _address}, b"", False)  # R_X86_64_64
AARCH64 = Machine(
    183,
    {
        257: _address,  # R_AARCH64_ABS64
        264: _move(0),  # R_AARCH64_MOVW_UABS_G0_NC
        266: _move(16),  # R_AARCH64_MOVW_UABS_G1_NC
        268: _move(32),  # R_AARCH64_MOVW_UABS_G2_NC
        269: _move(48),  # R_AARCH64_MOVW_UABS_G3
        275: _instruction(_pages),  # R_AARCH64_ADR_PREL_PG_HI21
        277: _instruction(lambda place, target: (target & 0xFFF) << 10),  # R_AARCH64_ADD_ABS_LO12_NC
        283: _instruction(lambda place, target: _within(target - place >> 2, 26)),  # R_AARCH64_CALL26
    },
    struct.pack("<II", 0x58000050, 0xD61F0200),  # ldr x16, address; br x16
    True,
)


def host() -> Machine | None:
    """The machine of this process; None if there is no table for it."""
    return {"x86_64": X86_64, "aarch64": AARCH64}.get(os.uname().machine)


def cache_clearer(machine: Machine) -> Callable[[int, int], None]:
    """A function (begin, end) that makes code in memory fit to run. Raises OSError if the system has none."""
    if not machine.clears_cache:
        return lambda begin, end: None
    clear = ctypes.CDLL("libgcc_s.so.1")["__clear_cache"]
    clear.argtypes, clear.restype = (ctypes.c_void_p, ctypes.c_void_p), None
    return clear
