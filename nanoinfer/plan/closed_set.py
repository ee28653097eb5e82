"""The closed set: every kernel that some networks ask for, whatever the input's size, the batch and the threads.

It is finite, since a tile has a bounded number of pixels and all else that a spec says follows from the network: of
channels the vectors of micro-panels, of activations the variants. It covers what passes may make of a graph, `exact`
models, and taps. What a wheel holds is compiled by it.

It is read off the graph's nodes by the functions that lowering uses: `panels` for one pixel and for several,
`depthwise.kernel` for every width up to which new tiles appear. Not in it is a call that asks for the network's input
itself as a value, which is then laid out otherwise for its stem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..graph import Graph, Node, ops
from ..kernels import kernel_name
from ..kernels.convolution import LoopNest
from ..kernels.elementwise import Elementwise, StrassenSums
from ..kernels.matmul import Matmul
from ..kernels.normalization import LayerNorm
from ..kernels.packing import GateWeights, Packing
from ..kernels.peak import Peak, Read
from ..kernels.pooling import AveragePool, MaxPool
from ..kernels.program import ThreadProgram
from ..kernels.simd.activation import variant
from ..kernels.stem import Stem
from ..kernels.team import Leader, Worker
from ..lowering import depthwise, simple, strassen
from ..lowering.layout import nhwc
from ..lowering.tiling import ConvProblem, Panels, panels
from ..machine import Machine

PIECEWISE = variant(None)
LARGE = 16  # rows and columns of an image that is large enough for Strassen's scheme


class _Network(NamedTuple):
    """What the functions below read: `shapes` of all values for one input, of which they take channels alone.

    `variants` are those of the activations that may be fused into the node that writes a value.
    """

    shapes: Mapping[str, tuple[int, ...]]
    parameters: Mapping[str, tuple[int, ...]]
    variants: Mapping[str, set[str]]
    machine: Machine

    def channels(self, name: str) -> int:
        shape = self.shapes[name]
        return shape[1] if len(shape) == 4 else shape[-1]

    def activations(self, node: Node) -> list[str]:
        """The variants that a node is compiled for: with an activation in it and without."""
        return sorted({PIECEWISE} | self.variants.get(node.output, set()))


def closed_set(networks: Iterable[tuple[Graph, tuple[int, ...]]], machine: Machine) -> dict[str, object]:
    """{kernel name: spec} of all kernels that `networks` ask for on one kind of machine, sorted by name.

    A network is its graph, before any pass, and the shape of an input (N, C, H, W) that it takes. Besides, there are
    the kernels of the thread team and those by which the machine's peak is measured.
    """
    lanes = machine.lanes
    found = [Leader(), Worker(), Packing(), LoopNest(), ThreadProgram()]
    found += [StrassenSums(lanes), Elementwise(lanes, PIECEWISE), Read(lanes), Peak(machine.tuning.peak_chains, lanes)]
    for graph, shape in networks:
        network = _Network(ops.infer_shapes(graph, shape), graph.parameters, _variants(graph), machine)
        for node in graph.nodes:
            found += OPERATORS[node.op](node, network)
    return dict(sorted((kernel_name(spec), spec) for spec in found))


def _variants(graph: Graph) -> dict[str, set[str]]:
    """{value: variants of the activations that may move into the node that writes it}."""
    producers, found = graph.producers(), {}
    for activation in graph.nodes:
        if activation.op != "activation":
            continue
        stack = [activation.output]
        while stack:
            name = stack.pop()
            found.setdefault(name, set()).add(variant(activation.attributes["activation"]))
            if name in producers and producers[name].op in ("activation", "batch_norm", "add"):
                stack += producers[name].inputs
    return found


def _convolution(node: Node, network: _Network) -> Iterator:
    """The depthwise kernel, or the loop nest's."""
    shape = network.parameters[node.tensors["weight"]]
    if depthwise.applies(node, shape):
        yield from _every_width(node, shape, network)
        return
    out, k, *window = shape
    if node.attributes["stride"] > 1 and set(window) == {1}:  # pixels that the pass `gather_pixels` copies
        yield from _max_pool(node, network)
    padding = node.attributes["padding"]
    padding = (0, 0) if padding == "same" else (padding, padding)
    problem = _problem(
        node, out, window=tuple(window), stride=node.attributes["stride"], padding=padding, k=k,
        groups=node.attributes["groups"], weight=np.broadcast_to(np.float32(0), shape),
    )  # fmt: skip
    tuning = network.machine.tuning
    for part in _widths(problem, network.machine):
        yield GateWeights(part.lanes)
        largest = problem.largest_mr(tuning, part.nr)
        rows, form = range(1, largest + 1), "pointwise" if (problem.taps, padding) == (1, (0, 0)) else "taps"
        if problem.fits_stem_kernel(tuning):
            for name in network.activations(node):
                yield from (Stem(mr, part.nr, part.lanes, 4 * problem.stride, name) for mr in rows)
                yield Matmul(1, part.nr, part.lanes, name, "taps")  # an image of one pixel, whose channels adjoin
            rows, form = (1, largest), "strided"  # at the border
        elif problem.is_patch:
            form = "strided"
        for name in network.activations(node):
            yield from (Matmul(mr, part.nr, part.lanes, name, form) for mr in rows)
    yield from _partial_sums(node, shape, network)


