"""The program: a table of instructions that all threads of a team interpret, with barriers in between.

A row of the table is WORDS int64: the kernel's address, its instruction, and in the last word 1 if a barrier follows.
A kernel is given the address of its row, and reads its instruction from word INSTRUCTION on.
A program is one table for all threads, which share the work of every instruction, or a table for each thread, in which
it is alone. A team's memory is a few 128-byte lines, so that no thread spins on a line that another counter shares.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WORDS = 32
ROW_BYTES = 8 * WORDS
KERNEL, INSTRUCTION, BARRIER = 0, 1, WORDS - 1  # words of a row
LINE = 128  # bytes: two cache lines, since the hardware prefetches in pairs
# Offsets in a team's memory. The workers' own lines, with the number of jobs that each has done, begin at WORKERS.
ARRIVED, GENERATION, JOB_COUNT, JOB, WORKERS = 0, LINE, 2 * LINE, 3 * LINE, 4 * LINE
TIMESTAMPS = 3  # of a step: its start, the end of its work, the end of the wait at its barrier
# Few: where another process has one of the cores, the thread that is waited for may need this one.
SPINS_BEFORE_YIELD = 100


class Job(NamedTuple):
    """What the leader gives to the workers."""

    table: int  # address of the first thread's table
    thread_stride: int  # bytes from a thread's table to the next one's; 0: one table for all
    steps: int  # rows of a table
    timestamps: int  # 0, or address of int64 [threads][steps][TIMESTAMPS], in counts of the time stamp counter


class ThreadProgramInstruction(NamedTuple):
    programs: int  # address of a pair of int64 for every thread: (address of its table, number of rows)


def bits(value: float) -> int:
    """The int64 that carries a float32 in an instruction."""
    return int(np.float32(value).view(np.int32))


def team_bytes(threads: int) -> int:
    """Size of a team's memory."""
    return WORKERS + threads * LINE


def _interpreter():
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
        reader,
        store_i64,
    )

    read_job, stamp_bytes = reader(Job), 8 * TIMESTAMPS

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
    def interpret(team, thread, threads):
        job = read_job(team + JOB)
        mode = float_mode(DEFAULT_MODE)  # a caller that flushes denormals must not change a thread's bits
        stamps = job.timestamps + thread * job.steps * stamp_bytes
        table = job.table + thread * job.thread_stride
        rank, ranks = (thread, threads) if job.thread_stride == 0 else (0, 1)
        for row in range(table, table + job.steps * ROW_BYTES, ROW_BYTES):
            if job.timestamps != 0:
                store_i64(stamps, cycles())
            call_kernel(load_i64(row + 8 * KERNEL), row, rank, ranks)
            if job.timestamps != 0:
                store_i64(stamps + 8, cycles())
            if threads > 1 and load_i64(row + 8 * BARRIER) != 0:
                barrier(team, threads)
            if job.timestamps != 0:
                store_i64(stamps + 16, cycles())
                stamps += stamp_bytes
        if job.timestamps != 0 and threads > 1:
            barrier(team, threads)  # the caller reads the time stamps of all threads
        float_mode(mode)

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
    """Thread 0, the caller: give a job to the team, interpret it, return when all have."""


def build_leader(_: Leader):
    """(team, then the fields of Job, number of threads). One thread wakes no workers."""
    from .simd.intrinsics import atomic_add, writer

    interpret, write_job = _interpreter(), writer(Job)

    def leader(team, table, thread_stride, steps, timestamps, threads):
        write_job(team + JOB, table, thread_stride, steps, timestamps)
        if threads > 1:
            atomic_add(team + JOB_COUNT, 1)
        interpret(team, 0, threads)

    return leader


class Worker(NamedTuple):
    """Any other thread: interpret every job; return after `spin_limit` polls without one."""


def build_worker(_: Worker):
    """(team, thread, number of threads, spin limit)."""
    from .simd.intrinsics import atomic_load, load_i64, pause, store_i64

    interpret = _interpreter()

    def worker(team, thread, threads, spin_limit):
        mine = team + WORKERS + thread * LINE
        done = load_i64(mine)
        spins = 0
        while spins < spin_limit:
            if atomic_load(team + JOB_COUNT) != done:
                interpret(team, thread, threads)
                done += 1
                store_i64(mine, done)
                spins = 0
            else:
                pause(spins > SPINS_BEFORE_YIELD)
                spins += 1

    return worker
