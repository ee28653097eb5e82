"""What Numba cannot say by itself: memory by address, records, atomics, prefetches, the time stamp counter, calls.

Addresses are int64. Every intrinsic is a function that writes LLVM code, `emit(builder, *arguments)`, with the Numba
types of its result and arguments above it. Importing this module imports Numba.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from functools import cache
from inspect import Parameter, Signature
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vector import f32, i32, i64

int64, float32, void = types.int64, types.float32, types.void


def operation(result, *parameters) -> Callable:
    """A decorator that makes an intrinsic of `emit(builder, *arguments)`; a void one drops what emit returns."""

    def decorate(emit):
        def codegen(context, builder, signature, arguments):
            value = emit(builder, *arguments)
            return context.get_dummy_value() if result is void else value

        def typed(typingctx, *_):
            return result(*parameters), codegen

        # Numba reads the number of parameters off the signature.
        names = ["typingctx", *(f"p{n}" for n in range(len(parameters)))]
        typed.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
        typed.__name__, typed.__doc__ = emit.__name__, emit.__doc__
        return intrinsic(typed)

    return decorate


# What emitting functions share.


def declare(builder, name: str, result, *arguments):
    """The LLVM function `name` in the module under construction."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def is_x86(builder) -> bool:
    """Whether the module under construction is for x86-64; it need not be the machine that compiles."""
    return builder.module.triple.startswith("x86_64")


def offset_by(builder, base, stride, index: int):
    """base + index * stride bytes, as an int64."""
    if index == 0:
        return base
    return builder.add(base, builder.mul(stride, ir.Constant(i64, index)))


def opaque(builder, value):
    """An int64 of which LLVM does not know how it came about, so that it keeps it in a register."""
    return builder.asm(ir.FunctionType(i64, [i64]), "", "=r,0", [value], side_effect=False)


def keep_order(builder):
    """LLVM moves no load across this point: loads that come early take registers."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)


def load_from(builder, address, kind, align=4):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align, typ=kind)


def store_to(builder, value, address, align=4):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def prefetch_from(builder, address, write: bool = False):
    """Prefetch a cache line into L2; `write`: with write intent (PREFETCHW), so that other cores give the line up."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    hint = declare(builder, "llvm.prefetch.p0", ir.VoidType(), pointer.type, i32, i32, i32)
    builder.call(hint, [pointer, ir.Constant(i32, int(write)), ir.Constant(i32, 2), ir.Constant(i32, 1)])


# Memory and numbers.


@operation(int64, int64)
def load_i64(builder, address):
    """The int64 at an address."""
    return load_from(builder, address, i64, 8)


@operation(float32, int64)
def load_f32(builder, address):
    """The float32 at an address."""
    return load_from(builder, address, f32)


@operation(void, int64, float32)
def store_f32(builder, address, value):
    """Store a float32 at an address."""
    store_to(builder, value, address)


@operation(void, int64, int64)
def store_i64(builder, address, value):
    """Store an int64 at an address."""
    store_to(builder, value, address, 8)


@operation(void, int64)
def prefetch(builder, address):
    """Prefetch a cache line into L2; any address will do."""
    prefetch_from(builder, address)


@operation(float32, int64)
def float_from_bits(builder, bits):
    """The float32 whose bit pattern is the low half of an int64: how instructions carry floats."""
    return builder.bitcast(builder.trunc(bits, i32), f32)


@operation(float32, float32)
def sqrt(builder, x):
    """The correctly rounded square root of a float32."""
    return builder.call(declare(builder, "llvm.sqrt.f32", f32, f32), [x])


