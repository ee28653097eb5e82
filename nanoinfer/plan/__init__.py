"""The plan: graph and input shape to a program.

    Graph, tensors, input shape, Machine -> make_plan -> Plan -> make_program -> Program

A Plan says how work and memory are divided: shapes, shards of the batch, fused blocks, offsets, how many images run at
a time. A Program adds addresses: steps, packed weights, native code. Read `memory` (lifetimes to offsets), `prefetch`
(which step prefetches what), `program` (steps to int64 rows).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .. import runtime
from ..graph import Graph, ops
from ..kernels import kernel_name
from ..kernels.jit import library
from ..kernels.packing import Packing
from ..kernels.program import BARRIER, WORDS
from ..lowering import LOWERINGS, Context, Step, fusion, lower, strassen
from ..lowering.layout import TensorView, aligned_empty, ceil_div, nchw, nhwc
from ..lowering.packed import PackedWeights, Staging
from ..machine import Machine
from . import memory
from .prefetch import schedule_prefetch
from .program import Encoder, Program, encode_row, specs

__all__ = ["Plan", "Program", "make_plan", "make_program"]

Tensors = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """How a network runs for one input shape; nothing in it is an address.

    A batch that divides among the threads is cut into shards, one for each: then no thread waits for another, and each
    reads from its own caches only. Otherwise there is one shard, and the threads share every step of every image.
    """

    graph: Graph  # with fused blocks
    input_shape: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]  # of all values, of one shard
    shards: int
    threads: int  # of a shard
    reads_input_in_place: bool
    memory: memory.Memory  # of one shard
    machine: Machine

    @cached_property
    def micro_batch(self) -> int:
        """How many images of the batch to run at a time: as many as keep their activations in L3.

        More would make every step wait for memory; fewer would read the weights more often than needed.
        """
        images, threads = self.input_shape[0], self.shards * self.threads
        unit = threads if images >= threads else 1  # images: a whole number for each thread
        room = self.machine.tuning.activation_share * self.machine.l3_bytes
        room -= threads * self.memory.thread_workspace_bytes
        image_bytes = self.memory.activation_bytes * self.shards / images
        units, most_units = images // unit, max(1, int(room / image_bytes) // unit)
        # As few micro-batches as there must be, each as small as that number permits.
        return ceil_div(units, ceil_div(units, most_units)) * unit


def make_plan(graph: Graph, tensors: Tensors, input_shape: tuple[int, ...], *, threads: int, machine: Machine) -> Plan:
    """Plan `graph` for one input shape and number of threads. ValueError where the network cannot take the shape."""
    images, *size = input_shape
    shards = threads if images % threads == 0 else 1
    known = {name: tensor.shape for name, tensor in tensors.items()}
    shapes = ops.infer_shapes(graph, (images // shards, *size), known)
    in_place = _reads_input_in_place(graph, shapes, machine)
    graph = fusion.fuse(graph, shapes, tensors, machine, threads // shards)
    needs = memory.buffers(graph, shapes, machine, threads // shards, in_place)
    return Plan(
        graph=graph,
        input_shape=input_shape,
        shapes=shapes,
        shards=shards,
        threads=threads // shards,
        reads_input_in_place=in_place,
        memory=memory.lay_out(needs, threads // shards),
        machine=machine,
    )


def make_program(plan: Plan, tensors: Tensors, packed: PackedWeights, *, progress: Progress | None = None) -> Program:
    """Native code, packed weights and memory for a plan; `tensors` are those that it was made with.

    `packed` keeps packed weights between calls, so that all programs of a model share them. `progress(done, total)` is
    told of kernel compilations.
    """
    arena = aligned_empty(plan.shards * plan.memory.bytes // 4)
    staging = Staging(packed)
    shards = [_lower_shard(plan, tensors, staging, arena, number) for number in range(plan.shards)]
    table, encoder = _encode([steps for steps, _ in shards], plan, progress)
    _pack(staging, plan)
    staging.commit()
    (steps, views), *_ = shards
    return Program(
        table=table,
        shards=plan.shards,
        steps=[_of_all_shards(step, plan.shards) for step in steps],
        shapes={name: (plan.shards * images, *size) for name, (images, *size) in plan.shapes.items()},
        arena=arena,
        offsets=plan.memory.offsets,
        input=views[plan.graph.input],
        outputs={name: views[name] for name in plan.graph.outputs},
        input_rows=encoder.input_rows,
        tables=encoder.tables,
        packed=packed,
    )


def _reads_input_in_place(graph: Graph, shapes: Mapping, machine: Machine) -> bool:
    """Whether all that reads the input can take torch's layout: dense convolutions."""
    return (
        len(shapes[graph.input]) == 4
        and graph.input not in graph.outputs
        and all(
            node.op == "conv2d"
            and node.attributes["groups"] == 1
            and graph.input not in node.inputs[1:]
            and not node.attributes.get("gated")  # a gate may scale a copy of the input
            and not strassen.applies(node, shapes, machine)
            for node in graph.consumers()[graph.input]
        )
    )


