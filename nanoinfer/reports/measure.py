"""Profiles: what every step of a program costs, from time stamps that the threads take around it.

The program that is measured is the one that runs otherwise; only, each thread writes down the time stamp counter before
a step, after its work, and after the wait for the other threads. A step's time is that from the first to the last of
these, on the mean thread: steps follow each other without gaps and add up to the run.

A step's limit is the time it would take if arithmetic ran at the machine's peak, or if its bytes moved at the
bandwidth of where they lie, whichever is longer. Activations were written a moment ago and lie in the smallest cache
that holds them; weights were last touched a whole run ago and lie where all of the network's memory fits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .. import runtime
from ..lowering.step import Step
from ..machine.roofline import Limits, measure, measured
from ..plan.program import Program, tile_name
from .profile import Profile, Row

WARM_SECONDS = 0.03  # of runs before those that count: caches, clock rates and the calibration need them


def profile(name: str, program: Program, tensors: Mapping, x: np.ndarray, threads: int, repeat: int) -> Profile:
    """Run `program` on x `repeat` times with time stamps and as often without, by turns.

    `tensors` are those that the program was made from. The machine's limits are measured behind the runs; what an
    earlier process found counts where it is higher.
    """
    known, team = measured(threads), runtime.team(threads)
    stamps, walls, plain, scale = _runs(program, team, x, repeat)
    limits = _best(known, measure(threads))

    work = (stamps[..., 1] - stamps[..., 0]) * scale  # (runs, threads, steps)
    wait = (stamps[..., 2] - stamps[..., 1]) * scale
    starts = stamps[..., 0].copy()
    starts[:, :, 0] = starts[:, :1, 0]  # what a follower is late for the run counts as its wait
    spent = (stamps[..., 2] - starts).mean(1) * scale  # (runs, steps)
    median, late = np.median(spent, 0), np.percentile(spent, 95, 0)
    imbalance = np.median(work.max(1) / np.maximum(work.mean(1), 1e-9), 0)
    waits = np.median(wait.mean(1), 0)
    footprint = program.arena.nbytes + sum(step.weight_bytes for step in program.steps)
    rows = []
    for number, step in enumerate(program.steps):
        limit, bound = step_limit(step, limits, threads, footprint)
        node, micros = step.node, max(float(median[number]), 1e-6)
        shapes = ["x".join(map(str, program.shapes[value])) for value in (node.inputs[0], node.output)]
        rows.append(
            Row(
                number,
                tile_name(step),
                kind(step, tensors),
                node.output,
                " -> ".join(shapes),
                step.flops,
                step.bytes,
                micros,
                float(late[number]),
                micros / float(median.sum()),
                step.flops / micros / 1e3,
                step.bytes / micros / 1e3,
                100 * limit / micros,
                bound,
                float(imbalance[number]),
                float(waits[number]),
            )  # fmt: skip
        )
    typical = int(np.argsort(walls)[len(walls) // 2])
    wall = float(np.median(walls))
    gflops = sum(step.flops for step in program.steps) / wall / 1e3
    return Profile(
        model=name,
        input_shape=x.shape,
        threads=threads,
        repeat=repeat,
        rows=tuple(rows),
        wall=wall,
        total=float(np.median(spent.sum(1))),
        agreement=float(np.median(spent.sum(1) / walls)),
        overhead=float(np.median(walls / plain)) - 1,
        gflops=gflops,
        percent_of_peak=100 * gflops / limits.gflops[threads - 1],
        limits=limits,
        timeline=(stamps[typical] - stamps[typical].min()) * scale,
    )


def _best(first: Limits, second: Limits) -> Limits:
    """The higher of each rate: what disturbs a measurement never makes it faster."""
    pairs = {name: (rates, getattr(second, name)) for name, rates in vars(first).items() if isinstance(rates, list)}
    return replace(first, **{name: list(map(max, *rates)) for name, rates in pairs.items()})


def _runs(program: Program, team: runtime.Team, x: np.ndarray, repeat: int):
    """(stamps (runs, threads, steps, 3), walls with and without stamps, microseconds per count of the counter)."""
    shape = (team.threads, len(program.steps), 3)
    stamps, walls, plain = np.zeros((repeat, *shape), np.int64), np.zeros(repeat), np.zeros(repeat)

    def run(clocks: np.ndarray | None) -> float:
        program.take(x)  # the arena may have reused its memory
        start = time.perf_counter_ns()
        team.run(program.table, clocks)
        return (time.perf_counter_ns() - start) / 1e3

    first, start = np.zeros(shape, np.int64), time.perf_counter_ns()
    run(first)
    while time.perf_counter_ns() - start < WARM_SECONDS * 1e9:
        run(None)
    for number in range(repeat):
        # Either kind goes first half of the time: whatever one leaves behind, the other meets as often.
        for stamped in (number % 2 == 0, number % 2 != 0):
            if stamped:
                walls[number] = run(stamps[number])
            else:
                plain[number] = run(None)
    last = np.zeros(shape, np.int64)
    run(last)
    nanoseconds = time.perf_counter_ns() - start
    return stamps, walls, plain, nanoseconds / 1e3 / float(last[0, -1, 2] - first[0, 0, 0])


def kind(step: Step, tensors: Mapping) -> str:
    """The kernel of a step without its tile, with its window: "matmul 1x1", "depthwise 5x5", "attention"."""
    regions = step.fields.get("regions")
    name = regions[0]["tile"][0] if regions else step.kernel[0]
    if step.node.op == "conv2d":
        return f"{name} {'x'.join(map(str, tensors[step.node.tensors['weight']].shape[2:]))}"
    if step.node.op in ("max_pool2d", "bands"):
        return f"{name} {step.node.attributes['window']}x{step.node.attributes['window']}"
    return f"{name} {step.node.op}" if name in ("matmul", "elementwise") else name


def step_limit(step: Step, limits: Limits, threads: int, footprint: int) -> tuple[float, str]:
    """(microseconds, what binds): see the top of this file. `footprint` is the memory that a run touches."""
    compute = step.flops / limits.gflops[threads - 1] / 1e3
    parts = []
    for size, spread in ((step.bytes - step.weight_bytes, step.bytes), (step.weight_bytes, footprint)):
        rate = limits.bandwidth(spread, threads)
        parts.append((size / rate / 1e3, level(limits, spread, threads)))
    memory = sum(micros for micros, _ in parts)
    return (compute, "compute") if compute >= memory else (memory, max(parts)[1])


def level(limits: Limits, size: int, threads: int) -> str:
    """The name of the memory whose bandwidth `limits` gives for `size` bytes."""
    if size <= limits.l2_bytes * threads:
        return "L2"
    return "L3" if size <= limits.l3_bytes else "memory"
