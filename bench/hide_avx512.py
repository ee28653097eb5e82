"""A process to which the CPU seems to have AVX2 and no AVX-512: all libraries that it loads then choose AVX2 code.

Libraries ask the CPUID instruction what the CPU can do. Linux can make this instruction fault in a process (CPUID
faulting, arch_prctl(2), on Intel CPUs since 2012 and in virtual machines under KVM). The fault becomes SIGSEGV, and the
handler here answers it from a table that was read before, with the bits of AVX-512 and AMX cleared. Threads and forked
children inherit the state; a program started by exec does not. It is for x86-64 Linux alone.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import sys
from pathlib import Path

import numpy as np

ARCH_PRCTL, SET_CPUID = 158, 0x1012  # the system call and its operation, from asm/unistd_64.h and asm/prctl.h
SIGINFO, NODEFER = 4, 0x40000000
FIRST, RBX, RDX, RAX, RCX, RIP = 5, 11, 12, 13, 14, 16  # ucontext_t in words: its greg_t[23] begins at the fifth
CPUID = 0xA20F  # the instruction's two bytes
# void read(leaf, subleaf, uint32 result[4]): push rbx; mov r8, rdx; mov eax, edi; mov ecx, esi; cpuid;
# mov [r8], eax; mov [r8+4], ebx; mov [r8+8], ecx; mov [r8+12], edx; pop rbx; ret
READ = bytes.fromhex("53 4989d0 89f8 89f1 0fa2 418900 41895804 41894808 4189500c 5b c3")

FIRST_LEAVES, LEAVES, SUBLEAVES = (0, 0x40000000, 0x80000000), 0x28, 64
# (leaf, subleaf, register) -> bits that are cleared: Intel's manual, volume 2A, CPUID.
HIDDEN = {
    (0x07, 0, 1): (16, 17, 21, 26, 27, 28, 30, 31),  # F, DQ, IFMA, PF, ER, CD, BW, VL
    (0x07, 0, 2): (1, 6, 11, 12, 14),  # VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
    (0x07, 0, 3): (2, 3, 8, 22, 23, 24, 25),  # 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, FP16, AMX-TILE, AMX-INT8
    (0x07, 1, 0): (5, 21),  # BF16, AMX-FP16
    (0x07, 1, 3): (8, 19),  # AMX-COMPLEX, AVX10
    (0x0D, 0, 0): (5, 6, 7, 17, 18),  # the state of mask registers, 512-bit registers and tiles
}


def can_hide() -> bool:
    """Whether CPUID can be made to fault here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return " cpuid_fault " in Path("/proc/cpuinfo").read_text()


def answers() -> np.ndarray:
    """What CPUID says, without AVX-512: (first leaf, leaf, subleaf, register eax to edx), uint32."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(READ)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    read = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(address)
    table = np.zeros((len(FIRST_LEAVES), LEAVES, SUBLEAVES, 4), np.uint32)
    for index, first in enumerate(FIRST_LEAVES):
        read(first, 0, table[index, 0, 0].ctypes.data)
        for leaf in range(min(int(table[index, 0, 0, 0]) - first + 1, LEAVES)):
            for subleaf in range(SUBLEAVES):
                read(first + leaf, subleaf, table[index, leaf, subleaf].ctypes.data)
    for (leaf, subleaf, register), bits in HIDDEN.items():
        table[0, leaf, subleaf, register] &= ~np.uint32(sum(1 << bit for bit in bits))
    return table


def handler(table: np.ndarray):
    """The native signal handler that answers CPUID from `table`; any other fault ends the process, as without it."""
    from numba import carray, cfunc, types
    from numba.core.typing import signature
    from numba.extending import intrinsic

    @intrinsic
    def pointer(typing, address):  # an integer as a pointer to 16-bit integers
        def cast(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature(types.CPointer(types.uint16), types.int64), cast

    restore = ctypes.CDLL(None).signal
    restore.argtypes, restore.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

    @cfunc(types.void(types.int32, types.voidptr, types.CPointer(types.int64)))
    def answer(number, information, context):
        registers = carray(context, FIRST + 23)[FIRST:]
        if carray(pointer(registers[RIP]), 1)[0] != CPUID:
            restore(number, 0)
            return
        leaf, subleaf = registers[RAX] & 0xFFFFFFFF, min(registers[RCX] & 0xFFFFFFFF, SUBLEAVES - 1)
        for register in (RAX, RBX, RCX, RDX):
            registers[register] = 0
        for index in range(len(FIRST_LEAVES)):
            if 0 <= leaf - FIRST_LEAVES[index] < LEAVES:
                found = table[index, leaf - FIRST_LEAVES[index], subleaf]
                registers[RAX], registers[RBX] = found[0], found[1]
                registers[RCX], registers[RDX] = found[2], found[3]
        registers[RIP] += 2

    return answer


def hide() -> None:
    """From here on CPUID is answered without AVX-512, in this thread and in those that it starts.

    RuntimeError: where CPUID cannot be made to fault.
    """

    class Action(ctypes.Structure):  # struct sigaction of glibc
        _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128), ("flags", ctypes.c_int),
                    ("restorer", ctypes.c_void_p))  # fmt: skip

    if not can_hide():
        raise RuntimeError("CPUID cannot be made to fault here: it takes x86-64 Linux and cpuid_fault in /proc/cpuinfo")
    function = handler(answers())
    _kept.append(function)
    action = Action(handler=function.address, flags=SIGINFO | NODEFER)
    library = ctypes.CDLL(None, use_errno=True)
    if library.sigaction(signal.SIGSEGV, ctypes.byref(action), None) or library.syscall(ARCH_PRCTL, SET_CPUID, 0):
        raise RuntimeError(f"CPUID does not fault here: {os.strerror(ctypes.get_errno())}")


_kept: list = []  # the handler's machine code lives as long as the process
