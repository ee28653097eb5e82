"""Which memory each value has: lifetimes, read off the order of nodes, to offsets in one arena.

`buffers` reads sizes and lifetimes off a graph, `assign_offsets` is a pure function of them.
"""

from __future__ import annotations

from typing import NamedTuple

from ..graph import Graph
from ..lowering import LOWERINGS, Shapes
from ..lowering.layout import ALIGNMENT, nhwc, round_up
from ..machine import Machine

BEFORE = -1  # the input is there before node 0
THREAD_WORKSPACES = "thread workspaces"  # the name of a buffer


def assign_offsets(sizes: dict[str, int], lifetimes: dict[str, tuple[int, int]]) -> tuple[dict[str, int], int]:
    """({buffer: offset}, total bytes): no two buffers whose lifetimes meet overlap; offsets are 128-byte multiples.

    A lifetime is (first node, last node) by number, both included. Largest first, among these the longest-lived first,
    each into the lowest gap that it fits.
    """
    offsets: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], lifetimes[name][0] - lifetimes[name][1])):
        first, last = lifetimes[name]
        busy = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if lifetimes[other][0] <= last and first <= lifetimes[other][1]
        )
        offset = 0
        for start, end in busy:
            if offset + sizes[name] <= start:
                break
            offset = max(offset, round_up(end, ALIGNMENT))
        offsets[name] = offset
    return offsets, max((offsets[name] + sizes[name] for name in sizes), default=0)


class Memory(NamedTuple):
    """One shard's part of the arena: offsets and sizes in bytes."""

    offsets: dict[str, int]  # of values
    workspace_offsets: dict[str, int]  # of memory that nodes need beside their outputs, by output
    thread_workspace_offset: int  # of the first thread's
    thread_workspace_bytes: int  # of each thread
    threads: int  # that share the part
    bytes: int  # of all

    @property
    def activation_bytes(self) -> int:
        """All but the workspaces of threads."""
        return self.bytes - self.threads * self.thread_workspace_bytes


class Buffers(NamedTuple):
    """What a shard needs memory for; sizes are in bytes."""

    values: dict[str, int]
    workspaces: dict[str, int]  # by the output of their node
    thread_workspace_bytes: int  # of each thread
    lifetimes: dict[str, tuple[int, int]]  # of all, by number of node; a workspace is under "OUTPUT workspace"


def buffers(graph: Graph, shapes: Shapes, machine: Machine, threads: int, in_place: bool) -> Buffers:
    """One for each value that is no view of another; the network's input has none if it is read `in_place`."""
    lifetimes, values = _value_buffers(graph, shapes, machine, in_place)
    workspaces, thread_bytes = {}, 0
    for number, node in enumerate(graph.nodes):
        lowering = LOWERINGS[node.op]
        if lowering.workspace_bytes and (size := lowering.workspace_bytes(node, shapes, machine)):
            workspaces[node.output] = size
            lifetimes[_workspace(node.output)] = number, number
        if lowering.thread_workspace_bytes:
            thread_bytes = max(thread_bytes, lowering.thread_workspace_bytes(node, shapes, machine))
    if threads > 1:
        _delay_reuse(values | {_workspace(name): size for name, size in workspaces.items()}, lifetimes, machine)
    # A thread's workspace stays where it is from the first step to the last: what the thread wrote there is in its own
    # cache, while memory that another thread wrote last has to be fetched from that one's.
    lifetimes[THREAD_WORKSPACES] = BEFORE, len(graph.nodes)
    return Buffers(values, workspaces, round_up(thread_bytes, ALIGNMENT), lifetimes)


def lay_out(needs: Buffers, threads: int, guard: int = 0) -> Memory:
    """Offsets for all buffers, with `guard` bytes that nobody owns on both sides of each."""
    sizes = needs.values | {_workspace(name): size for name, size in needs.workspaces.items()}
    sizes[THREAD_WORKSPACES] = threads * needs.thread_workspace_bytes
    offsets, total = assign_offsets({name: size + 2 * guard for name, size in sizes.items()}, needs.lifetimes)
    return Memory(
        offsets={name: offsets[name] + guard for name in needs.values},
        workspace_offsets={name: offsets[_workspace(name)] + guard for name in needs.workspaces},
        thread_workspace_offset=offsets[THREAD_WORKSPACES] + guard,
        thread_workspace_bytes=needs.thread_workspace_bytes,
        threads=threads,
        bytes=round_up(total, ALIGNMENT),
    )


def _workspace(output: str) -> str:
    """The name of a node's workspace among the buffers; it has a space, so it is the name of no value."""
    return f"{output} workspace"


def _value_buffers(graph: Graph, shapes: Shapes, machine: Machine, in_place: bool) -> tuple[dict, dict[str, int]]:
    """({value: lifetime}, {value: bytes}) of all values that own memory; a view lives in its owner's."""
    owner = {graph.input: graph.input}
    lifetimes = {graph.input: (BEFORE, BEFORE)}
    sizes = {} if in_place else {graph.input: nhwc(shapes[graph.input], machine).bytes}
    for number, node in enumerate(graph.nodes):
        for name in node.inputs:
            first, _ = lifetimes[owner[name]]
            lifetimes[owner[name]] = first, number
        if LOWERINGS[node.op].view:
            owner[node.output] = owner[node.inputs[0]]
        else:
            owner[node.output] = node.output
            lifetimes[node.output] = number, number
            sizes[node.output] = nhwc(shapes[node.output], machine).bytes
    for name in graph.outputs:
        first, _ = lifetimes[owner[name]]
        lifetimes[owner[name]] = first, len(graph.nodes)
    return lifetimes, sizes


def _delay_reuse(sizes: dict[str, int], lifetimes: dict[str, tuple[int, int]], machine: Machine) -> None:
    """Let small memory rest for some nodes after its last use.

    Another thread has just read it, so that whoever writes it next would have to fetch it from that thread's cache.
    """
    tuning = machine.tuning
    for name, size in sizes.items():
        if size <= tuning.reuse_delay_below * machine.l2_bytes:
            first, last = lifetimes[name]
            lifetimes[name] = first, last + tuning.reuse_delay
