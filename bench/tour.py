"""From three loops to the micro-kernel of this project, in six steps that run: docs/kernel-tour.md explains them.

    python -m bench.tour [--shape M K N] [--rounds R]

Each step computes the same product on one thread: y (M, N) = x (M, K) times weights (N, K). The last step and the
project's own kernel, which runs for comparison, compute a whole layer, ReLU6(product + bias + residual). A round times
every step (the second of two calls, since the first one fills the caches), and after each the machine's peak, so that
a slow phase of the machine hits them alike. Errors are the largest difference from float64, relative to the largest
value; a wrong result ends with exit code 1. bench/tour_kernels.py holds the steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from nanoinfer.kernels import KERNELS
from nanoinfer.kernels.matmul import Matmul
from nanoinfer.kernels.packing import reference as packed

from nanoinfer.cli.network import positive
from nanoinfer.graph import Builder, passes
from nanoinfer.lowering.layout import aligned_empty
from nanoinfer.machine import Machine, host

from . import tour_kernels
from .steps import Bench, Limits

# 19 MB of weights and 1.2 MB of pixels: neither fits an L2 cache of 1 MiB.
SHAPE = (392, 768, 6144)
NR = 2  # vectors of a micro-panel, as in most products of the project
SLOW = 0.5  # seconds of a call whose caches need no filling
TOLERANCE = KERNELS["matmul"].tolerance


@dataclass
class Step:
    """One row of the report: `run` computes `output`, `repeats` times over."""

    name: str
    run: Callable[[], object]
    output: Callable[[], np.ndarray]
    expected: np.ndarray  # float64
    repeats: int = 1
    kernel: str = ""
    rounds: list[tuple[float, float]] = field(default_factory=list)  # seconds of one computation, peak in GFLOP/s

    def error(self) -> float:
        """Largest difference from float64, relative to the largest value; NaN where a value is missing."""
        self.output()[...] = np.nan  # the steps share one y; that of the program is its own, and this a copy
        self.run()
        largest = max(np.abs(self.expected).max(), np.finfo(np.float32).tiny)  # a small layer may be zero everywhere
        return float(np.abs(self.output() - self.expected).max() / largest)

    def round(self, limits: Limits) -> None:
        seconds = timed(self.run)
        if seconds < SLOW:
            seconds = timed(self.run)
        self.rounds.append((seconds / self.repeats, max(limits.gflops() for _ in range(2))))


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def own_layer(shape: tuple[int, int, int], machine: Machine) -> tuple[Bench, list[int]]:
    """The layer as this project plans it, and its rows in the program.

    The residual is another linear layer of the same input. Strassen's scheme is off: it does with fewer multiply-adds.
    """
    m, k, n = shape
    net = Builder(k)
    residual = net.linear(net.input, "residual", n)
    y = net.residual(net.linear(net.input, "product", n), residual, "sum")
    graph = net.finish(net.activation(y, "relu6", "layer"), y)
    generator, scale = np.random.default_rng(0), np.float32(2 * k**-0.5)
    tensors = {name: generator.standard_normal(s, np.float32) * scale for name, s in graph.parameters.items()}
    numerics = machine.tuning.numerics._replace(strassen_channels=sys.maxsize)
    machine = replace(machine, tuning=machine.tuning._replace(numerics=numerics))
    bench = Bench(*passes.optimise(graph, tensors), (1, m, k), threads=1, machine=machine)
    (rows,) = (rows for node, rows in bench.nodes() if node.output == "layer")
    return bench, rows


def aligned(values: np.ndarray, columns: int) -> np.ndarray:
    """float32 (rows, columns) in memory such as the project's values have: a copy, filled up with zeros."""
    copy = aligned_empty(len(values) * columns).reshape(-1, columns)
    copy[:, : values.shape[1]], copy[:, values.shape[1] :] = values, 0
    return copy


