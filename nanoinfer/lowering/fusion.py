"""Convolutions in a row, band by band, so that what passes between them never leaves a core's L2 cache.

A depthwise (or narrowly grouped) convolution goes together with the dense one that feeds it and with the pointwise one
that it feeds: expand, depthwise and project of an inverted residual, or a network's stem and what follows. For a few
lines of output at a time, a thread expands the lines that they need into a ring of lines, runs the depthwise
convolution over them and projects what comes out. It does so for its own share of the output lines, with no barrier in
between; at the border of two shares both threads expand the few lines that both need. Each output is the same chain of
operations as without bands, so it has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..graph import Graph, Node, ops
from ..machine import target
from ..machine.roofline import cache_sizes
from . import loop_nest as product
from . import strassen
from .layout import Place, nhwc
from .step import Context, Step, gated_scratch, gates_weights

Shapes = Mapping[str, tuple[int, ...]]
# What a thread's part of an image's expanded activations is held against: bytes for a whole batch, since less is had as
# soon from the cache, and a share of the weights for each image, since in bands every image reads them again.
WORTHWHILE, REREAD = 128 << 10, 0.22
FAR = 0.5  # of a core's L2 cache: an input or output that is larger comes from L3 and goes there
L2_SHARE = 0.3  # of a core's L2 cache for the ring and the band that leaves the depthwise convolution


def group(graph: Graph, shapes: Shapes, tensors: Mapping, machine: target.Target, threads: int) -> Graph:
    """The graph with one node for every expand, depthwise and, if any, project with much to pass between them."""
    consumers, producers, parts, taken = graph.consumers(), graph.producers(), {}, set()

    def sole(name: str) -> Node | None:
        """The only reader of a value that nothing else needs."""
        return consumers[name][0] if len(consumers[name]) == 1 and name not in graph.outputs else None

    for depthwise in graph.nodes:
        expand = producers.get(depthwise.inputs[0])
        if not (_expands(expand, shapes) and _is_plain(depthwise) and sole(expand.output) is depthwise):
            continue
        if not product.is_narrow(depthwise, tensors[depthwise.tensors["weight"]]):
            continue
        project = sole(depthwise.output)
        if project is not None and not _projects(project, depthwise.output, tensors):
            project = None
        nodes = (expand, depthwise, project) if project else (expand, depthwise)
        images, *_, width = shapes[expand.output]
        size = nhwc((1, *shapes[expand.output][1:]), 0, machine.lanes).bytes
        weights = sum(4 * tensors[node.tensors["weight"]].size for node in nodes)
        # A line of one pixel would be taken for an output of one pixel, whose sums are made in another order.
        one = min(width, shapes[depthwise.output][3]) == 1
        free = taken.isdisjoint(node.output for node in nodes)  # a pointwise one may stand between two depthwise ones
        worthwhile = size / threads > WORTHWHILE / images + REREAD * weights
        whole = any(strassen.applies(node, shapes) and strassen.in_halves(node, shapes) for node in nodes)
        if worthwhile and free and not one and not whole:
            parts[nodes[-1].output] = nodes
            taken.update(node.output for node in nodes)
    inner = taken - parts.keys()
    nodes = (
        _joined(parts[node.output], tensors) if node.output in parts else node
        for node in graph.nodes
        if node.output not in inner
    )
    return replace(graph, nodes=tuple(nodes))


def _joined(parts: tuple[Node, ...], tensors: Mapping) -> Node:
    names = {f"{number} {role}": name for number, node in enumerate(parts) for role, name in node.tensors.items()}
    inputs = (*parts[0].inputs, *(parts[2].inputs[1:] if len(parts) > 2 else ()))
    kernel = tensors[parts[1].tensors["weight"]].shape[-1]
    return Node("bands", inputs, parts[-1].output, names, {"parts": parts, "window": kernel})


def _is_plain(node: Node | None) -> bool:
    """Whether it is a convolution of one input."""
    return node is not None and node.op == "conv2d" and len(node.inputs) == 1


def _expands(node: Node | None, shapes: Shapes) -> bool:
    """Whether it is a dense convolution without a residual; a gate has to scale its weights, which a thread can do for
    itself."""
    if node is None or node.op != "conv2d" or node.attributes["groups"] != 1:
        return False
    _, channels, height, width = shapes[node.output]
    gated = node.attributes.get("gated", False)
    return len(node.inputs) == 1 + gated and (not gated or gates_weights(channels, height * width))


def _projects(node: Node, x: str, tensors: Mapping) -> bool:
    """Whether it is a pointwise convolution of x, and x is not scaled by a gate before."""
    return node.inputs[0] == x and not node.attributes.get("gated") and ops.is_pointwise(node, tensors)


def _buffers(node: Node, shapes: Shapes, lanes: int) -> tuple[Place, Place]:
    """Places of a thread's ring of expanded lines and of its band of lines behind the depthwise convolution."""
    expand, depthwise, *project = node.attributes["parts"]
    stride, (_, expanded, _, in_width) = depthwise.attributes["stride"], shapes[expand.output]
    _, channels, height, width = shapes[depthwise.output]
    size = node.attributes["window"]

    def places(lines: int) -> tuple[Place, Place]:
        ring = nhwc((1, expanded, (lines - 1) * stride + size, in_width), 0, lanes)
        return ring, replace(nhwc((1, channels, lines if project else 0, width), 0, lanes), address=ring.bytes)

    lines = 1
    while lines < height and sum(place.bytes for place in places(lines + 1)) <= L2_SHARE * cache_sizes()[1]:
        lines += 1
    return places(lines)