def _linear(node: Node, network: _Network) -> Iterator:
    shape = network.parameters[node.tensors["weight"]]
    problem = _problem(node, shape[0], k=shape[1], weight=np.broadcast_to(np.float32(0), (*shape, 1, 1)))
    for part in _widths(problem, network.machine):
        for name in network.activations(node):
            rows = range(1, problem.largest_mr(network.machine.tuning, part.nr) + 1)
            yield from (Matmul(mr, part.nr, part.lanes, name, "pointwise") for mr in rows)
    yield from _partial_sums(node, shape, network)


def _partial_sums(node: Node, weight_shape: tuple[int, ...], network: _Network) -> Iterator:
    """The micro-kernels of Strassen's scheme, where it may apply."""
    tuning, lanes, (out, k, *window) = network.machine.tuning, network.machine.lanes, weight_shape
    size = (LARGE, LARGE) if node.op == "conv2d" else (LARGE**2,)
    shapes = {
        name: (1, channels, *size) if node.op == "conv2d" else (1, *size, channels)
        for name, channels in ((node.inputs[0], k), (node.output, out))
    }
    gathered = {"stride": 1} if node.op == "conv2d" else {}
    even = replace(node, attributes={**node.attributes, **gathered, "unevenness": 1.0})
    if set(window) <= {1} and strassen.applies(even, shapes, network.machine):
        for name in network.activations(node):
            for mr in range(1, tuning.matmul_mr[tuning.panel_nr] + 1):
                yield from (Matmul(mr, tuning.panel_nr, lanes, name, form) for form in ("pointwise", "partial"))


def _problem(node: Node, channels: int, **fields) -> ConvProblem:
    """A product whose output has one pixel; it has no input."""
    return ConvProblem(node, None, (1, channels, 1, 1), **fields)


def _widths(problem: ConvProblem, machine: Machine) -> list[Panels]:
    """All micro-panels of a product, each width once, where its output is a pixel and where it is larger."""
    _, channels, *_ = problem.y
    sizes = ((1, channels, size, size) for size in (1, 2))
    found = (part for size in sizes for part in panels(problem._replace(y=nhwc(size, machine)), machine))
    return list({(part.nr, part.lanes): part for part in found}.values())


def _every_width(node: Node, weight_shape: tuple[int, ...], network: _Network) -> Iterator:
    """The depthwise kernels of images of any width.

    Beyond `most` tiles of a row, each added one evens them out further, so that no other size of them comes up.
    """
    tuning, stride, (*_, size) = network.machine.tuning, node.attributes["stride"], weight_shape
    most = max(tuning.depthwise_mr, tuning.grouped_mr)
    for name in network.activations(node):
        # By its variant's name: an activation is in the instruction.
        fused = replace(node, attributes={**node.attributes, "activation": None if name == PIECEWISE else name})
        for width in range(1, stride * (most**2 + 1) + size):
            before = 0 if node.attributes["padding"] == "same" else 2 * node.attributes["padding"]
            if node.attributes["padding"] == "same" or width + before >= size:
                yield depthwise.kernel(fused, weight_shape, width, network.machine)


def _filter(node: Node, network: _Network) -> Iterator:
    """Means and blurs, which are depthwise convolutions without padding."""
    window, channels = node.attributes["window"], network.channels(node.inputs[0])
    attributes = {"stride": node.attributes["stride"], "padding": 0, "groups": channels}
    yield from _every_width(replace(node, attributes=attributes), (channels, 1, window, window), network)


def _max_pool(node: Node, network: _Network) -> Iterator:
    problem = _problem(node, network.channels(node.inputs[0]))
    for part in _widths(problem, network.machine):
        for mr in range(1, problem.largest_mr(network.machine.tuning, part.nr) + 1):
            yield MaxPool(mr, part.nr, part.lanes)


def _attention(node: Node, network: _Network) -> Iterator:
    spec, *_ = simple.attention_spec(node, network.shapes, network.machine)
    most, _ = network.machine.tuning.attention_tile
    yield from (spec._replace(mr=mr) for mr in range(2, most + 1))  # the class token and a patch are the fewest


def _elementwise(node: Node, network: _Network) -> Iterator:
    yield from (Elementwise(network.machine.lanes, name) for name in network.activations(node))


def _nothing(node: Node, network: _Network) -> Iterator:
    yield from ()


OPERATORS: dict[str, Callable[[Node, _Network], Iterator]] = {
    "conv2d": _convolution,
    "linear": _linear,
    "max_pool2d": _max_pool,
    "global_max_pool": _max_pool,
    "average_pool2d": _filter,
    "blur_pool2d": _filter,
    "batch_norm": _elementwise,
    "activation": _elementwise,
    "add": _elementwise,
    "scale": _elementwise,
    "tokens": _elementwise,
    "layer_norm": lambda node, network: iter([LayerNorm()]),
    "attention": _attention,
    "global_average_pool": lambda node, network: iter([AveragePool(network.machine.lanes)]),
    "flatten": _nothing,
    "select_token": _nothing,
}
