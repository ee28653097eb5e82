"""Which memory each value of a graph has: lifetimes, read off the order of nodes, to one arena."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..graph import Graph
from ..lowering import fusion as bands
from ..lowering import step as lowering
from ..lowering import strassen
from ..lowering.layout import VIEWS, nhwc
from ..lowering.step import SCRATCH
from ..machine import target
from ..machine.roofline import cache_sizes
from . import memory

REST = 2  # nodes for which memory that threads share is left alone after its last use, if it is small
SMALL = 0.5  # of a core's L2 cache: larger values are not in it any more when they are overwritten
PRIVATE = {**lowering.PRIVATE, **strassen.PRIVATE, **bands.PRIVATE}


@dataclass(frozen=True)
class Memory:
    """Offsets and sizes in bytes."""

    offsets: dict[str, int]  # of values
    scratch: dict[str, int]  # of what nodes need beside their output, by output
    private: int  # of the first thread's private memory
    private_bytes: int  # of each thread's
    bytes: int  # of all


def lay_out(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]], machine: target.Target, threads: int, in_place: bool
) -> Memory:
    """Memory for every value that is no view of another, but for the input if that is read `in_place`.

    Private memory stays where it is from the first step to the last: what a thread wrote there is in its own cache,
    while memory that another thread wrote last has to be fetched from that one's. The same goes for memory that another
    thread has just read; so a small value's rests before it is used again.
    """
    owner = {graph.input: graph.input}  # a view lives in its owner's memory
    lifetimes: dict[str, tuple[int, int]] = {graph.input: (-1, -1)}
    sizes: dict[str, int] = {} if in_place else {graph.input: nhwc(shapes[graph.input], 0, machine.lanes).bytes}
    scratch_sizes, private = {}, 0
    for number, node in enumerate(graph.nodes):
        for name in node.inputs:
            first, _ = lifetimes[owner[name]]
            lifetimes[owner[name]] = (first, number)
        owner[node.output] = owner[node.inputs[0]] if node.op in VIEWS else node.output
        if node.op not in VIEWS:
            lifetimes[node.output] = (number, number)
            sizes[node.output] = nhwc(shapes[node.output], 0, machine.lanes).bytes
        if node.op in SCRATCH and (scratch_bytes := SCRATCH[node.op](node, shapes, machine)):
            lifetimes[f"{node.output} scratch"] = (number, number)
            scratch_sizes[f"{node.output} scratch"] = scratch_bytes
        if node.op in PRIVATE:
            private = max(private, PRIVATE[node.op](node, shapes, machine))
    for name in graph.outputs:
        first, _ = lifetimes[owner[name]]
        lifetimes[owner[name]] = (first, len(graph.nodes))
    if threads > 1:
        for name, size in (sizes | scratch_sizes).items():
            if size <= SMALL * cache_sizes()[1]:
                lifetimes[name] = (lifetimes[name][0], lifetimes[name][1] + REST)
    private = -(-private // memory.ALIGNMENT) * memory.ALIGNMENT
    lifetimes["private memory"] = (-1, len(graph.nodes))  # with a space: the name of no value
    offsets, total = memory.place({**sizes, **scratch_sizes, "private memory": threads * private}, lifetimes)
    return Memory(
        {name: offsets[name] for name in sizes},
        {name.removesuffix(" scratch"): offsets[name] for name in scratch_sizes},
        offsets["private memory"],
        private,
        -(-total // memory.ALIGNMENT) * memory.ALIGNMENT,
    )
