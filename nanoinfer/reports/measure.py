"""Measure a profile: what every step of a program costs, from time stamps that the threads take around it.

The measured program is the one that runs otherwise; in addition each thread writes down the time stamp counter before a
step, after its work, and after the wait for the other threads. A step's time is that from the end of the step before
it to its own, on the mean thread: steps follow each other without gaps and add up to the run. What a thread is here is
a part of the program; on a busy machine one thread may compute several, and its stamps stand where the parts are.

Other processes and the clock rate make runs differ. So the report says how far runs and steps spread, and how often the
process lost a core.

A step's limit is the time it would take if arithmetic ran at the machine's peak, or if its bytes moved at the
bandwidth of the memory where they lie, whichever is longer. Activations were written a moment ago and lie in the
smallest cache that holds them; weights were last touched a whole run ago and lie in the smallest memory that holds
everything that a run touches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # Windows does not count this
    getrusage = None

import numpy as np

from .. import runtime
from ..kernels import family
from ..kernels.program import ThreadProgram
from ..lowering.step import Step
from ..machine.roofline import Roofline, measure, measured
from ..plan.program import Program
from .profile import Profile, Row

SLOW = 1.5  # times the lower quartile: a run that takes as long was disturbed
WARM_SECONDS = 0.03  # of runs before those that count: caches, clock rates and the calibration need them


def profile(name: str, program: Program, tensors: Mapping, x: np.ndarray, threads: int, repeat: int) -> Profile:
    """Run `program` on x `repeat` times with time stamps and as often without, interleaved.

    `tensors` are those that the program was made from. The machine's limits are measured after the runs; what an
    earlier process found counts where it is higher.
    """
    known = measured(threads)
    runs = _run(program, x, threads, repeat)
    roofline = known.best(measure(threads))
    rows = _rows(program, tensors, _times(runs), roofline, threads)
    gflops = sum(row.flops for row in rows) / np.median(runs.walls) / 1e3
    totals = runs.steps.sum(1)
    return Profile(
        model=name,
        input_shape=x.shape,
        threads=threads,
        repeat=repeat,
        rows=rows,
        wall=float(np.median(runs.walls)),
        wall_p5=float(np.percentile(runs.walls, 5)),
        wall_p95=float(np.percentile(runs.walls, 95)),
        slow_runs=int((runs.walls > SLOW * np.percentile(runs.walls, 25)).sum()),
        cores_lost=runs.cores_lost,
        total=float(np.median(totals)),
        agreement=float(np.median(totals / runs.walls)),
        overhead=float(np.median(runs.walls / runs.plain)) - 1,
        gflops=float(gflops),
        percent_of_peak=float(100 * gflops / roofline.gflops[threads - 1]),
        limits=roofline,
        timeline=runs.typical,
    )


class _Runs(NamedTuple):
    """Measured runs, all in microseconds.

    stamps: (runs, threads, steps, 3), when a thread began a step, had done its work, and had met the others.
    walls, plain: (runs,), the native calls with time stamps and those without.
    cores_lost: how often meanwhile the system gave a core of this process to another thread.
    """

    stamps: np.ndarray
    walls: np.ndarray
    plain: np.ndarray
    cores_lost: int

    @property
    def steps(self) -> np.ndarray:
        """(runs, steps): the time of each step on the mean thread."""
        ends, starts = self.stamps[..., 2], self.stamps[..., 2].copy()
        starts[..., 1:] = ends[..., :-1]
        starts[..., 0] = self.stamps[..., 0].min((1, 2))[:, None]  # that a worker starts late counts as its wait
        return (ends - starts).mean(1)

    @property
    def typical(self) -> np.ndarray:
        """(threads, steps, 3): the stamps of the run with the median wall time, from 0 on."""
        stamps = self.stamps[np.argsort(self.walls)[len(self.walls) // 2]]
        return stamps - stamps.min()


def _run(program: Program, x: np.ndarray, threads: int, repeat: int) -> _Runs:
    team, shape = runtime.team(threads), (threads, len(program.steps), 3)
    counts, walls, plain = np.zeros((repeat, *shape), np.int64), np.zeros(repeat), np.zeros(repeat)

    def run(timestamps: np.ndarray | None) -> float:
        program.bind_input(x)  # the arena may have reused its memory
        start = time.perf_counter_ns()
        team.run(program.table, timestamps)
        return (time.perf_counter_ns() - start) / 1e3

    first, start = np.zeros(shape, np.int64), time.perf_counter_ns()
    run(first)
    while time.perf_counter_ns() - start < WARM_SECONDS * 1e9:
        run(None)
    lost = _cores_lost()
    for number in range(repeat):
        # The two kinds of runs take turns in going first, so that each meets what the other leaves behind as often.
        for stamped in (number % 2 == 0, number % 2 != 0):
            if stamped:
                walls[number] = run(counts[number])
            else:
                plain[number] = run(None)
    lost, last = _cores_lost() - lost, np.zeros(shape, np.int64)
    run(last)
    microseconds = (time.perf_counter_ns() - start) / 1e3
    scale = microseconds / float(last[0, -1, 2] - first[0, 0, 0])  # per count of the time stamp counter
    return _Runs((counts - first[0, 0, 0]) * scale, walls, plain, lost)


def _cores_lost() -> int:
    return getrusage(RUSAGE_SELF).ru_nivcsw if getrusage else 0


class _Times(NamedTuple):
    """What the runs tell of each step: (steps,) each, times in microseconds."""

    median: np.ndarray
    p5: np.ndarray
    p95: np.ndarray
    imbalance: np.ndarray  # work of the slowest thread over that of the mean thread
    wait: np.ndarray  # of the mean thread


def _times(runs: _Runs) -> _Times:
    work = runs.stamps[..., 1] - runs.stamps[..., 0]  # (runs, threads, steps)
    wait = runs.stamps[..., 2] - runs.stamps[..., 1]
    return _Times(
        median=np.maximum(np.median(runs.steps, 0), 1e-6),
        p5=np.percentile(runs.steps, 5, 0),
        p95=np.percentile(runs.steps, 95, 0),
        imbalance=np.median(work.max(1) / np.maximum(work.mean(1), 1e-9), 0),
        wait=np.median(wait.mean(1), 0),
    )


def _rows(program: Program, tensors: Mapping, times: _Times, roofline: Roofline, threads: int) -> tuple[Row, ...]:
    footprint = program.arena.nbytes + sum(step.weight_bytes for step in program.steps)
    total, rows = float(times.median.sum()), []
    for number, step in enumerate(program.steps):
        microseconds = float(times.median[number])
        limit, bound = step_limit(step, roofline, threads, footprint)
        shapes = (program.shapes[value] for value in (step.node.inputs[0], step.node.output))
        row = Row(
            step=number,
            kernel=step.kernel,
            kind=kind(step, tensors),
            layer=step.node.output,
            shapes=" -> ".join("x".join(map(str, shape)) for shape in shapes),
            flops=step.flops,
            bytes=step.bytes,
            microseconds=microseconds,
            p5=float(times.p5[number]),
            p95=float(times.p95[number]),
            share=microseconds / total,
            gflops=step.flops / microseconds / 1e3,
            gbs=step.bytes / microseconds / 1e3,
            percent=100 * limit / microseconds,
            bound=bound,
            imbalance=float(times.imbalance[number]),
            wait=float(times.wait[number]),
        )
        rows.append(row)
    return tuple(rows)


def kind(step: Step, tensors: Mapping) -> str:
    """The kernel of a step without its tile, with its window: "matmul 1x1", "depthwise 5x5", "attention"."""
    name = step.kernel.removesuffix("_f32") if isinstance(step.spec, ThreadProgram) else family(step.main_spec)
    if step.node.op == "conv2d":
        return f"{name} {'x'.join(map(str, tensors[step.node.tensors['weight']].shape[2:]))}"
    if "window" in step.node.attributes:
        return f"{name} {step.node.attributes['window']}x{step.node.attributes['window']}"
    return f"{name} {step.node.op}" if name in ("matmul", "elementwise") else name


def step_limit(step: Step, roofline: Roofline, threads: int, footprint: int) -> tuple[float, str]:
    """(microseconds, what binds): see the top of this file. `footprint` is the memory in bytes that a run touches.

    What binds is "compute", or the level of memory that takes the longer: "L2", "L3" or "memory".
    """
    compute = step.flops / roofline.gflops[threads - 1] / 1e3
    moves = []
    for size, working_set in ((step.bytes - step.weight_bytes, step.bytes), (step.weight_bytes, footprint)):
        microseconds = size / roofline.bandwidth(working_set, threads) / 1e3
        moves.append((microseconds, roofline.level(working_set, threads)))
    memory = sum(microseconds for microseconds, _ in moves)
    return (compute, "compute") if compute >= memory else (memory, max(moves)[1])