def _lower_shard(
    plan: Plan, tensors: Tensors, staging: Staging, arena: np.ndarray, number: int
) -> tuple[list[Step], dict[str, TensorView]]:
    """(steps, views of all values) of one shard, in its part of the arena."""
    base, layout = arena.ctypes.data + number * plan.memory.bytes, plan.memory
    context = Context(
        machine=plan.machine,
        threads=plan.threads,
        shapes=plan.shapes,
        tensors=tensors,
        staging=staging,
        views=_views(plan, base, number),
        workspaces={name: base + offset for name, offset in layout.workspace_offsets.items()},
        thread_workspace=base + layout.thread_workspace_offset,
        thread_workspace_bytes=layout.thread_workspace_bytes,
    )
    steps = [step for node in plan.graph.nodes for step in lower(node, context)]
    schedule_prefetch(steps, plan.threads, plan.machine.tuning)
    return steps, context.views


def _views(plan: Plan, base: int, number: int) -> dict[str, TensorView]:
    """Where all values of a shard lie; an input that is read in place lies at an offset from the caller's array."""
    graph, shapes = plan.graph, plan.shapes
    views = {name: nhwc(shapes[name], plan.machine, base + at) for name, at in plan.memory.offsets.items()}
    if plan.reads_input_in_place:
        shape = shapes[graph.input]
        views[graph.input] = nchw(shape, number * 4 * math.prod(shape))
    for node in graph.nodes:
        if view := LOWERINGS[node.op].view:
            views[node.output] = view(node, shapes[node.output], views[node.inputs[0]])
    return views


def _encode(shards: list[list[Step]], plan: Plan, progress: Progress | None) -> tuple[np.ndarray, Encoder]:
    """(the table of a program, what it points to). All shards call the same kernels."""
    kernels = library.addresses(specs(shards[0]), progress)
    encoder = Encoder(kernels, plan.graph.input if plan.reads_input_in_place else None)
    table = np.zeros((len(shards), len(shards[0]), WORDS), np.int64)
    for own, steps in zip(table, shards, strict=True):
        encoder.fill(own, steps)
    if len(shards) == 1 or not shards[0]:  # a network of views has no steps
        return table[0], encoder
    table[..., BARRIER] = 0  # a shard has no barriers but the one at its end
    table[:, -1, BARRIER] = 1
    return table, encoder


def _of_all_shards(step: Step, shards: int) -> Step:
    """A step of one shard with what it costs on all; weights are read once."""
    moved = step.weight_bytes + shards * (step.bytes - step.weight_bytes)
    return replace(step, flops=shards * step.flops, bytes=moved)


def _pack(staging: Staging, plan: Plan) -> None:
    """Pack staged weights on the thread team, a few at a time: the unpacked ones go before the next are read."""
    if not staging.requests:
        return
    kernel, threads = library.addresses([Packing()])[kernel_name(Packing())], plan.shards * plan.threads
    weights, table, size, pack_bytes = [], [], 0, plan.machine.tuning.pack_bytes
    for request, following in zip(staging.requests, [*staging.requests[1:], None], strict=True):
        weights.append(np.ascontiguousarray(request.source()))
        table.append(np.zeros(WORDS, np.int64))
        encode_row(table[-1], kernel, request.instruction(weights[-1], staging.address(request.key)), True)
        size += request.bytes
        # A weight that is packed several times, for the products of Strassen's scheme, is read once.
        if following is None or (size >= pack_bytes and following.key.tensor != request.key.tensor):
            runtime.team(threads).run(np.stack(table))
            weights, table, size = [], [], 0
