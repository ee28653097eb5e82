"""The thread team: one native call a run, in the calling thread, with workers that help it.

Workers are Python threads inside a native call without the GIL, which never returns. After a run they poll for about a
millisecond, so that the next run finds them awake, and then sleep in the kernel. kernels/team.py has their protocol.
"""

from __future__ import annotations

import os
import threading
from functools import cache

import numpy as np

from .cgroups import groups, text
from .errors import InputError, printable
from .kernels import team as team_kernels
from .kernels.jit import elf, library

NO_QUOTA = 1 << 20  # as good as unlimited


def default_threads() -> int:
    """NANOINFER_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may use (affinity, cgroup quota).

    Raises InputError if the first is no number; what the second says to other programs may be more than one.
    """
    return explained_threads()[0]


def explained_threads() -> tuple[int, str]:
    """(the default number of threads, in words where it comes from). Raises InputError as `default_threads` does."""
    for variable in ("NANOINFER_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(variable, "").split(",")[0].strip()
        if value.isdecimal() and int(value) > 0:
            return min(int(value), most_threads()), f"{variable} in the environment"
        if value and variable == "NANOINFER_NUM_THREADS":
            raise InputError(f"{variable}={printable(value)!r}: set it to a whole number from 1 on, or not at all")
    limited = quota() < allowed_cores()
    return usable_cores(), "the CPU quota of a control group" if limited else "the cores that this process may use"


def usable_cores() -> int:
    """The cores this process may use, by affinity and cgroup quota."""
    return max(1, min(allowed_cores(), quota()))


def allowed_cores() -> int:
    """The cores this process may use by its affinity; those of the machine where there is none."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_threads() -> int:
    """More threads than this would only wait for each other."""
    return max(64, 4 * (os.cpu_count() or 1))


def quota() -> int:
    """Cores that CPU quotas amount to, rounded up: of this process's cgroup and of all above it, the least. NO_QUOTA
    where there is none."""
    least = NO_QUOTA
    for folder, version in groups("cpu"):
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if version == 1 else ("cpu.max",)
        try:
            quota, period = map(int, " ".join(text(folder / name) for name in files).split())
        except ValueError:  # not there, or "max"
            continue
        if quota > 0:
            least = min(least, -(-quota // period))
    return least


class Crew:
    """The workers of this process, and the memory through which leaders give them work; see kernels/team.py.

    Leaders meet in native code alone, where Python runs no signal handler: there is no lock that an exception could
    leave behind, and nothing that one leader waits for before it begins.
    """

    def __init__(self, cores: int):
        self.cores, self._started = cores, 0
        self._lead, self._work = library.function(team_kernels.Leader()), library.function(team_kernels.Worker())
        words = team_kernels.crew_words(cores, most_threads())
        self._address = words.ctypes.data
        elf.leak(words)

    def lead(self, table: np.ndarray, parts: int, timestamps: np.ndarray | None = None) -> None:
        """Interpret a program's table (steps, words), or for each part its own (parts, steps, words).

        Returns when all parts are finished. `timestamps`, int64 (parts, steps, 3), takes those of each step; see
        kernels/team.py.
        """
        if self._started < min(parts, self.cores) - 1:
            self._start(min(parts, self.cores) - 1)
        steps, part_stride = table.shape[-2], table.strides[0] if table.ndim == 3 else 0
        stamps = 0 if timestamps is None else timestamps.ctypes.data
        self._lead(self._address, table.ctypes.data, part_stride, steps, stamps, parts)

    def _start(self, workers: int) -> None:
        """Start those that are missing; one that exists twice, since a signal handler raised here, ends at once."""
        for number in range(self._started + 1, workers + 1):
            arguments = self._address, number, 1
            threading.Thread(target=self._work, args=arguments, name=f"nanoinfer-{number}", daemon=True).start()
            self._started = max(self._started, number)


class Team:
    """`threads` threads as a program sees them: its parts. Who computes them is settled at each run."""

    def __init__(self, threads: int):
        self.threads, self.crew = threads, crew()

    def run(self, table: np.ndarray, timestamps: np.ndarray | None = None) -> None:
        """Run a program that was made for so many threads; see Crew.lead."""
        self.crew.lead(table, self.threads, timestamps)


@cache
def crew() -> Crew:
    """The crew of this process, made for the cores that it may use at the first call."""
    return Crew(usable_cores())


@cache
def team(threads: int) -> Team:
    """The team of this size."""
    return Team(threads)


def _renew() -> None:
    """In a forked child: none of its parent's threads exist there, whatever they were at."""
    crew.cache_clear()
    team.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
