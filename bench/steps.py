"""Steps of a program, each run alone, and the machine's roofline, measured on the same threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator

import numpy as np
from nanoinfer.kernels import KERNELS, family, kernel_name, peak
from nanoinfer.kernels.jit import library
from nanoinfer.kernels.program import WORDS

from nanoinfer import runtime
from nanoinfer.graph import Graph, Node, ops
from nanoinfer.lowering.packed import PackedWeights
from nanoinfer.machine import Machine, host, roofline
from nanoinfer.plan import Program, make_plan, make_program
from nanoinfer.plan.program import encode_row

SECONDS = 1e-3  # of one timed call
WARM = 4  # calls in a row, of which the last counts: measuring bandwidth drives what a step reads out of the caches


class Bench:
    """A program in which every step can be run alone, and the team that runs it."""

    def __init__(
        self, graph: Graph, tensors: dict, shape: tuple[int, ...], *, threads: int, machine: Machine | None = None,
        inner: Iterable[str] = (),
    ):  # fmt: skip
        """Values in `inner` stay within fused blocks; every other value is an output."""
        self.graph = graph.with_outputs([node.output for node in graph.nodes if node.output not in inner])
        self.tensors, self.threads, self.team = tensors, threads, runtime.team(threads)
        plan = make_plan(self.graph, tensors, shape, threads=threads, machine=machine or host())
        self.program: Program = make_program(plan, tensors, PackedWeights())
        self.x = np.random.default_rng(0).standard_normal(shape, np.float32)
        self.run()

    def run(self) -> None:
        """The whole network: makes every value right again after steps that used a workspace out of turn."""
        self.program.bind_input(self.x)
        self.team.run(self.program.table)

    def nodes(self) -> Iterator[tuple[Node, list[int]]]:
        """Every node with the rows of its steps."""
        rows: dict[str, list[int]] = {}
        nodes = {node.output: node for node in self.graph.nodes}
        for number, step in enumerate(self.program.steps):
            rows.setdefault(step.node.output, []).append(number)
            if step.node.op == "fused":
                nodes[step.node.output] = step.node
        for output, numbers in rows.items():
            yield nodes[output], numbers

    def kernel(self, rows: list[int]) -> str:
        """The names of the kernels of a node's steps."""
        return " + ".join(dict.fromkeys(self.program.steps[row].kernel for row in rows))

    def tolerance(self, rows: list[int]) -> float:
        """The largest error of a node's output that its kernels allow for."""
        return max(KERNELS[family(self.program.steps[row].main_spec)].tolerance for row in rows)

    def shapes(self, node: Node) -> str:
        """First input and output; a second input has the shape of the output, or is its gate."""
        first, last = ("x".join(map(str, self.program.shapes[name])) for name in (node.inputs[0], node.output))
        gated = node.attributes.get("parts", (node,))[0].attributes.get("gated", False)
        second = node.op in ("conv2d", "linear", "fused") and len(node.inputs) - gated > 1
        return f"{first} -> {last}{' residual' if second else ''}{' gated' if gated else ''}"

    def key(self, node: Node, rows: list[int]) -> tuple:
        """What makes a row of the report: nodes with the same key run the same kernels on the same shapes."""
        tensors = tuple((role, self.tensors[name].shape) for role, name in node.tensors.items())
        # The kernel's name has the activation, as far as it is not data; weights tell the parts of a fused block.
        left_out = ("activation", "parts")
        attributes = tuple((name, value) for name, value in node.attributes.items() if name not in left_out)
        return self.kernel(rows), self.shapes(node), tensors, attributes

    def inputs(self, node: Node) -> list[np.ndarray]:
        """What a node reads, as the kernels left it."""
        return [self.x if name == self.graph.input else self.program.read_output(name) for name in node.inputs]

    def error(self, node: Node) -> float:
        """Largest difference from the operator's reference in float64, relative to the largest value."""
        values = [value.astype(np.float64) for value in self.inputs(node)]
        for part in node.attributes.get("parts", (node,)):  # each takes what the one before has made, and its others
            values = [ops.apply(part, values[: len(part.inputs)], self.tensors), *values[len(part.inputs) :]]
        (expected,) = values
        return float(np.abs(self.program.read_output(node.output) - expected).max() / np.abs(expected).max())

    def call(self, rows: list[int]) -> tuple[np.ndarray, int]:
        """(a program that repeats these rows for about SECONDS, how often)."""
        part = np.ascontiguousarray(self.program.table[..., rows, :])
        part[..., -1, -1] = 1
        seconds, repeats, done = 0.0, 1, 0
        while seconds < SECONDS / 4:
            table = np.concatenate([part] * repeats, axis=-2)
            seconds = min(timed(self.team, table) for _ in range(3))
            done, repeats = repeats, max(2 * repeats, min(16 * repeats, int(repeats * SECONDS / seconds)))
        return table, done


