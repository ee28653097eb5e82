"""Threads that run programs together: leaders, which call, and workers, which help them.

*Parts.* The rows of a program up to a barrier are a *group*, and each is computed in as many parts as the program was
made for. Any thread may claim a part, so any number of threads runs a program: a thread claims its own part of a group,
computes it, and then every part that no thread has claimed by then. A barrier is passed when all parts of its group are
finished, whichever threads finished them. Results do not depend on who computes a part.

*Lanes.* A leader takes a free lane, a piece of memory through which workers find its job, and walks all groups of its
table. A worker takes a free seat in a lane. Nobody waits for a worker that has claimed nothing; a leader without
workers, or without a lane, computes all parts. Worker n works while n and the number of leaders together are no more
than the cores, so that no more threads run than there are cores if leaders are no more.

*A claim keeps a job alive.* A leader returns when all parts are finished, and then its table may go. So a worker reads
a job only while it holds a claim. Which group is open it reads before, and that may be long over by then: groups of a
lane are counted from the process's first on, so the claim fails.

*Waiting.* At a barrier a thread polls for about as long as its own part took, then sleeps in the kernel. While all
threads have their cores, the others are done by then, however unevenly the cores of a virtual machine run; and the host
gives a core that sleeps to other machines, so that it comes back later than a short wait ends. If a process has taken a
thread's core, the wait is longer, and a sleeper leaves its own to that thread. A worker that lost its core while a
leader waited for it stays away for a while: on a busy machine fewer threads are faster. Words that threads poll lie on
128-byte lines of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .program import TIMESTAMPS, Job, group_functions

LINE = 128  # bytes: two cache lines, since the hardware prefetches in pairs
# Offsets in a crew's memory. The bell counts jobs; sleepers are workers that wait for its next stroke.
BELL, SLEEPERS = 0, 8
LEADERS, CORES, MOST_PARTS = LINE, LINE + 8, LINE + 16
LANES = 2 * LINE  # as many as cores
# Offsets in a lane: whether a leader has it, the parts of a group, the first group of the next job, the group that may
# be claimed, its first row, how many parts are finished at its end, the job. Then how many parts are finished since the
# first job, how many threads sleep until there are more; the last group in which the leader had to sleep, and for how
# long it was at that group by then; whether the worker exists whose number is the lane's.
# Then a line for each part: how many groups are claimed of it, and whether a worker has taken it for its own.
OWNED, PARTS, NEXT_GROUP, OPEN, ROW, TARGET, JOB = 0, 8, 16, 24, 32, 40, 48
FINISHED, WAITING, HELD_UP, PACE, PRESENT = LINE, LINE + 8, LINE + 16, LINE + 24, LINE + 32
SEATS = 2 * LINE
CLAIMED, TAKEN = 0, 8

# Least and most polls at a barrier: some tens of microseconds, and a few milliseconds. Nobody yields there: on a busy
# core that costs a time slice, more than the wait.
LEAST_SPINS, MOST_SPINS = 1000, 50000
# Of a worker without a job: about a millisecond. Few before it yields: the leader may need this core.
SPINS_BEFORE_YIELD, IDLE_SPINS = 100, 5000
BREAK = 8  # times as long as it held a leader up does a worker stay away that has lost its core


def crew_words(cores: int, parts: int) -> np.ndarray:
    """The memory of leaders and workers on so many cores; lanes have room for jobs of up to `parts` parts."""
    words = np.zeros((LANES + cores * (SEATS + parts * LINE) + LINE) // 8, np.int64)
    words = words[-words.ctypes.data % LINE // 8 :]
    words[CORES // 8], words[MOST_PARTS // 8] = cores, parts
    return words


def _common():
    """(may_work, claim, finish_part, wait_for): what leaders and workers share."""
    from numba import njit

    from .simd import intrinsics as native

    @njit(error_model="numpy", inline="always")
    def may_work(crew, number):
        """Whether the worker of this number may."""
        return native.atomic_load(crew + LEADERS) + number <= native.load_i64(crew + CORES)

    @njit(error_model="numpy", inline="always")
    def claim(lane, part, group):
        """Whether this thread has claimed a part of a group just now."""
        claimed = lane + SEATS + part * LINE + CLAIMED
        return native.atomic_load(claimed) == group and native.compare_and_set(claimed, group, group + 1)

    @njit(error_model="numpy", inline="always")
    def finish_part(lane, target):
        """One part more; the last of a group wakes who waits for it."""
        if native.atomic_add(lane + FINISHED, 1) + 1 == target and native.atomic_reload(lane + WAITING) != 0:
            native.wake(lane + FINISHED, 1)

    @njit(error_model="numpy", inline="always")
    def wait_for(lane, target, took, group):
        """Until so many parts are finished in a lane. `took` is how long this thread was at its own, in cycles; a
        leader says which group it is at, a worker -1."""
        spins, start, finished = 0, native.cycles(), native.atomic_load(lane + FINISHED)
        while finished < target:
            waited = native.cycles() - start
            if spins < LEAST_SPINS or (spins < MOST_SPINS and waited < took):
                native.pause(False)
                spins += 1
            else:
                if spins <= MOST_SPINS and group >= 0:
                    native.store_i64(lane + PACE, took + waited)
                    native.atomic_store(lane + HELD_UP, group)
                spins = MOST_SPINS + 1
                native.atomic_add(lane + WAITING, 1)
                native.sleep_while(lane + FINISHED, finished, 1)
                native.atomic_add(lane + WAITING, -1)
            finished = native.atomic_load(lane + FINISHED)

    return may_work, claim, finish_part, wait_for


class Leader(NamedTuple):
    """The caller: do a job, with whatever help there is; return when all parts of it are finished."""


def build_leader(_: Leader):
    """(crew, table, part_stride, steps, timestamps, parts)."""
    from .simd import intrinsics as native

    (end_of_group, run_part), (_, claim, finish_part, wait_for) = group_functions(), _common()
    take_lane, ring, next_group = _lanes()
    read_job, write_job, job_on_stack = native.reader(Job), native.writer(Job), native.stack_space(Job)

    def leader(crew, table, part_stride, steps, timestamps, parts):
        mode = native.default_float_mode()  # a caller that flushes denormals must not change a thread's bits
        native.atomic_add(crew + LEADERS, 1)
        lane = take_lane(crew, parts)
        place = lane + JOB if lane != 0 else job_on_stack()
        write_job(place, table, part_stride, steps, timestamps)
        job, group = read_job(place), next_group(lane, parts)
        first, target = 0, native.atomic_load(lane + FINISHED) if lane != 0 else 0
        while first < steps:
            end = end_of_group(job, first)
            target += parts
            start = native.cycles()
            if lane != 0:
                native.store_i64(lane + ROW, first)
                native.store_i64(lane + TARGET, target)
                native.atomic_store(lane + OPEN, group)
                if first == 0:
                    ring(crew, parts)
            for part in range(parts):
                if lane == 0 or claim(lane, part, group):
                    run_part(job, first, end, part, parts)
                    if lane != 0:
                        finish_part(lane, target)
            if lane != 0:
                wait_for(lane, target, native.cycles() - start, group)
            for part in range(parts if timestamps != 0 else 0):
                native.store_i64(timestamps + ((part * steps + end) * TIMESTAMPS - 1) * 8, native.cycles())
            group, first = group + 1, end
        if lane != 0:
            native.store_i64(lane + NEXT_GROUP, group)
            native.atomic_store(lane + OWNED, 0)
        if native.atomic_add(crew + LEADERS, -1) > 1:  # there is a core less in use, and jobs that could use it
            ring(crew, parts)
        native.float_mode(mode)

    return leader


def _lanes():
    """(take_lane, ring, next_group): a leader's dealings with a crew."""
    from numba import njit

    from .simd import intrinsics as native

    @njit(error_model="numpy", inline="always")
    def take_lane(crew, parts):
        """The address of a lane for this leader alone; 0 if none is free, or there is nothing to share."""
        most = native.load_i64(crew + MOST_PARTS)
        lane, mine = crew + LANES, 0
        for _ in range(native.load_i64(crew + CORES) if 1 < parts <= most else 0):
            if mine == 0 and native.atomic_load(lane + OWNED) == 0 and native.compare_and_set(lane + OWNED, 0, 1):
                mine = lane
            lane += SEATS + most * LINE
        return mine

    @njit(error_model="numpy", inline="always")
    def ring(crew, parts):
        """Have sleeping workers look for work: as many as may work, and find some."""
        native.atomic_add(crew + BELL, 1)
        leaders = native.atomic_load(crew + LEADERS)
        workers = native.minimum(native.load_i64(crew + CORES) - leaders, leaders * (parts - 1))
        if workers > 0 and native.atomic_reload(crew + SLEEPERS) != 0:
            native.wake(crew + BELL, (1 << native.minimum(workers, 32)) - 1)

    @njit(error_model="numpy", inline="always")
    def next_group(lane, parts):
        """The number of a job's first group. Where the last job had other parts it skips one: a part that only an
        earlier job had counts one group more than that job claimed."""
        group = 0
        if lane != 0:
            group = native.load_i64(lane + NEXT_GROUP)
            if native.load_i64(lane + PARTS) != parts:
                group += 1
                for part in range(parts):
                    native.atomic_store(lane + SEATS + part * LINE + CLAIMED, group)
                native.atomic_store(lane + PARTS, parts)
        return group

    return take_lane, ring, next_group


