"""Inverted residuals band by band, so that the expanded activations never leave a core's L2 cache.

Expand, depthwise and project of a few lines at a time: a thread expands the lines that the next band of outputs needs
into a ring of lines, runs the depthwise convolution over them and projects what comes out. It does so for its own
share of the output lines, with no barrier in between; at the border of two shares both threads expand the same one or
two lines. Each output is the same chain of multiply-adds as without bands, so it has the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from . import product
from .graph import Graph, Node
from .kernels import target
from .kernels.limits import cache_sizes
from .layout import Place, nhwc
from .lowering import Context, Step

Shapes = Mapping[str, tuple[int, ...]]
# Expanded activations of an image below this many L2 caches are as well left to pass through L3.
WORTHWHILE = 4
L2_SHARE = 0.4  # of a core's L2 cache for the ring and the band that leaves the depthwise convolution


def group(graph: Graph, shapes: Shapes, tensors: Mapping, lanes: int) -> Graph:
    """The graph with one node for every expand, depthwise, project whose expanded activations are too many for L2."""
    consumers, producers, parts = graph.consumers(), graph.producers(), {}

    def sole(name: str) -> Node | None:
        """The only reader of a value that nothing else needs."""
        return consumers[name][0] if len(consumers[name]) == 1 and name not in graph.outputs else None

    for depthwise in graph.nodes:
        expand = producers.get(depthwise.inputs[0])
        if expand is None or not _is_depthwise(depthwise, tensors) or sole(expand.output) is not depthwise:
            continue
        project = sole(depthwise.output)
        if project is None or not all(_is_pointwise(node, tensors) for node in (expand, project)):
            continue
        if len(expand.inputs) > 1 or project.inputs[0] != depthwise.output or graph.input in expand.inputs:
            continue
        if nhwc((1, *shapes[expand.output][1:]), 0, lanes).bytes > WORTHWHILE * cache_sizes()[1]:
            parts[project.output] = (expand, depthwise, project)
    size = {name: tensor.shape[-1] for name, tensor in tensors.items() if tensor.ndim}
    inner = {node.output for expand, depthwise, _ in parts.values() for node in (expand, depthwise)}
    nodes = (
        _joined(parts[node.output], size) if node.output in parts else node
        for node in graph.nodes
        if node.output not in inner
    )
    return replace(graph, nodes=tuple(nodes))


def _joined(parts: tuple[Node, Node, Node], size: dict[str, int]) -> Node:
    names = ("expand", "depthwise", "project")
    tensors = {
        f"{part} {role}": name for part, node in zip(names, parts, strict=True) for role, name in node.tensors.items()
    }
    inputs = (parts[0].inputs[0], *parts[2].inputs[1:])
    window = size[parts[1].tensors["weight"]]
    return Node("inverted_residual", inputs, parts[2].output, tensors, {"parts": parts, "window": window})


def _is_depthwise(node: Node, tensors: Mapping) -> bool:
    if node.op != "conv2d" or len(node.inputs) > 1:
        return False
    channels, width, *_ = tensors[node.tensors["weight"]].shape
    return width == 1 and channels == node.attributes["groups"]


def _is_pointwise(node: Node, tensors: Mapping) -> bool:
    if node.op != "conv2d" or node.attributes.get("gated") or tensors[node.tensors["weight"]].shape[2:] != (1, 1):
        return False
    return (node.attributes["stride"], node.attributes["padding"], node.attributes["groups"]) == (1, 0, 1)


def _buffers(node: Node, shapes: Shapes, lanes: int) -> tuple[Place, Place]:
    """Places of a thread's ring of expanded lines and of its band of lines behind the depthwise convolution."""
    expand, depthwise, _ = node.attributes["parts"]
    stride, (_, channels, _, in_width) = depthwise.attributes["stride"], shapes[expand.output]
    _, _, height, width = shapes[depthwise.output]
    size = node.attributes["window"]

    def places(lines: int) -> tuple[Place, Place]:
        ring = nhwc((1, channels, (lines - 1) * stride + size, in_width), 0, lanes)
        return ring, replace(nhwc((1, channels, lines, width), 0, lanes), address=ring.bytes)

    lines = 1
    while lines < height and sum(place.bytes for place in places(lines + 1)) <= L2_SHARE * cache_sizes()[1]:
        lines += 1
    return places(lines)


def scratch(node: Node, shapes: Shapes, machine: target.Target, threads: int) -> int:
    """Bytes for all threads."""
    return threads * sum(place.bytes for place in _buffers(node, shapes, machine.lanes))


def lower(node: Node, context: Context) -> list[Step]:
    """One step, in which every thread walks a program of its own."""
    parts = node.attributes["parts"]
    images, _, height, _ = context.places[node.output].shape
    steps = []
    for thread in range(context.threads):
        first, end = (images * height * at // context.threads for at in (thread, thread + 1))
        own = []
        for image in range(images):
            share = range(max(0, first - image * height), min(height, end - image * height))
            own += _share(node, context, thread, image, share)
        steps.append(own)
    flops = sum(
        2 * math.prod(context.shapes[part.output]) * math.prod(context.tensors[part.tensors["weight"]].shape[1:])
        for part in parts
    )
    return [Step(("bands",), dict(programs=steps), node, flops)]


def _share(node: Node, context: Context, thread: int, image: int, share: range) -> Iterator[Step]:
    """The steps that compute lines `share` of an image's output."""
    expand, depthwise, project = node.attributes["parts"]
    ring, band = _buffers(node, context.shapes, context.machine.lanes)
    base = context.scratch[node.output] + thread * (ring.bytes + band.bytes)
    ring, band = (replace(place, address=base + place.address) for place in (ring, band))
    slots, most = ring.size[0], band.size[0]
    stride, padding = depthwise.attributes["stride"], depthwise.attributes["padding"]
    height, width = context.places[expand.inputs[0]].size
    places = {name: context.places[name] for name in (*node.inputs, node.output)}
    ready = max(0, share.start * stride - padding)
    bands = -(-len(share) // most)

    def steps(part: Node, lower=product.conv2d, **own: Place) -> list[Step]:
        return lower(part, replace(context, threads=1, places={**places, **own}))

    for number in range(bands):
        first, end = (share.start + len(share) * at // bands for at in (number, number + 1))
        needed = min(height, (end - 1) * stride - padding + slots - (most - 1) * stride)
        while ready < needed:
            slot = ready % slots
            count = min(needed - ready, slots - slot)
            yield from steps(expand, **{
                expand.inputs[0]: _lines(places[expand.inputs[0]], image, ready, count),
                expand.output: _lines(ring, 0, slot, count),
            })  # fmt: skip
            ready += count
        yield product.depthwise(
            depthwise,
            replace(context, threads=1, places={
                expand.output: replace(ring, shape=(*ring.shape[:2], height, width)),
                depthwise.output: _lines(band, 0, 0, end - first),
            }),
            first=first, ring=slots,
        )  # fmt: skip
        outer = {name: _lines(places[name], image, first, end - first) for name in (*project.inputs[1:], node.output)}
        yield from steps(project, **{depthwise.output: _lines(band, 0, 0, end - first), **outer})


def _lines(place: Place, image: int, first: int, count: int) -> Place:
    """Some lines of an image as an image of their own."""
    shape = (1, place.shape[1], count, place.shape[3])
    address = place.address + image * place.image + first * place.line
    return replace(place, shape=shape, address=address, image=count * place.line)


STEPS = {"inverted_residual": lower}
SCRATCH = {"inverted_residual": scratch}
