"""What this machine can do at most: multiply-adds from registers, and reads from each level of memory.

`measured()` runs two kernels for a few milliseconds each, on 1 to all threads, and keeps the answer in the kernel
cache. Everything that is reported as a percentage is held against it, in the same process where it matters.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..kernels import peak
from ..kernels.jit import cache, library
from . import target

ROUNDS, MILLISECONDS = 5, 4


@dataclass(frozen=True)
class Limits:
    """Cache sizes in bytes; GFLOP/s and GB/s by number of threads (index 0: one thread)."""

    cores: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    gflops: list[float]
    l1_read: list[float]
    l2_read: list[float]
    l3_read: list[float]
    memory_read: list[float]

    def bandwidth(self, size: int, threads: int) -> float:
        """GB/s at which `threads` threads read `size` bytes over and over: that of the cache that holds them."""
        for capacity, read in ((self.l2_bytes * threads, self.l2_read), (self.l3_bytes, self.l3_read)):
            if size <= capacity:
                return read[min(threads, self.cores) - 1]
        return self.memory_read[min(threads, self.cores) - 1]


@lru_cache
def cache_sizes() -> tuple[int, int, int]:
    """Bytes of the first core's L1 data cache, L2 and L3, as the kernel tells; usual sizes where it does not."""
    sizes = {1: 32 << 10, 2: 1 << 20, 3: 16 << 20}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind = int((index / "level").read_text()), (index / "type").read_text().strip()
            text = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and level in sizes:
            sizes[level] = int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]
    return sizes[1], sizes[2], sizes[3]


def _rate(specification: tuple, rows: list[np.ndarray], work: list[float]) -> float:
    """Billions per second of `work` done by one call on each row, all at once; the best of a few rounds."""
    run, best = library.function(specification), 0.0
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


def measure(cores: int) -> Limits:
    """Measure now, with 1 to `cores` threads: about a second for two cores."""
    machine = target.host()
    lanes = machine.lanes
    out = np.zeros(64 * 16 * cores, np.float32)
    chains = peak.CHAINS[machine.registers]
    l1, l2, l3 = cache_sizes()
    sizes = {"l1_read": l1 // 2, "l2_read": l2 // 2, "l3_read": min(l3 // 2 // cores, 8 * l2), "memory_read": 4 * l3}
    sizes["memory_read"] = min(sizes["memory_read"], 256 << 20) // cores
    buffer = np.ones(max(sizes.values()) * cores // 4 + 1024, np.float32)
    rates: dict[str, list[float]] = {"gflops": [], **{level: [] for level in sizes}}
    for threads in range(1, cores + 1):
        row = np.array([0, 200_000 * MILLISECONDS // 4, out.ctypes.data], np.int64)
        work = 2.0 * row[1] * chains * lanes
        rates["gflops"].append(_rate(("peak", lanes, machine.registers), [row] * threads, [work] * threads))
        for level, size in sizes.items():
            size -= size % 4096
            repeats = max(1, (MILLISECONDS * 40_000_000) // size)
            row = np.array([0, buffer.ctypes.data, size, repeats, out.ctypes.data], np.int64)
            rates[level].append(_rate(("read", lanes), [row] * threads, [float(size * repeats)] * threads))
    return Limits(cores, l1, l2, l3, **rates)


def measured(cores: int) -> Limits:
    """The limits of this machine, from the kernel cache if they were measured before."""
    name = f"limits-{cores}-{os.cpu_count()}"
    known = cache.read(name)
    if known is not None:
        return Limits(**json.loads(known))
    limits = measure(cores)
    cache.write(name, json.dumps(asdict(limits)).encode())
    return limits