def steps(shape: tuple[int, int, int], machine: Machine) -> list[Step]:
    """The steps in order and, last, the project's own kernel on the same arrays."""
    m, k, n = shape
    spec = Matmul(machine.tuning.matmul_mr[NR], NR, machine.lanes, "piecewise")
    width = spec.nr * spec.lanes  # output channels of a micro-panel
    filled = -(-n // width) * width
    block = max(1, machine.tuning.block_bytes // (4 * k * spec.mr)) * spec.mr  # pixels that stay in L2

    bench, rows = own_layer(shape, machine)
    weight, bias = bench.tensors["product.weight"], bench.tensors["product.bias"]
    x, w, by_k = aligned(bench.x[0], k), aligned(weight, k), aligned(weight.T, filled)
    panels = aligned(packed(weight[:, :, None, None], width).reshape(-1, k * width), k * width)
    b, r = aligned(bias[None], filled), aligned(bench.program.read_output("residual")[0], filled)
    y = aligned(np.full((m, n), np.nan), filled)

    product = bench.x[0].astype(np.float64) @ weight.T.astype(np.float64)
    layer = np.clip(product + bias + r[:, :n], 0, 6)
    tour = (
        ("1 naive", tour_kernels.naive, (x, w, y), product),
        ("2 register tile", tour_kernels.register_tile, (x, by_k, y), product),
        ("3 packed micro-panels", tour_kernels.packed_panels, (x, panels, y), product),
        ("4 cache blocks", tour_kernels.cache_blocks, (x, panels, y, block), product),
        ("5 prefetch", tour_kernels.prefetching, (x, panels, y, block), product),
        ("6 layer: 5, then three passes", tour_kernels.unfused, (x, panels, b, r, y, block), layer),
        ("6 layer: fused epilogue", tour_kernels.fused, (x, panels, b, r, y, block), layer),
    )
    table, repeats = bench.call(rows)
    return [
        *(Step(name, partial(make(spec), *args), lambda: y[:, :n], expected) for name, make, args, expected in tour),
        Step(
            "  the project's own kernel", partial(bench.team.run, table),
            lambda: bench.program.read_output("layer")[0], layer, repeats, bench.kernel(rows),
        ),
    ]  # fmt: skip


def show(step: Step, flops: float, error: float) -> None:
    """Print the row of a step that takes `flops`."""
    times, peaks = zip(*step.rounds, strict=True)
    best, shares = min(times), [flops / seconds / peak / 1e9 for seconds, peak in step.rounds]
    print(
        f"{step.name:32} {best * 1e3:9.3f} {statistics.median(times) * 1e3:9.3f} {flops / best / 1e9:8.1f} "
        f"{100 * flops / best / max(peaks) / 1e9:7.0f}% {100 * statistics.median(shares):5.0f}% {error:8.1e}"
        f"{'' if error <= TOLERANCE else '  WRONG'}",
        flush=True,
    )


def report(tour: list[Step], flops: float, errors: list[float]) -> None:
    """Print the table, then the peak."""
    print(f"{'step':32} {'best ms':>9} {'median':>9} {'GFLOP/s':>8} {'of peak':>8} {'median':>6} {'error':>8}")
    for step, error in zip(tour, errors, strict=True):
        show(step, flops, error)
    peak = max(peak for step in tour for _, peak in step.rounds)
    print(f"\npeak: {peak:.1f} GFLOP/s of multiply-adds from registers; the project's own kernel: {tour[-1].kernel}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tour", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs=3, type=positive, default=SHAPE, metavar=("M", "K", "N"))
    parser.add_argument("--rounds", type=positive, default=8)
    options = parser.parse_args(argv)
    machine = host()
    (m, k, n), mr = options.shape, machine.tuning.matmul_mr[NR]
    if m < mr:
        parser.error(f"M has to be at least {mr}, the pixels of a register tile on this machine")
    print(
        f"M={m} pixels, K={k} input channels, N={n} output channels, one thread\n"
        f"register tile: {mr} pixels x {NR} vectors of {machine.lanes} float32, {machine.registers} vector registers\n"
    )
    limits, tour = Limits(1), steps((m, k, n), machine)
    errors = [step.error() for step in tour]
    for _ in range(options.rounds):
        for step in tour:
            step.round(limits)
    report(tour, 2.0 * m * k * n, errors)
    wrong = [(step.name.strip(), error) for step, error in zip(tour, errors, strict=True) if not error <= TOLERANCE]
    for name, error in wrong:
        print(f"bench.tour: wrong result: {name}: error {error:.1e}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
