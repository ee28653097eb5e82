"""Every kernel at every shape that networks really use: time, rate, share of the machine's limit, and error.

    python -m bench.kernels [--models M ...] [--batch-sizes N ...] [--threads T ...] [--against torch onnxruntime]
    python -m bench.kernels --gemm          the matrix products that engines are usually compared by

Rows come from the networks' own plans. A plan is made in which every value is an output, so that no memory is used
twice and each step can be run again alone: a program of this one step, repeated to about a millisecond, is timed.
Convolutions that are fused have rows of their own; the fused blocks follow, from a plan in which only the values within
blocks are no outputs.
A round times every step of a network (the last of a few calls), each followed by the machine's peak and its bandwidth
on the same threads: a slow phase of the machine hits them alike, and costs each step a few rounds rather than one step
all of them. Of the two shares of the limit, the first holds the best of each against each other; the median is that of
the rounds, each by its own limits. Each result is compared with the reference of its operator in float64, within
the tolerance of its kernel; a wrong one ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nanoinfer import create_model
from nanoinfer.architectures import MODELS as ARCHITECTURES
from nanoinfer.cli.network import positive
from nanoinfer.graph import Builder, Graph, passes
from nanoinfer.machine import Machine, host
from nanoinfer.plan import make_plan
from nanoinfer.reports.measure import kind

from .models import MODELS
from .steps import Bench, Limits, Row

# (rows, depth, columns): pixels or tokens, input and output channels of pointwise convolutions and linear layers.
GEMM = (
    (3136, 24, 144), (784, 48, 288), (196, 88, 528), (196, 528, 88), (49, 224, 1344), (49, 1344, 224),
    (50, 768, 3072), (50, 3072, 768), (400, 768, 3072), (3136, 256, 128), (784, 256, 512), (196, 1024, 512),
    (49, 2048, 1024),
)  # fmt: skip


@dataclass
class Result:
    """One kernel at one shape. Times are microseconds; `peers` holds those of other engines by name.

    `percent` is the limit's share of the best time, `median_percent` the median of the rounds' own shares.
    """

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
    median_percent: float
    limit: str
    error: float
    passed: bool
    peers: dict[str, float]


def networks(models: list[str], batch: int) -> Iterator[tuple[str, Graph, dict, tuple[int, ...]]]:
    """(name, optimised graph, tensors, input shape) of each network, with random weights."""
    for name in models:
        model = create_model(name, "random")
        wide = host().tuning.numerics.strassen_channels
        graph, tensors = passes.optimise(model.graph, model.tensors, wide=wide)
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


def results(
    groups, limits: Limits, rounds: int, *, text: str = "", peers: dict[str, Callable] | None = None,
    machine: Machine | None = None,
) -> Iterator[Result]:  # fmt: skip
    """A Result for every distinct kernel and shape of the networks; `text` has to occur in kernel, kind or layer.

    A round goes through all networks of a group; their memory goes with the group.
    """
    seen = set()
    for group in groups:
        rows = list(_rows(group, limits, seen, text, peers or {}, machine))
        for _ in range(rounds):
            for row, *_ in rows:
                row.round()
        for row, about, known in rows:
            yield Result(*about, **row.result(), **known)


def _rows(
    group, limits: Limits, seen: set, text: str, peers: dict[str, Callable], machine: Machine | None
) -> Iterator[tuple[Row, tuple, dict]]:
    """(row, what it is about, what is known of it without time) of all that is wanted and not `seen` yet."""
    for network, graph, tensors, shape in group:
        for bench, node, numbers in _nodes(graph, tensors, shape, limits.threads, machine):
            key, kernel = bench.key(node, numbers), bench.kernel(numbers)
            what = kind(bench.program.steps[numbers[0]], tensors)
            if key in seen or not any(text in part for part in (kernel, what, node.output)):
                continue
            seen.add(key)
            bench.run()
            error = bench.error(node)
            others = {name: peer(node, bench.tensors, bench.inputs(node)) for name, peer in peers.items()}
            about = (network, node.output, kernel, bench.shapes(node), limits.threads, shape[0])
            known = dict(error=error, passed=bool(error <= bench.tolerance(numbers)), peers=others)
            yield Row(bench, limits, numbers), about, known


def _nodes(graph: Graph, tensors: dict, shape: tuple[int, ...], threads: int, machine: Machine | None):
    """(bench, node, rows of its steps): every node by itself, then those that the network's own plan fuses."""
    machine = machine or host()
    bench = Bench(graph, tensors, shape, threads=threads, machine=machine)
    yield from ((bench, *found) for found in bench.nodes())
    fused = [
        n for n in make_plan(graph, tensors, shape, threads=threads, machine=machine).graph.nodes if n.op == "fused"
    ]
    if fused:
        inner = {part.output for node in fused for part in node.attributes["parts"][:-1]}
        bench = Bench(graph, tensors, shape, threads=threads, machine=machine, inner=inner)
        yield from ((bench, *found) for found in bench.nodes() if found[0].op == "fused")


def show(result: Result, header: bool) -> None:
    if header:
        peers = "".join(f" {name[:11]:>11}" for name in result.peers)
        print(
            f"\n{'kernel':64} {'shapes':40} {'thr':>3} {'best us':>9} {'median':>9} {'GFLOP/s':>8} {'GB/s':>7} "
            f"{'of limit':>8} {'median':>6} {'limit':7} {'error':>8}{peers}"
        )
    peers = "".join(f" {micros:11.1f}" for micros in result.peers.values())
    print(
        f"{result.kernel:64} {result.shapes:40} {result.threads:3} {result.best:9.1f} {result.median:9.1f} "
        f"{result.gflops:8.1f} {result.gbs:7.1f} {result.percent:7.0f}% {result.median_percent:5.0f}% "
        f"{result.limit:7} {result.error:8.1e}{peers}"
        f"{'' if result.passed else '  WRONG'}",
        flush=True,
    )


def main(argv: list[str] | None = None, machine: Machine | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=ARCHITECTURES, metavar="MODEL")
    parser.add_argument("--batch-sizes", nargs="+", type=positive, default=[1], metavar="N")
    parser.add_argument("--threads", nargs="+", type=positive, default=[1, 2], metavar="T")
    parser.add_argument("--against", nargs="+", default=[], choices=("torch", "onnxruntime"))
    parser.add_argument("--gemm", action="store_true", help="matrix products instead of networks")
    parser.add_argument("--filter", default="", metavar="TEXT", help="rows with TEXT in kernel, kind or layer")
    parser.add_argument("--rounds", type=positive, default=25)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(argv)
    rows: list[Result] = []
    for threads in options.threads:
        for batch in options.batch_sizes:
            groups = [products()] if options.gemm else ([network] for network in networks(options.models, batch))
            peers = {}
            if options.against:
                try:
                    from .operators import PEERS

                    peers = {name: PEERS[name](threads) for name in options.against}
                except ImportError as error:
                    parser.error(f"{error.name} is not installed: pip install nanoinfer[bench]")
            found = results(
                groups, Limits(threads), options.rounds, text=options.filter, peers=peers, machine=machine
            )  # fmt: skip
            for number, result in enumerate(found):
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
