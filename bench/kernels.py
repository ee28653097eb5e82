"""Every kernel at every shape that networks really use: time, rate, share of the machine's limit, and error.

    python -m bench.kernels [--models M ...] [--batch-sizes N ...] [--threads T ...] [--against torch onnxruntime]
    python -m bench.kernels --gemm          the matrix products that engines are usually compared by

Rows come from the networks' own plans. A plan is made in which every value is an output, so that no memory is used
twice and each step can be run again alone: a program of this one step, repeated to about a millisecond, is timed.
Convolutions that go in bands have rows of their own; those of the bands follow, from a plan of which only the values
within bands are no outputs.
A round times the step, then the machine's peak and its bandwidth on the same threads, so that a slow phase of the
machine hits them alike; the best rounds are held against each other. Each result is compared with the meaning of its
operator in float64; a wrong one ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from nanoinfer.kernels import library, limits, peak, program, target

from nanoinfer import create_model, ops, passes, runtime
from nanoinfer.architectures import MODELS as ARCHITECTURES
from nanoinfer.cli import positive
from nanoinfer.graph import Builder, Graph, Node
from nanoinfer.layout import Packed
from nanoinfer.plan import Program, make_program, tile_name
from nanoinfer.profiling import kind, level

from .models import MODELS

# (rows, depth, columns): pixels or tokens, input and output channels of pointwise convolutions and linear layers.
GEMM = (
    (3136, 24, 144), (784, 48, 288), (196, 88, 528), (196, 528, 88), (49, 224, 1344), (49, 1344, 224),
    (50, 768, 3072), (50, 3072, 768), (400, 768, 3072), (3136, 256, 128), (784, 256, 512), (196, 1024, 512),
    (49, 2048, 1024),
)  # fmt: skip
SECONDS = 1e-3  # of one timed call
WARM = 4  # calls in a row, of which the last counts: measuring bandwidth drives what a step reads out of the caches
TOLERANCE = 1e-5  # largest error, relative to the output's largest value


@dataclass
class Result:
    """One kernel at one shape. Times are microseconds; `peers` holds those of other engines by name."""

    network: str
    layer: str
    kernel: str
    shapes: str
    threads: int
    batch: int
    best: float
    median: float
    gflops: float
    gbs: float
    percent: float
    limit: str
    error: float
    passed: bool
    peers: dict[str, float]


class Bench:
    """A plan in which every step can be run alone, and the team that runs it."""

    def __init__(self, graph: Graph, tensors: dict, shape: tuple[int, ...], threads: int, inner: Iterable[str] = ()):
        """Values in `inner` stay within bands; every other value is an output."""
        self.graph = graph.with_outputs([node.output for node in graph.nodes if node.output not in inner])
        self.tensors, self.threads, self.team = tensors, threads, runtime.team(threads)
        self.packed = Packed()  # holds the weights that the program points to
        self.program: Program = make_program(self.graph, tensors, shape, threads, self.packed)
        self.x = np.random.default_rng(0).standard_normal(shape, np.float32)
        self.run()

    def run(self) -> None:
        """The whole network: makes every value right again after steps that used scratch memory out of turn."""
        self.program.take(self.x)
        self.team.run(self.program.table)

    def nodes(self) -> Iterator[tuple[Node, list[int]]]:
        """Every node with the rows of its steps."""
        rows: dict[str, list[int]] = {}
        nodes = {node.output: node for node in self.graph.nodes}
        for number, step in enumerate(self.program.steps):
            rows.setdefault(step.node.output, []).append(number)
            if step.node.op == "bands":
                nodes[step.node.output] = step.node
        for output, numbers in rows.items():
            yield nodes[output], numbers

    def kernel(self, rows: list[int]) -> str:
        """The names of the kernels of a node's steps."""
        return " + ".join(dict.fromkeys(tile_name(self.program.steps[row]) for row in rows))

    def shapes(self, node: Node) -> str:
        """First input and output; a second input has the shape of the output, or is its gate."""
        first, last = ("x".join(map(str, self.program.shapes[name])) for name in (node.inputs[0], node.output))
        second = node.op in ("conv2d", "linear", "bands") and len(node.inputs) - bool(node.attributes.get("gated")) > 1
        return f"{first} -> {last}{' residual' if second else ''}{' gated' if node.attributes.get('gated') else ''}"

    def key(self, node: Node, rows: list[int]) -> tuple:
        """What makes a row of the report: nodes with the same key run the same kernels on the same shapes."""
        tensors = tuple((role, self.tensors[name].shape) for role, name in node.tensors.items())
        # The kernel's name has the activation, as far as it is not data; weights tell the parts of bands.
        left_out = ("activation", "parts")
        attributes = tuple((name, value) for name, value in node.attributes.items() if name not in left_out)
        return self.kernel(rows), self.shapes(node), tensors, attributes

    def inputs(self, node: Node) -> list[np.ndarray]:
        """What a node reads, as the kernels left it."""
        return [self.x if name == self.graph.input else self.program.give(name) for name in node.inputs]

    def error(self, node: Node) -> float:
        """Largest difference from the operator's meaning in float64, relative to the largest value."""
        x, *others = (value.astype(np.float64) for value in self.inputs(node))
        *first, last = node.attributes.get("parts", (node,))
        for part in first:
            x = ops.apply(part, [x], self.tensors)
        expected = ops.apply(last, [x, *others], self.tensors)
        return float(np.abs(self.program.give(node.output) - expected).max() / np.abs(expected).max())

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


