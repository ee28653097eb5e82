"""What this machine can do at most: multiply-adds from registers, and reads from each level of memory.

`measured()` runs two kernels for a few milliseconds each, on 1 to all threads, and keeps the answer in the kernel
cache. Every figure that is reported in percent is held against it, in the same process where it matters.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from ..kernels import peak
from ..kernels.jit import cache, library
from .cpu import host

ROUNDS, MILLISECONDS = 5, 4


@dataclass(frozen=True)
class Roofline:
    """Cache sizes in bytes; GFLOP/s and GB/s by number of threads (index 0: one thread)."""

    cores: int
    l2_bytes: int
    l3_bytes: int
    gflops: list[float]
    l2_read: list[float]
    l3_read: list[float]
    memory_read: list[float]

    def level(self, size: int, threads: int) -> str:
        """ "L2", "L3" or "memory": the smallest that holds `size` bytes which `threads` threads read over and over."""
        if size <= self.l2_bytes * threads:
            return "L2"
        return "L3" if size <= self.l3_bytes else "memory"

    def bandwidth(self, size: int, threads: int) -> float:
        """GB/s at which `threads` threads read `size` bytes over and over."""
        rates = {"L2": self.l2_read, "L3": self.l3_read, "memory": self.memory_read}[self.level(size, threads)]
        return rates[min(threads, self.cores) - 1]

    def best(self, other: Roofline) -> Roofline:
        """The higher of each rate: what disturbs a measurement never makes it faster."""
        pairs = {name: (rates, getattr(other, name)) for name, rates in vars(self).items() if isinstance(rates, list)}
        return replace(self, **{name: list(map(max, *rates)) for name, rates in pairs.items()})


def _rate(spec, rows: list[np.ndarray], work: list[float]) -> float:
    """Billions per second of `work` done by one call on each row, all at once; the best of a few rounds."""
    run, best = library.function(spec), 0.0
    for _ in range(ROUNDS):
        spans, ready = [None] * len(rows), threading.Barrier(len(rows))

        def call(thread, spans=spans, ready=ready):
            ready.wait()
            start = time.perf_counter()
            run(rows[thread].ctypes.data, thread, len(rows))
            spans[thread] = (start, time.perf_counter())

        others = [threading.Thread(target=call, args=(thread,)) for thread in range(1, len(rows))]
        for other in others:
            other.start()
        call(0)
        for other in others:
            other.join()
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        best = max(best, float(sum(work)) / seconds / 1e9)
    return best


def measure(cores: int) -> Roofline:
    """Measure now, with 1 to `cores` threads: about a second for two cores."""
    rates = measure_at(range(1, cores + 1))
    return Roofline(cores, host().l2_bytes, host().l3_bytes, **rates)


def measure_at(counts: Sequence[int]) -> dict[str, list[float]]:
    """The rates of a Roofline by name, one of each for each number of threads: about 0.4 s for one."""
    machine, cores = host(), max(counts)
    lanes, chains, l2, l3 = machine.lanes, machine.tuning.peak_chains, machine.l2_bytes, machine.l3_bytes
    out = np.zeros(64 * 16 * cores, np.float32)
    sizes = {
        "l2_read": l2 // 2,
        "l3_read": min(l3 // 2 // cores, 8 * l2),
        "memory_read": min(4 * l3, 256 << 20) // cores,
    }
    buffer = np.ones(max(sizes.values()) * cores // 4 + 1024, np.float32)
    rates: dict[str, list[float]] = {"gflops": [], **{level: [] for level in sizes}}
    for threads in counts:
        row = np.array([0, *peak.PeakInstruction(200_000 * MILLISECONDS // 4, out.ctypes.data)], np.int64)
        work = 2.0 * row[1] * chains * lanes
        rates["gflops"].append(_rate(peak.Peak(chains, lanes), [row] * threads, [work] * threads))
        for level, size in sizes.items():
            size -= size % 4096
            repeats = max(1, (MILLISECONDS * 40_000_000) // size)
            row = np.array([0, *peak.ReadInstruction(buffer.ctypes.data, size, repeats, out.ctypes.data)], np.int64)
            rates[level].append(_rate(peak.Read(lanes), [row] * threads, [float(size * repeats)] * threads))
    return rates


def measured(cores: int) -> Roofline:
    """The roofline of this machine, from the kernel cache if it was measured before."""
    name = f"roofline-{cores}-{os.cpu_count()}-{cache.source_digest(__file__)}"
    known = cache.read(name)
    if known is not None:
        return Roofline(**json.loads(known))
    roofline = measure(cores)
    cache.write(name, json.dumps(asdict(roofline)).encode())
    return roofline