def private(node: Node, shapes: Shapes, machine: target.Target) -> int:
    """Bytes that each thread needs for itself."""
    parts = node.attributes["parts"]
    scratch = max(strassen.private(part, shapes, machine) for part in parts)
    buffers = sum(place.bytes for place in _buffers(node, shapes, machine.lanes))
    return buffers + gated_scratch(parts[0], shapes, machine, images=1) + scratch


def lower(node: Node, context: Context) -> list[Step]:
    """One step, in which every thread walks a program of its own."""
    images, _, height, _ = context.places[node.output].shape
    programs = []
    for thread in range(context.threads):
        first, end = (images * height * at // context.threads for at in (thread, thread + 1))
        own = []
        for image in range(images):
            share = range(max(0, first - image * height), min(height, end - image * height))
            own += _share(node, context, thread, image, share)
        programs.append(own)
    flops = sum(strassen.flops(part, context) for part in node.attributes["parts"])
    return [Step(("bands",), dict(programs=programs), node, flops)]


def _share(node: Node, context: Context, thread: int, image: int, share: range) -> Iterator[Step]:
    """The steps that compute lines `share` of an image's output."""
    expand, depthwise, *project = node.attributes["parts"]
    ring, band = _buffers(node, context.shapes, context.machine.lanes)
    base = context.private + thread * context.private_bytes
    ring, band = (replace(place, address=base + place.address) for place in (ring, band))
    stride, padding = depthwise.attributes["stride"], depthwise.attributes["padding"]
    kernel, slots, (height, width) = node.attributes["window"], ring.size[0], context.shapes[expand.output][2:]
    expanded = replace(ring, shape=(*ring.shape[:2], height, width))
    start = max(0, share.start * stride - padding)  # the first line that is expanded
    places = {name: _lines(context.places[name], image) for name in (*node.inputs, node.output)}
    far = {name for name in places if context.places[name].bytes > FAR * context.threads * cache_sizes()[1]}

    def own(changed: Mapping[str, Place]) -> Context:
        scratch = base + ring.bytes + band.bytes
        return replace(
            context, threads=1, places={**places, **changed}, scratch={expand.output: scratch},
            private=scratch + gated_scratch(expand, context.shapes, context.machine, images=1),
        )  # fmt: skip

    def expand_lines(first: int, end: int) -> Iterator[Step]:
        """Into the ring; a run of lines that goes beyond the ring's end is two."""
        while first < end:
            slot = first % slots
            count = min(end - first, slots - slot)
            steps = _dense(expand, own({expand.output: _lines(ring, 0, slot, count)}), first)
            gating = [step for step in steps if step.kernel[0] == "gating"]
            steps = steps[len(gating) :]
            if first == start:  # for all lines of the image
                yield from gating
            if node.inputs[0] in far:
                steps[0].streams = _input_lines(expand, context, places[node.inputs[0]], first, first + count)
            yield from steps
            first += count

    def output_lines(first: int, end: int) -> list[Step]:
        names = (*(name for part in project for name in part.inputs[1:]), node.output)
        outer = {name: _lines(places[name], 0, first, end - first) for name in names}
        out = _lines(band, 0, 0, end - first) if project else outer[node.output]
        changed = own({expand.output: expanded, depthwise.output: out})
        steps = [product.depthwise(depthwise, changed, first=first, ring=slots)]
        for part in project:
            steps += _dense(part, own({depthwise.output: out, **outer}))
        steps[len(project)].streams = tuple(
            (place.address, place.image) for name, place in outer.items() if name in far
        )
        return steps

    ready, bands = start, -(-len(share) // ((slots - kernel) // stride + 1))
    for number in range(bands):
        first, end = (share.start + len(share) * at // bands for at in (number, number + 1))
        needed = min(height, (end - 1) * stride - padding + kernel)
        yield from expand_lines(ready, needed)
        yield from output_lines(first, end)
        ready = max(ready, needed)


def _dense(node: Node, context: Context, first: int = 0) -> list[Step]:
    """A thread's steps; `first` as in product.conv2d."""
    if strassen.applies(node, context.shapes):
        return strassen.thread_steps(node, context, first)
    return product.conv2d(node, context, first=first)


def _lines(place: Place, image: int, first: int = 0, count: int | None = None) -> Place:
    """Some lines of an image, or all of them, as an image of their own."""
    count = place.size[0] if count is None else count
    address = place.address + image * place.image + first * place.line
    shape = (1, place.shape[1], count, place.shape[3])
    return replace(place, shape=shape, address=address, image=count * place.line)


def _input_lines(expand: Node, context: Context, x: Place, first: int, end: int) -> tuple[tuple[int, int], ...]:
    """Where the lines of x lie that lines first..end of the output are computed from, if they are one stretch."""
    stride, padding = expand.attributes["stride"], expand.attributes["padding"]
    kernel = context.tensors[expand.tensors["weight"]].shape[2]
    top, bottom = max(0, first * stride - padding), min(x.size[0], (end - 1) * stride - padding + kernel)
    return ((x.address + top * x.line, (bottom - top) * x.line),) if x.channel == 4 else ()


STEPS = {"bands": lower}
PRIVATE = {"bands": private}