@operation(int64, int64, int64)
def minimum(builder, a, b):
    """The smaller of two int64."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


@operation(int64, int64, int64)
def maximum(builder, a, b):
    """The larger of two int64."""
    return builder.select(builder.icmp_signed(">", a, b), a, b)


# Records: NamedTuples of int64 words in memory, read and written by name.


@cache
def reader(record: type[NamedTuple], first: int = 0):
    """An intrinsic: address -> the `record` whose words begin `first` words behind it."""

    @intrinsic
    def read(typingctx, address):
        def codegen(context, builder, signature, arguments):
            words = [
                load_from(builder, offset_by(builder, arguments[0], ir.Constant(i64, 8), first + n), i64, 8)
                for n in range(len(record._fields))
            ]
            return context.make_tuple(builder, signature.return_type, words)

        return types.NamedUniTuple(int64, len(record._fields), record)(int64), codegen

    return read


def instruction_reader(record: type[NamedTuple]):
    """An intrinsic: address of a program's row -> its instruction, which follows the address of its kernel."""
    return reader(record, 1)


@cache
def writer(record: type[NamedTuple]):
    """An intrinsic (address, a value for each field of `record`): write the record's words."""

    @operation(void, *[int64] * (1 + len(record._fields)))
    def write(builder, address, *words):
        for n, word in enumerate(words):
            store_to(builder, word, offset_by(builder, address, ir.Constant(i64, 8), n), 8)

    return write


@cache
def stack_space(record: type[NamedTuple]):
    """An intrinsic: the address of room for one `record` in the calling function's stack frame."""

    @operation(int64)
    def allocate(builder):
        return builder.ptrtoint(cgutils.alloca_once(builder, i64, len(record._fields)), i64)

    return allocate


# Threads.


@operation(int64, int64)
def atomic_load(builder, address):
    """An int64 that another thread writes (acquire)."""
    return builder.load_atomic(builder.inttoptr(address, i64.as_pointer()), "acquire", 8, typ=i64)


@operation(void, int64, int64)
def atomic_store(builder, address, value):
    """Write an int64 that another thread reads (release)."""
    builder.store_atomic(value, builder.inttoptr(address, i64.as_pointer()), "release", 8)


@operation(int64, int64, int64)
def atomic_add(builder, address, value):
    """Add to an int64 and return what it was; in one order with all other such additions and `atomic_reload`."""
    return builder.atomic_rmw("add", builder.inttoptr(address, i64.as_pointer()), value, "seq_cst")


@operation(int64, int64)
def atomic_reload(builder, address):
    """An int64 that another thread writes, as it is after all that this thread has added to others before."""
    return builder.load_atomic(builder.inttoptr(address, i64.as_pointer()), "seq_cst", 8, typ=i64)


@operation(types.boolean, int64, int64, int64)
def compare_and_set(builder, address, expected, value):
    """Whether an int64 was `expected`, in which case it is `value` now (acquire, release)."""
    pair = builder.cmpxchg(builder.inttoptr(address, i64.as_pointer()), expected, value, "acq_rel", "acquire")
    return builder.extract_value(pair, 1)


YIELD = "SwitchToThread" if os.name == "nt" else "sched_yield"
SLEEP, MILLISECOND = ("Sleep", 1) if os.name == "nt" else ("usleep", 1000)
FUTEX = {"x86_64": 202, "aarch64": 98}  # the number of the system call under Linux
FUTEX_WAIT, FUTEX_WAKE = 9 | 128, 10 | 128  # by bits, within this process
WAKES = sys.platform == "linux" and platform.machine() in FUTEX  # elsewhere threads that wait for an address poll
SYSTEM_CALLS = {YIELD, SLEEP, "syscall"}  # all that a kernel calls outside of itself


@operation(void, types.boolean)
def pause(builder, long_wait):
    """One poll of a spin loop: a hint to the core or, where the wait is long, a yield to the scheduler."""
    with builder.if_else(long_wait) as (long, short):
        with long:
            builder.call(declare(builder, YIELD, i32), [])
        with short:
            if is_x86(builder):
                builder.call(declare(builder, "llvm.x86.sse2.pause", ir.VoidType()), [])
            else:  # isb sy, which takes about as long; yield takes no time on a core without hardware threads
                builder.call(declare(builder, "llvm.aarch64.isb", ir.VoidType(), i32), [ir.Constant(i32, 15)])