def _help():
    """(take_seat, help_with): a worker's dealings with a lane."""
    from numba import njit

    from .simd import intrinsics as native

    (end_of_group, run_part), (may_work, claim, finish_part, wait_for) = group_functions(), _common()
    read_job = native.reader(Job)

    @njit(error_model="numpy", inline="always")
    def take_seat(lane, number):
        """The part that this worker claims first; 0 if each has its worker. With one leader it is always the same."""
        others, mine = native.atomic_load(lane + PARTS) - 1, 0
        for n in range(others):
            part = 1 + (number - 1 + n) % others
            taken = lane + SEATS + part * LINE + TAKEN
            if mine == 0 and native.atomic_load(taken) == 0 and native.compare_and_set(taken, 0, 1):
                mine = part
        return mine

    @njit(error_model="numpy", inline="always")
    def help_with(crew, lane, seat, number):
        """Compute parts of a leader's job while it has any. Of a group in which this worker has claimed nothing it
        reads no row; it goes on when the leader opens another. The result is until when it has to stay away."""
        group, seen, row, target, spins, took, until = 0, -1, -1, 0, 0, 0, 0
        while until == 0 and may_work(crew, number) and spins < IDLE_SPINS:
            if row < 0:
                group = native.atomic_load(lane + OPEN)
            if group != seen:
                parts, end, more = native.load_i64(lane + PARTS), -1, False
                for n in range(parts):
                    part = (seat + n) % parts
                    if claim(lane, part, group):
                        job = read_job(lane + JOB)
                        if end < 0:
                            first = row if row >= 0 else native.load_i64(lane + ROW)
                            target = target + parts if row >= 0 else native.load_i64(lane + TARGET)
                            end = end_of_group(job, first)
                        more = end < job.steps and job.timestamps == 0  # a leader stamps the end of a group first
                        start = native.cycles()
                        run_part(job, first, end, part, parts)
                        now, pace = native.cycles(), native.load_i64(lane + PACE)
                        took = now - start
                        if native.atomic_load(lane + HELD_UP) == group and took > 2 * pace:
                            until = now + BREAK * took
                        finish_part(lane, target)
                seen, row, spins = group, -1, 0
                if more and until == 0:  # the next group is known, and open as soon as this one is finished
                    wait_for(lane, target, took, -1)
                    group, row = group + 1, end
            elif native.atomic_load(lane + OWNED) == 0:
                spins += IDLE_SPINS
            else:
                wait_for(lane, native.atomic_load(lane + TARGET), took, -1)
                native.pause(spins > SPINS_BEFORE_YIELD)
                spins += 1
        return until

    return take_seat, help_with


