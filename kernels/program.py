"""The program: a table of instructions that threads interpret together, with barriers in between.

A row of the table is WORDS int64: the kernel's address, its instruction, and in the last word 1 if a barrier follows.
A kernel is given the address of its row, and reads its instruction from word INSTRUCTION on.
A program is one table for all parts, which share the work of every instruction, or a table for each part, in which it
is alone. team.py runs it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WORDS = 32
ROW_BYTES = 8 * WORDS
KERNEL, INSTRUCTION, BARRIER = 0, 1, WORDS - 1  # words of a row
TIMESTAMPS = 3  # of a step: its start, the end of its work, the end of the wait at its barrier


class Job(NamedTuple):
    """A program to run."""

    table: int  # address of the first part's table
    part_stride: int  # bytes from a part's table to the next one's; 0: one table for all
    steps: int  # rows of a table
    timestamps: int  # 0, or address of int64 [parts][steps][TIMESTAMPS], in counts of the time stamp counter


class ThreadProgramInstruction(NamedTuple):
    programs: int  # address of a pair of int64 for every thread: (address of its table, number of rows)


def bits(value: float) -> int:
    """The int64 that carries a float32 in an instruction."""
    return int(np.float32(value).view(np.int32))


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


def group_functions():
    """(end_of_group, run_part), for the threads that run a program."""
    from numba import njit

    from .simd.intrinsics import call_kernel, cycles, load_i64, store_i64

    @njit(error_model="numpy", inline="always")
    def end_of_group(job, first):
        """The row behind the group that begins with row `first`."""
        end = first + 1
        while end < job.steps and load_i64(job.table + (end - 1) * ROW_BYTES + 8 * BARRIER) == 0:
            end += 1
        return end

    @njit(error_model="numpy", inline="always")
    def run_part(job, first, end, part, parts):
        """Rows first..end for one part; time stamps are those of the part."""
        table = job.table + part * job.part_stride
        rank, ranks = (part, parts) if job.part_stride == 0 else (0, 1)
        stamps = job.timestamps + (part * job.steps + first) * 8 * TIMESTAMPS
        for row in range(table + first * ROW_BYTES, table + end * ROW_BYTES, ROW_BYTES):
            if job.timestamps != 0:
                store_i64(stamps, cycles())
            call_kernel(load_i64(row + 8 * KERNEL), row, rank, ranks)
            if job.timestamps != 0:
                store_i64(stamps + 8, cycles())
                store_i64(stamps + 16, cycles())
                stamps += 8 * TIMESTAMPS

    return end_of_group, run_part
