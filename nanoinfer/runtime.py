"""The thread team: one native call a run, with threads that wait inside native code for the next.

The calling thread leads; workers are Python threads in a native loop without the GIL. After a run they spin for about a
millisecond, so that the next run finds them awake, and then park.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path

import numpy as np

from .errors import InputError, printable
from .kernels import program
from .kernels.jit import elf, library

OWN_CGROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
SPIN_LIMIT = 5000  # polls of the job counter before a worker parks: about a millisecond


def default_threads() -> int:
    """NANOINFER_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may use (affinity, cgroup quota).

    Raises InputError if the first is no number; what the second says to other programs may be more than one.
    """
    for variable in ("NANOINFER_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(variable, "").split(",")[0].strip()
        if value.isdecimal() and int(value) > 0:
            return min(int(value), most_threads())
        if value and variable == "NANOINFER_NUM_THREADS":
            raise InputError(f"{variable}={printable(value)!r}: set it to a whole number from 1 on, or not at all")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota()))


def most_threads() -> int:
    """More threads than this would only wait for each other."""
    return max(64, 4 * (os.cpu_count() or 1))


def _quota() -> int:
    """Cores that CPU quotas amount to, rounded up: of this process's cgroup and of all above it, the least. As good as
    unlimited where there is none."""
    least = 1 << 20
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return least
    for line in lines:  # hierarchy:controllers:/path; no controllers are named in version 2
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        own = CGROUPS / ("cpu" if controllers else "") / group[1:]
        for place in (own, *own.parents):
            try:
                quota, period = map(int, " ".join((place / name).read_text() for name in files).split())
            except (OSError, ValueError):  # not there, or "max"
                continue
            if quota > 0:
                least = min(least, -(-quota // period))
    return least


class Team:
    """`threads` threads: the caller, which leads, and workers. One run at a time; callers queue."""

    def __init__(self, threads: int):
        self.threads = threads
        self._turn, self._caller = threading.Lock(), None
        self._condition = threading.Condition()
        self._running = False
        self._lead, self._work = library.function(program.Leader()), library.function(program.Worker())
        line = np.zeros((program.team_bytes(threads) + program.LINE) // 8, np.int64)
        self._memory = line[-line.ctypes.data % program.LINE // 8 :]
        elf.leak(line)
        for thread in range(1, threads):
            threading.Thread(target=self._stand_by, args=(thread,), name=f"nanoinfer-{thread}", daemon=True).start()

    def run(self, table: np.ndarray, timestamps: np.ndarray | None = None) -> None:
        """Interpret a program's table (steps, words), or for each thread its own (threads, steps, words).

        Returns when every thread has. `timestamps`, int64 (threads, steps, 3), takes those of each step; see
        kernels/program.py.
        """
        steps, thread_stride = table.shape[-2], table.strides[0] if table.ndim == 3 else 0
        if not steps:
            return  # workers would still be on their way in while the caller went on
        if self._caller == threading.get_ident():
            raise RuntimeError("a network cannot run from within a run of its thread, such as in a signal handler")
        with self._turn:
            stamps = 0 if timestamps is None else timestamps.ctypes.data
            try:
                self._caller = threading.get_ident()
                if self.threads > 1:
                    with self._condition:
                        self._running = True
                        self._condition.notify_all()
                self._lead(self._memory.ctypes.data, table.ctypes.data, thread_stride, steps, stamps, self.threads)
            finally:  # an interrupt must not leave the workers spinning
                self._running, self._caller = False, None

    def _stand_by(self, thread: int) -> None:
        """A worker's life: spin for jobs in native code, and park when none comes for a while."""
        memory = self._memory.ctypes.data
        while True:
            self._work(memory, thread, self.threads, SPIN_LIMIT)
            # A run that starts now either sees this thread waiting and wakes it, or is seen here: none is missed.
            with self._condition:
                while not self._running:
                    self._condition.wait()


@cache
def team(threads: int) -> Team:
    """The team of this size; all models of a process share it."""
    return Team(threads)


if hasattr(os, "register_at_fork"):
    # A child has none of its parent's threads, and perhaps a lock that one of them held.
    os.register_at_fork(after_in_child=team.cache_clear)
