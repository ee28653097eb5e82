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
NO_JOB = 1 << 62
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
    """`threads` threads: the caller, which leads, and workers. One run at a time; callers queue.

    A signal handler may raise, or call another model, wherever Python runs one: between two instructions of this class.
    So there is no lock that an exception could leave behind, and the thread that leads may lead again.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._turn = threading.RLock()
        self._gates = [threading.Lock() for _ in range(1, threads)]  # of each worker; closed while it stands by
        self._lead, self._work = library.function(program.Leader()), library.function(program.Worker())
        line = np.zeros((program.team_bytes(threads) + program.LINE) // 8, np.int64)
        self._memory = line[-line.ctypes.data % program.LINE // 8 :]
        self._kept: list[list] = []  # [JOB_COUNT, table] of jobs that a late worker may still read
        elf.leak(line)
        elf.leak(self._kept)
        for thread, gate in enumerate(self._gates, 1):
            gate.acquire()
            work = threading.Thread(target=self._stand_by, args=(thread, gate), name=f"nanoinfer-{thread}", daemon=True)
            work.start()

    def run(self, table: np.ndarray, timestamps: np.ndarray | None = None) -> None:
        """Interpret a program's table (steps, words), or for each part its own (threads, steps, words).

        Returns when all parts are finished. `timestamps`, int64 (threads, steps, 3), takes those of each step; see
        kernels/program.py.
        """
        steps, part_stride = table.shape[-2], table.strides[0] if table.ndim == 3 else 0
        if not steps:
            return
        with self._turn:
            stamps = 0 if timestamps is None else timestamps.ctypes.data
            for gate in self._gates:
                if gate.locked():
                    gate.release()
            kept = self._keep(table)
            self._lead(self._memory.ctypes.data, table.ctypes.data, part_stride, steps, stamps, self.threads)
            kept[0] = self._memory[program.JOB_COUNT // 8]

    def _keep(self, table: np.ndarray) -> list:
        """Keep a table; every worker has left the jobs of those that go, or come to a later one.

        Returns what is kept, with a number above those of all jobs: the job has none before it is given.
        """
        left = [self._memory[(program.PARTS + n * program.LINE + program.LEFT) // 8] for n in range(1, self.threads)]
        oldest = min(left, default=NO_JOB - 1)
        kept = [NO_JOB, table]
        self._kept[:] = [*(one for one in self._kept if one[0] > oldest and one[1] is not table), kept]
        return kept

    def _stand_by(self, thread: int, gate: threading.Lock) -> None:
        """A worker's life: spin for jobs in native code, and park at its gate when none comes for a while."""
        while True:
            gate.acquire()
            self._work(self._memory.ctypes.data, thread, self.threads, SPIN_LIMIT)


@cache
def team(threads: int) -> Team:
    """The team of this size; all models of a process share it."""
    return Team(threads)


if hasattr(os, "register_at_fork"):
    # A child has none of its parent's threads, and perhaps a lock that one of them held.
    os.register_at_fork(after_in_child=team.cache_clear)
