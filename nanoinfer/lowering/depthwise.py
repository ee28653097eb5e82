"""Depthwise convolution, and convolution with narrow groups: a kernel of its own, since taps share what they load."""

from __future__ import annotations

import numpy as np

from ..graph import Node
from ..graph.windows import edges, padding_before
from ..kernels.depthwise import GROUPS, LINES, Depthwise, Instruction
from ..kernels.simd import CACHE_LINE
from ..kernels.simd.activation import code, variant
from ..machine import Machine
from .layout import TensorView, ceil_div, round_up, splits_channels
from .loop_nest import bias_key
from .packed import PackKey, PackRequest
from .step import Context, Step

NOT_CIRCULAR = 1 << 40  # rows of a buffer that holds whole images


def applies(node: Node, weight_shape: tuple[int, ...]) -> bool:
    """Whether the kernel takes a convolution: several groups of 1, 2, 4 or 8 channels to as many.

    The machine's lanes have no say, since bits must not depend on them. Where they are fewer than a group's channels,
    LLVM makes several registers of what the kernel calls one vector.
    """
    groups, (out, k, *_) = node.attributes["groups"], weight_shape
    return groups > 1 and k in GROUPS and out == groups * k


def kernel(node: Node, weight_shape: tuple[int, ...], width: int, machine: Machine) -> Depthwise:
    """The kernel for an input of `width` columns."""
    _, group, size, _ = weight_shape
    stride, tuning = node.attributes["stride"], machine.tuning
    left, behind = edges(width, size, stride, node.attributes["padding"])
    out_width = (width + left + behind - size) // stride + 1
    right = (out_width - 1) * stride + size - left - width
    largest = min(out_width, tuning.depthwise_mr if group == 1 else tuning.grouped_mr)

    def columns(mr: int) -> int:
        """Input columns that all tiles of a row load."""
        return ceil_div(out_width, mr) * ((mr - 1) * stride + size)

    mr = min(range(largest, 0, -1), key=columns)
    return Depthwise(
        size, stride, left, mr, _lanes(group, machine), variant(node.attributes.get("activation")), group,
        whole_row=width if mr == out_width else 0, more_right=max(0, right - left),
    )  # fmt: skip


def _lanes(group: int, machine: Machine) -> int:
    """Lanes of the kernel's vectors: whole groups. A vector that is one group needs no shuffles, and where vectors are
    double-pumped, half of one is as fast."""
    halves = machine.double_pumped and group == machine.lanes // 2
    return group if halves else max(machine.lanes, group)


def step(node: Node, context: Context, *, first_row: int = 0, buffer_rows: int = 0) -> Step:
    """The one step of a convolution, with bias, residual and activation.

    With `buffer_rows`, x is a circular line buffer of that many rows, and y are rows of the output from `first_row` on.
    """
    (x, *others), y = context.inputs(node), context.output(node)
    weight, residual = context.tensor(node, "weight"), others[0] if others else None
    _, group, size, _ = weight.shape
    stride, activation = node.attributes["stride"], node.attributes.get("activation")
    (height, width), (out_height, out_width) = x.height_width, y.height_width
    spec = kernel(node, weight.shape, width, context.machine)
    lanes, (top, _) = spec.lanes, padding_before(node.attributes, x.height_width, size)
    rows, vectors = y.images * out_height, round_up(y.channels, lanes) // lanes
    key = PackKey(node.tensors["weight"], "", len(weight), lanes)
    block_rows, parts = rows, ceil_div(4 * vectors * lanes, CACHE_LINE * (LINES if group > 1 else 1))
    if group == 1 and not buffer_rows and not splits_channels(y):
        block_rows = _block_rows(rows, stride * x.row_stride, parts, context)
    elif group > 1 and not buffer_rows and not _even(parts, context):
        block_rows = ceil_div(rows, context.threads)
    instruction = Instruction(
        x=x.address, x_image_stride=x.image_stride, x_row_stride=x.row_stride, x_pixel_stride=x.pixel_stride,
        w=context.staging.weight(PackRequest(key, weight.shape, lambda: np.asarray(weight))),
        bias=context.channel_vector(bias_key(node), _bias(node, context, y)),
        zeros=context.staging.constant(("zeros", lanes), lambda: np.zeros(lanes, np.float32)),
        y=y.address, y_image_stride=y.image_stride, y_row_stride=y.row_stride, y_pixel_stride=y.pixel_stride,
        residual_offset=residual.address - y.address if residual else 0, images=y.images, height=height, width=width,
        out_height=out_height, out_width=out_width, first_row=first_row, padding_top=top,
        buffer_rows=buffer_rows or NOT_CIRCULAR, block_rows=block_rows, vectors=vectors, activation=code(activation),
    )  # fmt: skip
    return Step(spec, instruction, node, 2 * y.images * y.pixels * y.channels * size * size * group)


def _bias(node: Node, context: Context, y: TensorView) -> np.ndarray:
    bias = context.tensor(node, "bias")
    return np.zeros(y.channels) if bias is None else bias


def _even(parts: int, context: Context) -> bool:
    """Whether threads that split so many parts have about equal shares."""
    return round_up(parts, context.threads) <= context.machine.tuning.most_imbalance * parts


def _block_rows(rows: int, row_bytes: int, lines: int, context: Context) -> int:
    """Rows that all cache lines of channels pass over before the next block of rows begins.

    They are few enough to stay in cache, and an equal part of every thread's rows. They are all rows where each
    thread's part stays in cache anyway and there are lines enough to split: at the end of a run of rows, the hardware
    would prefetch those that another thread is writing, once for every line.
    """
    threads, tuning = context.threads, context.machine.tuning
    own, most = ceil_div(rows, threads), max(1, tuning.block_bytes // row_bytes)
    if own <= most and _even(lines, context):
        return rows
    return max(block for block in range(1, min(own, most) + 1) if own % block == 0)
