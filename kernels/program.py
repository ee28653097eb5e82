"""The program: a table of instructions that all threads of a team interpret, with barriers in between.

A row of the table is WORDS int64: the kernel's address, its instruction, and in the last word 1 if a barrier follows.
A kernel is given the address of its row, and reads its instruction from word INSTRUCTION on.
A program is one table for all parts, which share the work of every instruction, or a table for each part, in which it
is alone.

*Parts.* There are as many parts as threads. The rows up to a barrier are a *group*; a thread claims its own part of a
group, computes it, and then every part that no thread has claimed by then. So a thread that has lost its core delays
the others by no more than the part that it is in. A barrier is passed when all parts of its group are finished,
whichever threads finished them; a thread that comes late finds nothing to claim and catches up. Results do not depend
on who computes a part.

A team's memory is a few 128-byte lines, so that no thread spins on a line that another counter shares. Groups are
counted from the team's first run on, so no counter is ever reset.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WORDS = 32
ROW_BYTES = 8 * WORDS
KERNEL, INSTRUCTION, BARRIER = 0, 1, WORDS - 1  # words of a row
LINE = 128  # bytes: two cache lines, since the hardware prefetches in pairs
# Offsets in a team's memory: the parts that are finished, twice the number of jobs given (odd while the leader writes
# one), the job, the first group of the next one, and a line for each part: how many groups are claimed of it, and the
# JOB_COUNT that its thread has left.
FINISHED, JOB_COUNT, JOB, NEXT_GROUP, PARTS = 0, LINE, 2 * LINE, 3 * LINE, 4 * LINE
CLAIMED, LEFT = 0, 8
TIMESTAMPS = 3  # of a step: its start, the end of its work, the end of the wait at its barrier
# Few: where another process has one of the cores, the thread that is waited for may need this one.
SPINS_BEFORE_YIELD = 100


class Job(NamedTuple):
    """What the leader gives to the workers."""

    table: int  # address of the first part's table
    part_stride: int  # bytes from a part's table to the next one's; 0: one table for all
    steps: int  # rows of a table
    first_group: int  # the number of its first group
    timestamps: int  # 0, or address of int64 [parts][steps][TIMESTAMPS], in counts of the time stamp counter


class ThreadProgramInstruction(NamedTuple):
    programs: int  # address of a pair of int64 for every thread: (address of its table, number of rows)


def bits(value: float) -> int:
    """The int64 that carries a float32 in an instruction."""
    return int(np.float32(value).view(np.int32))


def team_bytes(threads: int) -> int:
    """Size of a team's memory."""
    return PARTS + threads * LINE


def _interpreter():
    from numba import njit

    from .simd.intrinsics import (
        DEFAULT_MODE,
        atomic_add,
        atomic_load,
        call_kernel,
        compare_and_set,
        cycles,
        float_mode,
        load_i64,
        pause,
        store_i64,
    )

    stamp_bytes = 8 * TIMESTAMPS

    @njit(error_model="numpy", inline="always")
    def run_group(job, first, end, part, parts):
        """Rows first..end for one part; time stamps are those of the part."""
        table = job.table + part * job.part_stride
        rank, ranks = (part, parts) if job.part_stride == 0 else (0, 1)
        stamps = job.timestamps + (part * job.steps + first) * stamp_bytes
        for row in range(table + first * ROW_BYTES, table + end * ROW_BYTES, ROW_BYTES):
            if job.timestamps != 0:
                store_i64(stamps, cycles())
            call_kernel(load_i64(row + 8 * KERNEL), row, rank, ranks)
            if job.timestamps != 0:
                store_i64(stamps + 8, cycles())
                store_i64(stamps + 16, cycles())
                stamps += stamp_bytes

    @njit(error_model="numpy", inline="always")
    def interpret(team, job, thread, threads):
        """The group after the last. With time stamps a thread claims its own parts alone, so that they are its own."""
        mode = float_mode(DEFAULT_MODE)  # a caller that flushes denormals must not change a thread's bits
        claimable = threads if job.timestamps == 0 else 1
        group, first = job.first_group, 0
        while first < job.steps:
            end = first + 1
            while end < job.steps and load_i64(job.table + (end - 1) * ROW_BYTES + 8 * BARRIER) == 0:
                end += 1
            all_finished = (group + 1) * threads
            for n in range(claimable):
                part = thread + n if thread + n < threads else thread + n - threads
                claimed = team + PARTS + part * LINE + CLAIMED
                if atomic_load(claimed) == group and compare_and_set(claimed, group, group + 1):
                    run_group(job, first, end, part, threads)
                    atomic_add(team + FINISHED, 1)
            spins = 0
            while atomic_load(team + FINISHED) < all_finished:
                pause(spins > SPINS_BEFORE_YIELD)
                spins += 1
            if job.timestamps != 0:
                store_i64(job.timestamps + ((thread * job.steps + end) * TIMESTAMPS - 1) * 8, cycles())
            group, first = group + 1, end
        float_mode(mode)
        return group

    return interpret


