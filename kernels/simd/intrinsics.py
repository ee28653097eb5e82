"""What Numba cannot say by itself: memory by address, atomics, the time stamp counter, calls by address.

Addresses are int64. Importing this module imports Numba.
"""

from __future__ import annotations

import os
import platform
from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vector import f32, i32, i64

X86 = platform.machine().lower() in ("x86_64", "amd64")


def declare(builder, name: str, result, *arguments):
    """The LLVM function `name` in the module under construction."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def offset_by(builder, base, offset=None, index=1):
    """base + index * offset bytes, as an int64."""
    if offset is None or index == 0:
        return base
    return builder.add(base, builder.mul(offset, ir.Constant(i64, index)))


def load_from(builder, address, kind, align=4):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align, typ=kind)


@intrinsic
def load_i64(typingctx, address):
    """The int64 at an address."""
    return types.int64(types.int64), lambda context, builder, sig, args: load_from(builder, args[0], i64, 8)


@intrinsic
def load_f32(typingctx, address):
    """The float32 at an address."""
    return types.float32(types.int64), lambda context, builder, sig, args: load_from(builder, args[0], f32)


@intrinsic
def store_f32(typingctx, address, value):
    """Store a float32 at an address."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], builder.inttoptr(args[0], f32.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


@intrinsic
def float_from_bits(typingctx, bits):
    """The float32 whose bit pattern is the low half of an int64: how instructions carry floats."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(builder.trunc(args[0], i32), f32)

    return types.float32(types.int64), codegen


@intrinsic
def sqrt(typingctx, x):
    """The correctly rounded square root of a float32."""

    def codegen(context, builder, sig, args):
        return builder.call(declare(builder, "llvm.sqrt.f32", f32, f32), args)

    return types.float32(types.float32), codegen


@intrinsic
def minimum(typingctx, a, b):
    """The smaller of two int64."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.icmp_signed("<", *args), *args)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def maximum(typingctx, a, b):
    """The larger of two int64."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.icmp_signed(">", *args), *args)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def store_i64(typingctx, address, value):
    """Store an int64 at an address."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], builder.inttoptr(args[0], i64.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """An int64 that another thread writes (acquire)."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.inttoptr(args[0], i64.as_pointer()), "acquire", 8, typ=i64)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Write an int64 that another thread reads (release)."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], i64.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_add(typingctx, address, value):
    """Add to an int64 and return what it was; everything before it is visible to whoever sees it."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], i64.as_pointer()), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


YIELD = "SwitchToThread" if os.name == "nt" else "sched_yield"
SYSTEM_CALLS = {YIELD}  # all that a kernel calls outside of itself


@intrinsic
def pause(typingctx, give_way):
    """One turn of a spin: a hint to the core, or, where the wait is long, a yield to the scheduler."""

    def codegen(context, builder, sig, args):
        with builder.if_else(args[0]) as (long, short):
            with long:
                builder.call(declare(builder, YIELD, i32), [])
            with short:
                if X86:
                    builder.call(declare(builder, "llvm.x86.sse2.pause", ir.VoidType()), [])
                else:
                    builder.call(declare(builder, "llvm.aarch64.hint", ir.VoidType(), i32), [ir.Constant(i32, 1)])
        return context.get_dummy_value()

    return types.void(types.boolean), codegen


DEFAULT_MODE = 0x1F80 if X86 else 0  # denormals as they are, to the nearest, ties to even, no traps


@intrinsic
def float_mode(typingctx, mode):
    """Set this thread's floating-point mode (MXCSR, FPCR on Arm) and return what it was."""

    def codegen(context, builder, sig, args):
        if not X86:
            before = builder.asm(ir.FunctionType(i64, []), "mrs $0, fpcr", "=r", [], side_effect=True)
            builder.asm(ir.FunctionType(ir.VoidType(), [i64]), "msr fpcr, $0", "r", [args[0]], side_effect=True)
            return before
        words = [cgutils.alloca_once(builder, i32) for _ in range(2)]
        builder.store(builder.trunc(args[0], i32), words[1])
        for name, word in zip(("stmxcsr", "ldmxcsr"), words, strict=True):
            pointer = builder.bitcast(word, ir.IntType(8).as_pointer())
            builder.call(declare(builder, f"llvm.x86.sse.{name}", ir.VoidType(), pointer.type), [pointer])
        return builder.zext(builder.load(words[0], typ=i32), i64)

    return types.int64(types.int64), codegen


@intrinsic
def cycles(typingctx):
    """The core's time stamp counter: constant rate, the same on all cores."""

    def codegen(context, builder, sig, args):
        if X86:
            return builder.call(declare(builder, "llvm.readcyclecounter", i64), [])
        return builder.asm(ir.FunctionType(i64, []), "mrs $0, cntvct_el0", "=r", [], side_effect=True)

    return types.int64(), codegen


@cache
def arguments(count: int, first: int = 1):
    """An intrinsic: address -> `count` int64 words from word `first` on; an instruction's word 0 is its kernel."""

    @intrinsic
    def read(typingctx, instruction):
        def codegen(context, builder, sig, args):
            words = [
                load_from(builder, offset_by(builder, args[0], ir.Constant(i64, 8), first + n), i64, 8)
                for n in range(count)
            ]
            return context.make_tuple(builder, sig.return_type, words)

        return types.UniTuple(types.int64, count)(types.int64), codegen

    return read


def call_with(count: int):
    """An intrinsic (address, `count` int64 arguments): call a compiled kernel at an address.

    Numba's calling convention puts two pointers first, for a result and for an exception; kernels have neither.
    """

    def codegen(context, builder, sig, args):
        unused = cgutils.alloca_once(builder, i64)
        pointer = builder.ptrtoint(unused, i64)
        signature = ir.FunctionType(i32, [i64] * (2 + count))
        builder.call(builder.inttoptr(args[0], signature.as_pointer()), [pointer, pointer, *args[1:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * (1 + count)), codegen


@intrinsic
def call_kernel(typingctx, kernel, instruction, thread, threads):
    """Run the kernel at an address on one thread's share of an instruction."""
    return call_with(3)


@intrinsic
def call_tile(typingctx, tile, region, x, w, bias, y, count, ahead, ahead_end):
    """Run the micro-kernel at an address on `count` tiles; see convolution.py."""
    return call_with(8)


def prefetch_from(builder, address, write: bool = False):
    """Ask for a cache line: to be read, into L2, or to be written, which other cores have to give up."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    hint = declare(builder, "llvm.prefetch.p0", ir.VoidType(), pointer.type, i32, i32, i32)
    builder.call(hint, [pointer, ir.Constant(i32, int(write)), ir.Constant(i32, 2), ir.Constant(i32, 1)])


@intrinsic
def prefetch(typingctx, address):
    """Bring a cache line into L2; any address will do."""

    def codegen(context, builder, sig, args):
        prefetch_from(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
