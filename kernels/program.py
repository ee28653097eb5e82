"""The program: a table of instructions that every thread of a team walks, meeting the others at barriers.

An instruction is a row of WORDS int64: the kernel's address, its arguments, and in the last word 1 if the threads
must meet after it. A program is one table for all threads, which share the work of every instruction, or a table for
each thread, in which it stands alone. A team's shared memory is a few 128-byte lines, so that what one thread spins on
no other thread's counter disturbs.
"""

from __future__ import annotations

import numpy as np

WORDS = 32
LINE = 128
# Offsets in a team's memory. Followers' own lines, with the number of jobs they have done, start at FOLLOWERS.
ARRIVED, GENERATION, JOB, FOLLOWERS = 0, LINE, 2 * LINE, 4 * LINE
TABLE, OWN, STEPS, CLOCKS_AT = 3 * LINE, 3 * LINE + 8, 3 * LINE + 16, 3 * LINE + 24
CLOCKS = 3  # time stamps per step
# Few: where another process has one of the cores, the thread that is waited for may need this one.
SPINS_BEFORE_YIELD = 100


def bits(value: float) -> int:
    """The int64 that carries a float32 in an instruction."""
    return int(np.float32(value).view(np.int32))


def team_bytes(threads: int) -> int:
    """Size of a team's memory."""
    return FOLLOWERS + threads * LINE


def _walk():
    from numba import njit

    from .simd.intrinsics import (
        DEFAULT_MODE,
        atomic_add,
        atomic_load,
        atomic_store,
        call_kernel,
        cycles,
        float_mode,
        load_i64,
        pause,
        store_i64,
    )

    @njit(error_model="numpy", inline="always")
    def barrier(team, threads):
        generation = atomic_load(team + GENERATION)
        if atomic_add(team + ARRIVED, 1) == threads - 1:
            atomic_store(team + ARRIVED, 0)
            atomic_store(team + GENERATION, generation + 1)
        else:
            spins = 0
            while atomic_load(team + GENERATION) == generation:
                pause(spins > SPINS_BEFORE_YIELD)
                spins += 1

    @njit(error_model="numpy", inline="always")
    def walk(team, table, own, steps, clocks, thread, threads):
        mode = float_mode(DEFAULT_MODE)  # a caller that flushes denormals must not change a thread's bits
        clock = clocks + thread * steps * CLOCKS * 8
        table += thread * own
        share, shares = (thread, threads) if own == 0 else (0, 1)
        for instruction in range(table, table + steps * (8 * WORDS), 8 * WORDS):
            if clocks != 0:
                store_i64(clock, cycles())
            call_kernel(load_i64(instruction), instruction, share, shares)
            if clocks != 0:
                store_i64(clock + 8, cycles())
            if threads > 1 and load_i64(instruction + 8 * (WORDS - 1)) != 0:
                barrier(team, threads)
            if clocks != 0:
                store_i64(clock + 16, cycles())
                clock += CLOCKS * 8
        if clocks != 0 and threads > 1:
            barrier(team, threads)  # the caller reads the time stamps of all threads
        float_mode(mode)

    return walk


OWN_FIELDS = ("programs",)  # address of a (table, number of steps) for every thread


def build_own():
    """An instruction in which each thread walks a program of its own, as if it were alone, and meets no one on its way.

    For lines or pixels that pass through several kernels while they are in the thread's cache.
    """
    from .simd.intrinsics import call_kernel, load_i64

    def own(instruction, thread, threads):
        mine = load_i64(instruction + 8) + 16 * thread
        table = load_i64(mine)
        for row in range(table, table + load_i64(mine + 8) * (8 * WORDS), 8 * WORDS):
            call_kernel(load_i64(row), row, 0, 1)

    return own


def build_lead():
    """Thread 0: hand the program to the team, walk it, return when all have. One thread needs no team.

    `own` is 0, or the distance in bytes from a thread's table to the next thread's. `clocks` is 0 or the address of
    int64[threads][steps][CLOCKS]: each step's start, the end of its work, and the end of the wait for the other
    threads, in counts of the time stamp counter.
    """
    from .simd.intrinsics import atomic_add, store_i64

    walk = _walk()

    def lead(team, table, own, steps, clocks, threads):
        if threads > 1:
            store_i64(team + TABLE, table)
            store_i64(team + OWN, own)
            store_i64(team + STEPS, steps)
            store_i64(team + CLOCKS_AT, clocks)
            atomic_add(team + JOB, 1)
        walk(team, table, own, steps, clocks, 0, threads)

    return lead


def build_follow():
    """Any other thread: walk every program that is handed out; return after `patience` looks in vain."""
    from .simd.intrinsics import atomic_load, load_i64, pause, store_i64

    walk = _walk()

    def follow(team, thread, threads, patience):
        mine = team + FOLLOWERS + thread * LINE
        done = load_i64(mine)
        spins = 0
        while spins < patience:
            if atomic_load(team + JOB) != done:
                table, own = load_i64(team + TABLE), load_i64(team + OWN)
                steps, clocks = load_i64(team + STEPS), load_i64(team + CLOCKS_AT)
                walk(team, table, own, steps, clocks, thread, threads)
                done += 1
                store_i64(mine, done)
                spins = 0
            else:
                pause(spins > SPINS_BEFORE_YIELD)
                spins += 1

    return follow