class Worker(NamedTuple):
    """Any other thread: help leaders for as long as the process lives."""


def build_worker(_: Worker):
    """(crew, number of the worker from 1 on, whether it stays when there is nothing to do)."""
    from .simd import intrinsics as native

    (may_work, *_), (take_seat, help_with) = _common(), _help()

    def worker(crew, number, stays):
        native.default_float_mode()
        bell, lanes = crew + BELL, native.load_i64(crew + CORES)
        size = SEATS + native.load_i64(crew + MOST_PARTS) * LINE
        present = native.compare_and_set(crew + LANES + number * size + PRESENT, 0, stays)
        seen, spins, until = -1, 0, 0
        while present:
            now, allowed = native.atomic_load(bell), may_work(crew, number)
            if native.cycles() < until:
                native.nap()
            elif allowed and now != seen:
                for n in range(lanes):
                    lane = crew + LANES + n * size
                    if native.atomic_load(lane + OWNED) != 0:
                        seat = take_seat(lane, number)
                        if seat != 0:
                            until = help_with(crew, lane, seat, number)
                            native.atomic_store(lane + SEATS + seat * LINE + TAKEN, 0)
                seen, spins = now, 0
            elif allowed and spins < IDLE_SPINS:
                native.pause(spins > SPINS_BEFORE_YIELD)
                spins += 1
            elif stays != 0:
                if not native.WAKES:
                    native.nap()
                native.atomic_add(crew + SLEEPERS, 1)
                native.sleep_while(bell, now, 1 << native.minimum(number - 1, 31))
                native.atomic_add(crew + SLEEPERS, -1)
                spins = 0
            else:
                present = False

    return worker