class Machine:
    """The machine's limits, measured on a team's threads whenever they are asked for."""

    def __init__(self, threads: int):
        machine = target.host()
        self.threads, self.team = threads, runtime.team(threads)
        self.known = limits.measured(runtime.default_threads())
        lanes, chains = machine.lanes, peak.CHAINS[machine.registers]
        self.out = np.zeros(64 * 16 * threads, np.float32)
        self.steps = 40_000
        self.flops = 2.0 * self.steps * chains * lanes * threads
        self.peak = self._table(("peak", lanes, machine.registers), self.steps, self.out.ctypes.data)
        sizes = {"L2": self.known.l2_bytes // 2, "L3": self.known.l3_bytes // 2 // threads,
                 "memory": 4 * self.known.l3_bytes // threads}  # fmt: skip
        self.buffer = np.ones(max(sizes.values()) // 4 * threads, np.float32)
        self.reads = {}
        for name, size in sizes.items():
            size -= size % 4096
            repeats = max(1, (1 << 25) // size)
            row = self.buffer.ctypes.data, size, repeats, self.out.ctypes.data
            self.reads[name] = self._table(("read", lanes), *row), size * repeats * threads

    @staticmethod
    def _table(kernel: tuple, *arguments: int) -> np.ndarray:
        table = np.zeros((1, program.WORDS), np.int64)
        table[0, : 1 + len(arguments)] = library.addresses([kernel])[kernel], *arguments
        table[0, -1] = 1
        return table

    def gflops(self) -> float:
        return self.flops / timed(self.team, self.peak) / 1e9

    def gbs(self, name: str) -> float:
        table, size = self.reads[name]
        return size / timed(self.team, table) / 1e9


def measure(bench: Bench, machine: Machine, rows: list[int], rounds: int) -> dict:
    """Times and limit of one node's steps."""
    steps = [bench.program.steps[row] for row in rows]
    flops, moved = sum(step.flops for step in steps), sum(step.bytes for step in steps)
    memory = level(machine.known, moved, bench.threads)
    table, repeats = bench.call(rows)
    times, peaks, rates = [], [], []
    for _ in range(rounds):
        *_, seconds = (timed(bench.team, table) for _ in range(WARM))
        times.append(seconds / repeats)
        peaks.append(machine.gflops())
        rates.append(machine.gbs(memory))
    best, needs = min(times), {"compute": flops / max(peaks) / 1e9, memory: moved / max(rates) / 1e9}
    limit = max(needs, key=needs.get)
    return dict(
        best=best * 1e6,
        median=statistics.median(times) * 1e6,
        gflops=flops / best / 1e9,
        gbs=moved / best / 1e9,
        percent=100 * needs[limit] / best,
        limit=limit,
    )


def networks(models: list[str], batch: int) -> Iterator[tuple[str, Graph, dict, tuple[int, ...]]]:
    """(name, optimised graph, tensors, input shape) of each network, with random weights."""
    for name in models:
        model = create_model(name, "random")
        graph, tensors = passes.optimise(model.graph, model.tensors)
        yield name, graph, tensors, (batch, 3, *ARCHITECTURES[name].preprocessing.crop)


def products(shapes=GEMM) -> Iterator[tuple[str, Graph, dict, tuple[int, ...]]]:
    """Each matrix product as a network of one linear layer."""
    generator = np.random.default_rng(0)
    for rows, depth, columns in shapes:
        net = Builder(depth)
        y = net.linear(net.input, f"{rows}x{depth}x{columns}", columns)
        graph = net.finish(y, y)
        scale = np.float32(depth**-0.5)
        tensors = {name: generator.standard_normal(s, np.float32) * scale for name, s in graph.parameters.items()}
        yield "gemm", graph, tensors, (1, rows, depth)


def results(sources, threads: int, rounds: int, text: str, peers: dict[str, Callable]) -> Iterator[Result]:
    """A Result for every distinct kernel and shape of the networks; `text` has to occur in kernel, kind or layer."""
    machine, seen = Machine(threads), set()
    for network, graph, tensors, shape in sources:
        for bench, node, rows in _nodes(graph, tensors, shape, threads):
            key, kernel = bench.key(node, rows), bench.kernel(rows)
            what = kind(bench.program.steps[rows[0]], tensors)
            if key in seen or not any(text in part for part in (kernel, what, node.output)):
                continue
            seen.add(key)
            bench.run()
            error = bench.error(node)
            times = measure(bench, machine, rows, rounds)
            others = {name: peer(node, bench.tensors, bench.inputs(node)) for name, peer in peers.items()}
            yield Result(
                network, node.output, kernel, bench.shapes(node), threads, shape[0], **times, error=error,
                passed=bool(error <= TOLERANCE), peers=others,
            )  # fmt: skip


def _nodes(graph: Graph, tensors: dict, shape: tuple[int, ...], threads: int):
    """(bench, node, rows of its steps): every node by itself, then those that the network's own plan has in bands."""
    bench = Bench(graph, tensors, shape, threads)
    yield from ((bench, *found) for found in bench.nodes())
    steps = make_program(graph, tensors, shape, threads, bench.packed).steps
    bands = [step.node for step in steps if step.node.op == "bands"]
    if bands:
        bench = Bench(
            graph, tensors, shape, threads, {part.output for node in bands for part in node.attributes["parts"][:-1]}
        )
        yield from ((bench, *found) for found in bench.nodes() if found[0].op == "bands")


def show(result: Result, header: bool) -> None:
    if header:
        peers = "".join(f" {name[:11]:>11}" for name in result.peers)
        print(
            f"\n{'kernel':64} {'shapes':40} {'thr':>3} {'best us':>9} {'median':>9} {'GFLOP/s':>8} {'GB/s':>7} "
            f"{'of limit':>8} {'limit':7} {'error':>8}{peers}"
        )
    peers = "".join(f" {micros:11.1f}" for micros in result.peers.values())
    print(
        f"{result.kernel:64} {result.shapes:40} {result.threads:3} {result.best:9.1f} {result.median:9.1f} "
        f"{result.gflops:8.1f} {result.gbs:7.1f} {result.percent:7.0f}% {result.limit:7} {result.error:8.1e}{peers}"
        f"{'' if result.passed else '  WRONG'}",
        flush=True,
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=ARCHITECTURES, metavar="MODEL")
    parser.add_argument("--batch-sizes", nargs="+", type=positive, default=[1], metavar="N")
    parser.add_argument("--threads", nargs="+", type=positive, default=[1, 2], metavar="T")
    parser.add_argument("--against", nargs="+", default=[], choices=("torch", "onnxruntime"))
    parser.add_argument("--gemm", action="store_true", help="matrix products instead of networks")
    parser.add_argument("--filter", default="", metavar="TEXT", help="rows with TEXT in kernel, kind or layer")
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(argv)
    rows: list[Result] = []
    for threads in options.threads:
        for batch in options.batch_sizes:
            sources = products() if options.gemm else networks(options.models, batch)
            peers = {}
            if options.against:
                try:
                    from .operators import PEERS

                    peers = {name: PEERS[name](threads) for name in options.against}
                except ImportError as error:
                    parser.error(f"{error.name} is not installed: pip install nanoinfer[bench]")
            for number, result in enumerate(results(sources, threads, options.rounds, options.filter, peers)):
                show(result, number == 0)
                rows.append(result)
            if options.gemm:
                break  # a row of a product is a pixel or token: there is no batch
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=1))
    wrong = [row for row in rows if not row.passed]
    for row in wrong:
        print(f"bench.kernels: wrong result: {row.kernel}, {row.shapes}: error {row.error:.1e}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
