"""The plan: graph and input shape to a Program.

Every value gets a place in one arena, every node its steps, every step an int64 row; kernels are compiled or loaded.
A Program can be run any number of times, by one caller at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .. import runtime
from ..graph import Graph, ops
from ..kernels import KERNELS, kernel_name, program
from ..kernels.convolution import REGION
from ..kernels.jit import library
from ..lowering import fusion as bands
from ..lowering import loop_nest as product
from ..lowering import step as lowering
from ..lowering import strassen
from ..lowering.layout import VIEWS, Packed, Place, aligned_empty, nchw, nhwc
from ..lowering.step import Context, Step
from ..machine import target
from ..machine.roofline import cache_sizes
from . import arena
from . import prefetch as streaming

L3_SHARE = 0.3  # of the L3 cache for activations; the rest is for weights, and for others
PACK_BYTES = 8 << 20  # read and written between two releases
INPUT = 1 + KERNELS["convolution"].fields.index("x")
LOWER = {**lowering.STEPS, **product.STEPS, **strassen.STEPS, **bands.STEPS}
Progress = Callable[[int, int], None]


@dataclass
class Program:
    """A table of int64 rows, the memory that they address, and where input and outputs lie.

    The threads share every image, in one table (steps, words); or each has images of its own, in a table and a part of
    the arena of its own: `ways` of both. Offsets and places are those of the first.

    The input is read where the caller holds it if a convolution can take torch's layout: `reads_input` lists tables,
    their rows with its address, and what each adds to it. Otherwise `reads_input` is empty and the input is copied into
    the arena first.
    """

    table: np.ndarray
    ways: int
    steps: list[Step]
    shapes: dict[str, tuple[int, ...]]
    arena: np.ndarray
    offsets: dict[str, int]
    input: Place
    outputs: dict[str, Place]
    reads_input: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    tables: list[np.ndarray]  # what rows point to
    packed: Packed  # weights and constants; shared with other programs of the model

    def __post_init__(self):
        self._output_views = {name: self._view(place)[..., : place.channels] for name, place in self.outputs.items()}

    def take(self, x: np.ndarray) -> None:
        """Make x, C-contiguous float32 of the planned shape, the input of the next run; x must outlive that run."""
        for table, rows, offsets in self.reads_input:
            table[rows, INPUT] = x.ctypes.data + offsets
        if not self.reads_input:
            view = self._view(self.input)
            view[...] = 0
            pixels = np.moveaxis(x, 1, -1) if x.ndim == 4 else x
            view[..., : self.input.channels] = pixels.reshape(*view.shape[:-1], -1)

    def give(self, name: str) -> np.ndarray:
        """A copy of an output in torch's layout."""
        pixels = self._output_views[name]
        if len(self.outputs[name].shape) == 4:
            pixels = pixels.swapaxes(-1, -2)
        return pixels.copy(order="C").reshape(self.shapes[name])

    def _view(self, place: Place) -> np.ndarray:
        """(ways, images, pixels, padded channels) of a value in the arena."""
        first = self.arena[(place.address - self.arena.ctypes.data) // 4 :]
        width = -(-place.channels * 4 // place.pixel) * place.pixel // 4
        shape, way = (self.ways, place.shape[0], place.pixels, width), self.arena.nbytes // self.ways
        return np.lib.stride_tricks.as_strided(first, shape, (way, place.image, place.pixel, 4))

    def __str__(self) -> str:
        lines = [f"{'step':>4} {'kernel':34} {'output':52} {'shape':20} {'MFLOP':>9} {'KiB':>9} {'offset':>10}"]
        for number, step in enumerate(self.steps):
            name = step.node.output
            shape, mflop = "x".join(str(n) for n in self.shapes[name]), step.flops / 1e6
            offset, kib, kernel = self.offsets.get(name, 0), step.bytes / 1024, tile_name(step)
            lines.append(f"{number:4} {kernel:34} {name:52} {shape:20} {mflop:9.3f} {kib:9.1f} {offset:10}")
        total = sum(step.flops for step in self.steps) / 1e6
        lines.append(f"{len(self.steps)} steps, {total:.1f} MFLOP, arena {self.arena.nbytes / 2**20:.2f} MiB")
        return "\n".join(lines)


def tile_name(step: Step) -> str:
    """The kernel that does a step's work: the largest tile for what runs in the convolution's loop nest."""
    regions = step.fields.get("regions")
    return kernel_name(max((r["tile"] for r in regions), key=lambda t: t[1]) if regions else step.kernel)


def make_program(
    graph: Graph,
    tensors: Mapping[str, np.ndarray],
    input_shape: tuple[int, ...],
    threads: int,
    packed: Packed,
    progress: Progress | None = None,
    machine: target.Target | None = None,
    release: Callable[[np.ndarray], None] | None = None,
) -> Program:
    """Plan `graph` for one input shape and team size.

    `packed` keeps packed weights between calls, so that all plans of a model share them. `progress(done, total)` is
    told of kernel compilations, `release(weight)` of every weight that has been packed. Raises ValueError where the
    network cannot take the shape.
    """
    machine = machine or target.host()
    sizes = {name: tensor.shape for name, tensor in tensors.items()}
    all_shapes = ops.infer_shapes(graph, input_shape, sizes)
    ways = _ways(input_shape, threads)
    shapes = ops.infer_shapes(graph, (input_shape[0] // ways, *input_shape[1:]), sizes)
    in_place = _reads_input_in_place(graph, shapes)
    graph = bands.group(graph, shapes, tensors, machine, threads // ways)
    memory = arena.lay_out(graph, shapes, machine, threads // ways, in_place)
    buffer = aligned_empty(ways * memory.bytes // 4)
    context = Context(machine, threads // ways, {}, shapes, tensors, packed, {}, memory.private_bytes)
    plans = []
    for way in range(ways):
        x = nchw(shapes[graph.input], way * 4 * math.prod(shapes[graph.input])) if in_place else None
        plans.append(_walk(graph, context, memory, buffer.ctypes.data + way * memory.bytes, x))
    (steps, places), *_ = plans
    table, tables, reads_input = _assemble([own for own, _ in plans], progress, graph.input if in_place else None)
    _pack(context.packing, threads, release)
    packed.update(context.fresh)  # not before their contents are there
    outputs = {name: places[name] for name in graph.outputs}
    return Program(
        table, ways, [_all_ways(step, ways) for step in steps], all_shapes, buffer, memory.offsets,
        places[graph.input], outputs, reads_input, tables, packed,
    )  # fmt: skip


def _walk(graph: Graph, context: Context, memory: arena.Memory, base: int, x: Place | None):
    """(steps, places of all values) of one way, whose part of the arena starts at `base`.

    x is where the caller holds the input, None if that is copied into the arena.
    """
    shapes, lanes = context.shapes, context.machine.lanes
    places = {graph.input: x} | {name: nhwc(shapes[name], base + at, lanes) for name, at in memory.offsets.items()}
    for node in graph.nodes:
        if node.op in VIEWS:
            places[node.output] = VIEWS[node.op](node, shapes[node.output], places[node.inputs[0]])
    scratch = {name: base + at for name, at in memory.scratch.items()}
    context = replace(context, places=places, scratch=scratch, private=base + memory.private)
    nodes = [node for node in graph.nodes if node.op in LOWER]
    steps = [step for node in nodes for step in lowering.count_bytes(node, context, LOWER[node.op](node, context))]
    streaming.look_ahead(steps, context.threads)
    return steps, places


def _ways(input_shape: tuple[int, ...], threads: int) -> int:
    """How many parts of a batch go separate ways, a thread each: as many as there are threads, where that comes out
    even. Then no thread waits for another, and each reads from its own caches only."""
    return threads if input_shape[0] % threads == 0 else 1


def _all_ways(step: Step, ways: int) -> Step:
    """A step of one way with what it costs on all; weights are read once."""
    moved = step.weight_bytes + ways * (step.bytes - step.weight_bytes)
    return replace(step, flops=ways * step.flops, bytes=moved)


def _pack(packing: list[Callable[[], Step]], threads: int, release: Callable[[np.ndarray], None] | None) -> None:
    """Pack weights on the team, a few at a time, so that the source of what is packed can go before the next comes."""
    steps = []
    for number, step in enumerate(packing, 1):
        steps.append(step())
        if number == len(packing) or sum(step.bytes for step in steps) >= PACK_BYTES:
            table, *_ = _assemble([steps])
            runtime.team(threads).run(table)
            for done in steps:
                if release:
                    release(done.keep)
            steps = []


def images_at_a_time(
    graph: Graph, tensors: Mapping[str, np.ndarray], input_shape: tuple[int, ...], threads: int
) -> int:
    """How many images of a batch to run together: as many as keep all activations in most of the L3 cache.

    More would make every step wait for memory; fewer would read the weights more often than needed.
    """
    shapes = ops.infer_shapes(graph, (1, *input_shape[1:]), {name: tensor.shape for name, tensor in tensors.items()})
    machine, in_place = target.host(), _reads_input_in_place(graph, shapes)
    images = input_shape[0]
    unit = threads if images >= threads else 1  # a whole number of images for each thread
    sharing = threads // unit
    graph = bands.group(graph, shapes, tensors, machine, sharing)
    memory = arena.lay_out(graph, shapes, machine, sharing, in_place)
    room = L3_SHARE * cache_sizes()[2] - threads * memory.private_bytes
    each = memory.bytes - sharing * memory.private_bytes
    most = max(1, int(room / each) // unit)
    units = images // unit
    return -(-units // -(-units // most)) * unit


def _reads_input_in_place(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether all that reads the input can take torch's layout: dense convolutions."""
    return (
        len(shapes[graph.input]) == 4
        and graph.input not in graph.outputs
        and all(
            node.op == "conv2d"
            and node.attributes["groups"] == 1
            and graph.input not in node.inputs[1:]
            and not node.attributes.get("gated")  # scales a copy of its input
            and not strassen.applies(node, shapes)
            for node in graph.consumers()[graph.input]
        )
    )


def _assemble(ways: list[list[Step]], progress: Progress | None = None, x: str | None = None):
    """(the int64 table of a program, the tables that it points to, where they read x: see Program)."""
    addresses, tables, reads = library.addresses(_specifications(ways[0]), progress), [], []

    def word(value) -> int:
        if isinstance(value, np.ndarray):
            tables.append(value)
            return value.ctypes.data
        return addresses.get(value, value)

    def address(field: str, value) -> int:
        if field == "regions":
            records = [[word(record[name]) for name in REGION] for record in value]
        elif field == "programs":
            records = []
            for own in value:
                table = np.zeros((len(own), program.WORDS), np.int64)
                fill(table, own)
                tables.append(table)
                records.append((table.ctypes.data, len(own)))
        else:
            return value
        tables.append(np.array(records, np.int64))
        return tables[-1].ctypes.data

    def fill(table: np.ndarray, steps: list[Step]) -> None:
        for row, step in zip(table, steps, strict=True):
            names = KERNELS[step.kernel[0]].fields
            row[0], row[-1] = addresses[step.kernel], step.meet
            row[1 : 1 + len(names)] = [address(name, step.fields[name]) for name in names]
        rows = np.array([n for n, step in enumerate(steps) if x in step.node.inputs and "regions" in step.fields], int)
        if rows.size:
            reads.append((table, rows, table[rows, INPUT]))

    table = np.zeros((len(ways), len(ways[0]), program.WORDS), np.int64)
    for own, steps in zip(table, ways, strict=True):
        fill(own, steps)
    if len(ways) == 1 or not ways[0]:
        return table[0], tables, reads
    table[..., -1] = 0
    table[:, -1, -1] = 1  # at the end, all meet
    return table, tables, reads


def _specifications(steps: list[Step]) -> Iterator[tuple]:
    """Every kernel that steps call."""
    for step in steps:
        yield step.kernel
        for record in step.fields.get("regions", ()):
            yield from (value for value in record.values() if isinstance(value, tuple))
        for own in step.fields.get("programs", ()):
            yield from _specifications(own)