def timed(team: runtime.Team, table: np.ndarray) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    team.run(table)
    return time.perf_counter() - start


class Limits:
    """The peak and the bandwidths of the machine, measured on a team's threads whenever they are asked for."""

    def __init__(self, threads: int):
        machine = host()
        self.threads, self.team = threads, runtime.team(threads)
        self.known = roofline.measured(runtime.default_threads())
        spec = peak.Peak(machine.tuning.peak_chains, machine.lanes)
        self.out = np.zeros(64 * 16 * threads, np.float32)
        iterations = 150_000
        self.flops = 2.0 * iterations * spec.chains * spec.lanes * threads
        self.peak = self._table(spec, peak.PeakInstruction(iterations, self.out.ctypes.data))
        sizes = {"L2": self.known.l2_bytes // 2, "L3": self.known.l3_bytes // 2 // threads,
                 "memory": 4 * self.known.l3_bytes // threads}  # fmt: skip
        self.buffer = np.ones(max(sizes.values()) // 4 * threads, np.float32)
        self.reads = {}
        for name, size in sizes.items():
            size -= size % 4096
            repeats = max(1, (1 << 25) // size)
            call = peak.ReadInstruction(self.buffer.ctypes.data, size, repeats, self.out.ctypes.data)
            self.reads[name] = self._table(peak.Read(machine.lanes), call), size * repeats * threads

    @staticmethod
    def _table(spec, call: tuple[int, ...]) -> np.ndarray:
        table = np.zeros((1, WORDS), np.int64)
        encode_row(table[0], library.addresses([spec])[kernel_name(spec)], call, barrier=True)
        return table

    def gflops(self) -> float:
        return self.flops / min(timed(self.team, self.peak) for _ in range(2)) / 1e9  # the first one may be cold

    def gbs(self, name: str) -> float:
        table, size = self.reads[name]
        return size / timed(self.team, table) / 1e9


class Row:
    """The steps of one node, timed in rounds."""

    def __init__(self, bench: Bench, limits: Limits, rows: list[int]):
        steps = [bench.program.steps[row] for row in rows]
        self.bench, self.limits = bench, limits  # the program's memory has to stay
        self.flops, self.moved = sum(step.flops for step in steps), sum(step.bytes for step in steps)
        self.memory = limits.known.level(self.moved, bench.threads)
        self.table, self.repeats = bench.call(rows)
        self.rounds: list[tuple[float, float, float]] = []  # seconds, the peak in GFLOP/s, GB/s

    def round(self) -> None:
        *_, seconds = (timed(self.bench.team, self.table) for _ in range(WARM))
        self.rounds.append((seconds / self.repeats, self.limits.gflops(), self.limits.gbs(self.memory)))

    def result(self) -> dict:
        """Times and shares of the limit, as fields of a Result."""
        times, peaks, rates = zip(*self.rounds, strict=True)
        best, shares = min(times), [max(self._needs(*limits).values()) / seconds for seconds, *limits in self.rounds]
        fastest = self._needs(max(peaks), max(rates))
        return dict(
            best=best * 1e6,
            median=statistics.median(times) * 1e6,
            gflops=self.flops / best / 1e9,
            gbs=self.moved / best / 1e9,
            percent=100 * max(fastest.values()) / best,
            median_percent=100 * statistics.median(shares),
            limit=max(fastest, key=fastest.get),
        )

    def _needs(self, peak: float, rate: float) -> dict[str, float]:
        """Seconds that the work takes at these limits."""
        return {"compute": self.flops / peak / 1e9, self.memory: self.moved / rate / 1e9}