@operation(void)
def nap(builder):
    """Sleep for about a millisecond."""
    builder.call(declare(builder, SLEEP, i32, i32), [ir.Constant(i32, MILLISECOND)])


def _futex(builder, *arguments):
    system = cgutils.get_or_insert_function(builder.module, ir.FunctionType(i64, [i64], var_arg=True), "syscall")
    number = FUTEX[builder.module.triple.partition("-")[0]]
    builder.call(system, [ir.Constant(i64, number), *arguments])


@operation(void, int64, int64, int64)
def sleep_while(builder, address, value, bits):
    """Sleep while the int64 at an address is `value`, until `wake` for one of these bits; it may wake without cause."""
    if not WAKES:
        builder.call(declare(builder, YIELD, i32), [])
        return
    none = ir.Constant(i64, 0)
    _futex(builder, address, ir.Constant(i64, FUTEX_WAIT), builder.and_(value, ir.Constant(i64, 0xFFFFFFFF)), none,
           none, bits)  # fmt: skip


@operation(void, int64, int64)
def wake(builder, address, bits):
    """Wake all threads that sleep at an address for any of these bits."""
    if WAKES:
        none, everyone = ir.Constant(i64, 0), ir.Constant(i64, 0x7FFFFFFF)
        _futex(builder, address, ir.Constant(i64, FUTEX_WAKE), everyone, none, none, bits)


@operation(int64, int64)
def float_mode(builder, mode):
    """Set this thread's floating-point mode (MXCSR, FPCR on Arm) and return what it was."""
    return _exchange_mode(builder, mode)


@operation(int64)
def default_float_mode(builder):
    """Set the mode that kernels run in, and return what it was; see `float_mode`.

    Denormals stay as they are, results are rounded to the nearest, ties to even, and nothing traps.
    """
    return _exchange_mode(builder, ir.Constant(i64, 0x1F80 if is_x86(builder) else 0))


def _exchange_mode(builder, mode):
    if not is_x86(builder):
        before = builder.call(declare(builder, "llvm.aarch64.get.fpcr", i64), [])
        builder.call(declare(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), i64), [mode])
        return before
    words = [cgutils.alloca_once(builder, i32) for _ in range(2)]
    builder.store(builder.trunc(mode, i32), words[1])
    for name, word in zip(("stmxcsr", "ldmxcsr"), words, strict=True):
        pointer = builder.bitcast(word, ir.IntType(8).as_pointer())
        builder.call(declare(builder, f"llvm.x86.sse.{name}", ir.VoidType(), pointer.type), [pointer])
    return builder.zext(builder.load(words[0], typ=i32), i64)


@operation(int64)
def cycles(builder):
    """The time stamp counter, CNTVCT_EL0 on Arm: constant rate, the same on all cores."""
    return builder.call(declare(builder, "llvm.readcyclecounter", i64), [])


# Calls.


def _call(builder, kernel, *arguments):
    """Call a compiled kernel at an address.

    Numba's calling convention puts two pointers first, for a result and for an exception; kernels have neither.
    """
    unused = builder.ptrtoint(cgutils.alloca_once(builder, i64), i64)
    signature = ir.FunctionType(i32, [i64] * (2 + len(arguments)))
    builder.call(builder.inttoptr(kernel, signature.as_pointer()), [unused, unused, *arguments])


@operation(void, int64, int64, int64, int64)
def call_kernel(builder, kernel, row, thread, threads):
    """Run the kernel at an address on one thread's part of an instruction, the row at another address."""
    _call(builder, kernel, row, thread, threads)


@operation(void, int64, int64, int64)
def call_tiles(builder, micro_kernel, loops, tile_call):
    """Run the micro-kernel at an address on tiles side by side; see convolution.py."""
    _call(builder, micro_kernel, loops, tile_call)
