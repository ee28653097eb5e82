"""Pooling of windows: the maximum in the convolution's loop nest, means and blurs as depthwise convolutions.

The mean of an image is in `simple`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..graph import Node
from ..graph.windows import blur_padding, blur_weights, padding_before
from ..machine import Machine
from . import depthwise, loop_nest, simple
from .layout import TensorView, nhwc
from .step import Context, Shapes, Step
from .tiling import ConvProblem


def max_pool2d(node: Node, context: Context) -> list[Step]:
    """Max pooling: the loop nest with a micro-kernel that has no weights."""
    (x,), window = context.inputs(node), node.attributes["window"]
    problem = ConvProblem(
        node, x, context.output(node), window=(window, window), stride=node.attributes["stride"],
        padding=padding_before(node.attributes, x.height_width, window),
    )  # fmt: skip
    return loop_nest.steps(problem, context)


def global_max_pool(node: Node, context: Context) -> list[Step]:
    """The same with one window, which is the whole image."""
    (x,) = context.inputs(node)
    return loop_nest.steps(ConvProblem(node, x, context.output(node), window=x.height_width), context)


def average_pool2d(node: Node, context: Context) -> list[Step]:
    """A depthwise convolution whose weights are all the same."""
    window = node.attributes["window"]
    return [_filtered(node, context, context.views[node.inputs[0]], np.full((window, window), window**-2))]


def blur_pool2d(node: Node, context: Context) -> list[Step]:
    """A copy of the input with its border reflected, in the node's workspace, then a depthwise convolution."""
    (x,) = context.inputs(node)
    padded = nhwc(_padded_shape(node, x.shape), context.machine, context.workspaces[node.output])
    copies = [simple.copied(node, context, source, target) for source, target in _reflected(x, padded)]
    for step in copies:
        step.barrier = step is copies[-1]  # they write different pixels
    return [*copies, _filtered(node, context, padded, blur_weights(node.attributes["window"]))]


def blur_workspace(node: Node, shapes: Shapes, machine: Machine) -> int:
    """Bytes of the copy with its reflected border."""
    return nhwc(_padded_shape(node, shapes[node.inputs[0]]), machine).bytes


def _padded_shape(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    border = 2 * blur_padding(node.attributes["window"], node.attributes["stride"])
    return *shape[:2], shape[2] + border, shape[3] + border


def _reflected(x: TensorView, y: TensorView) -> Iterator[tuple[TensorView, TensorView]]:
    """Parts of x and of y that are to be equal: x in the middle of y, and around it the pixels within its border."""
    (height, width), shape = x.height_width, (x.images, x.channels, 1)
    border = (y.height_width[0] - height) // 2

    def strip(view: TensorView, row: int, column: int, count: int, down: bool = False) -> TensorView:
        """`count` pixels of every image, along a row or down a column."""
        address = view.address + row * view.row_stride + column * view.pixel_stride
        stride = view.row_stride if down else view.pixel_stride
        return view._replace(shape=(*shape, count), address=address, pixel_stride=stride)

    def middle(view: TensorView, image: int, first: int) -> TensorView:
        """The pixels of one image from (first, first) on, its rows as images."""
        start = strip(view, first, first, width)
        return start._replace(
            shape=(height, x.channels, 1, width), address=start.address + image * view.image_stride,
            image_stride=view.row_stride,
        )  # fmt: skip

    def beyond(size: int) -> list[tuple[int, int]]:
        """(a place in y beyond the border of x, the pixel of x that is reflected there) along an axis."""
        before = [(border - at, at) for at in range(1, border + 1)]
        return before + [(border + size - 1 + at, size - 1 - at) for at in range(1, border + 1)]

    yield from ((middle(x, image, 0), middle(y, image, border)) for image in range(x.images))
    rows, columns = beyond(height), beyond(width)
    yield from ((strip(x, source, 0, width), strip(y, target, border, width)) for target, source in rows)
    for target, source in columns:
        yield strip(x, 0, source, height, True), strip(y, border, target, height, True)
        yield from ((strip(x, row, source, 1), strip(y, at, target, 1)) for at, row in rows)


def _filtered(node: Node, context: Context, x: TensorView, taps: np.ndarray) -> Step:
    """The depthwise convolution of x without padding whose weights are `taps` in every channel."""
    (name,), channels = node.inputs, x.channels
    weight = f"{node.op}[{len(taps)}]*{channels}"  # equal weights of several nodes are packed once
    attributes = {"stride": node.attributes["stride"], "padding": 0, "groups": channels}
    convolution = replace(node, tensors={"weight": weight}, attributes=attributes)
    every_channel = np.broadcast_to(taps.astype(np.float32), (channels, 1, *taps.shape))
    tensors, views = {**context.tensors, weight: every_channel}, {**context.views, name: x}
    step = depthwise.step(convolution, context._replace(tensors=tensors, views=views))
    step.node = node
    return step


def flops(node: Node, context: Context) -> int:
    """A comparison or a multiply-add, counted as two, for each tap of each element of the output."""
    window, x = node.attributes.get("window"), context.shapes[node.inputs[0]]
    return 2 * math.prod(context.shapes[node.output]) * (window**2 if window else math.prod(x[2:]))