class ThreadProgram(NamedTuple):
    """An instruction in which each thread interprets a program of its own, as if it were alone, without barriers.

    Rows or pixels pass through several kernels while they are in the thread's cache.
    """


def build_thread_program(_: ThreadProgram):
    from .simd.intrinsics import call_kernel, instruction_reader, load_i64

    read = instruction_reader(ThreadProgramInstruction)

    def thread_program(row_address, thread, threads):
        mine = read(row_address).programs + 16 * thread
        table, rows = load_i64(mine), load_i64(mine + 8)
        for row in range(table, table + rows * ROW_BYTES, ROW_BYTES):
            call_kernel(load_i64(row + 8 * KERNEL), row, 0, 1)

    return thread_program


class Leader(NamedTuple):
    """The caller: give a job to the team, interpret it, return when all parts of it are finished."""


def build_leader(_: Leader):
    """(team, table, part_stride, steps, timestamps, number of threads)."""
    from .simd.intrinsics import atomic_add, atomic_load, load_i64, pause, reader, store_i64, writer

    interpret, read_job, write_job = _interpreter(), reader(Job), writer(Job)

    def leader(team, table, part_stride, steps, timestamps, threads):
        atomic_add(team + JOB_COUNT, 1)
        write_job(team + JOB, table, part_stride, steps, load_i64(team + NEXT_GROUP), timestamps)
        count = atomic_add(team + JOB_COUNT, 1) + 1
        store_i64(team + NEXT_GROUP, interpret(team, read_job(team + JOB), 0, threads))
        if timestamps != 0:  # the caller reads those of all threads
            for part in range(1, threads):
                while atomic_load(team + PARTS + part * LINE + LEFT) != count:
                    pause(True)

    return leader


class Worker(NamedTuple):
    """Any other thread: interpret every job; return after `spin_limit` polls without one."""


def build_worker(_: Worker):
    """(team, thread, number of threads, spin limit).

    A worker that has lost its core may find a job that is finished, and even another one in its place while it reads.
    It claims nothing of the former, whose table the caller keeps until then, and reads the latter again.
    """
    from .simd.intrinsics import atomic_load, atomic_reload, atomic_store, pause, reader

    interpret, read_job = _interpreter(), reader(Job)

    def worker(team, thread, threads, spin_limit):
        left = team + PARTS + thread * LINE + LEFT
        spins = 0
        while spins < spin_limit:
            count = atomic_load(team + JOB_COUNT)
            if count != atomic_load(left) and count % 2 == 0:
                job = read_job(team + JOB)
                if atomic_reload(team + JOB_COUNT) == count:
                    interpret(team, job, thread, threads)
                    atomic_store(left, count)
                    spins = 0
            else:
                pause(spins > SPINS_BEFORE_YIELD)
                spins += 1

    return worker
