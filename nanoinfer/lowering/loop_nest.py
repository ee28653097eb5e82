"""Lowering of everything that runs in the convolution's loop nest: convolution, linear layers and max pooling.

How an output is cut into panels and tiles is decided in tiling.py; here, what the threads split, and what every step
reads.
"""

from __future__ import annotations

import math

import numpy as np

from ..graph import Node
from ..kernels.depthwise import crossed
from ..kernels.simd import CACHE_LINE, activation
from ..machine import target
from ..machine.roofline import cache_sizes
from . import tiling
from .layout import Place, nhwc, padded
from .step import Context, Step, Unsupported, gates_weights, scale, splits_channels
from .tiling import Product

# Pixels between changes of panel: as many as fit this much of L2.
CHUNK_BYTES = 256 * 1024

FAR = 0.25  # of a core's L2 cache: in an output that is larger, what a tile writes is not there any more

# Input channels in one chain of multiply-adds. Where an output is a single pixel (a network's head, the gates of
# squeeze-and-excite) torch multiplies a matrix by a vector, with many short sums; there, accuracy costs nothing.
SUM_BLOCK, VECTOR_SUM_BLOCK = 256, 64

NARROW = (1, 2, 4, 8)  # channels of a group that the kernel in depthwise.py takes


def _record(product: Product, region: dict[str, int], rows: int, vectors: int, lanes: int) -> dict:
    """A region as the loop nest reads it: its lines cut into tiles of so many rows."""
    length, x, tap_bytes = region["length"], product.x, product.depth * 4 * vectors * lanes
    offsets = region["offsets"]
    w_tile = 0 if offsets.size else region["taps_y"] * region["taps_x"] * product.depth * CACHE_LINE
    full, edge = divmod(length, rows)
    x_group, ask_lines = 4 * (product.depth if product.weight is not None else vectors * lanes), 0
    if (product.groups > 1 or product.weight is None) and region["x_step"] == product.stride * x.pixel:
        ask_lines = min(product.stride, region["taps_y"])
    return dict(
        tile=tiling.kernel(product, region, rows, vectors, lanes),
        edge=tiling.kernel(product, region, edge, vectors, lanes) if edge else 0,
        line_tiles=full + (edge > 0), full_tiles=full, lines=region["lines"],
        x_offset=region["x_offset"], x_line=region["x_line"], x_tile=rows * region["x_step"],
        y_offset=region["y_offset"], y_line=region["y_line"], y_tile=rows * region["y_step"],
        w_offset=region["first_tap"] * tap_bytes,
        w_tile=w_tile, next_tiles=-(-product.taps * tap_bytes // w_tile) if w_tile else 0,
        ask_lines=ask_lines, ask_offset=(region["taps_y"] - ask_lines) * x.line + x_group, ask_line=x.line,
        ask_pixel=x.pixel,
        x_step=region["x_step"], y_step=region["y_step"],
        **_walk(product, region),
        sum_block=product.sum_block or (SUM_BLOCK if product.y.pixels > 1 else VECTOR_SUM_BLOCK),
        w_skip=(product.window[1] - region["taps_x"]) * tap_bytes,
        residual=product.residual.address - product.y.address if product.residual else 0,
        offsets=offsets, steps=offsets.size, far=int(product.y.bytes > FAR * cache_sizes()[1]),
        partial=product.partial.address - product.y.address if product.partial else 0,
        also_add=product.also[0].address - product.y.address if product.also else 0,
        also_to=product.also[1].address - product.y.address if product.also else 0,
        **activation.fields(product.node.attributes.get("activation")),
    )  # fmt: skip


def _walk(product: Product, region: dict[str, int]) -> dict[str, int]:
    """How a tile walks from a pixel's first element: over taps and, innermost, over so many elements side by side."""
    x, (height, width), depth = product.x, (region["taps_y"], region["taps_x"]), product.depth
    if product.is_patch:
        return dict(taps_y=depth, taps_x=height, x_tap_y=x.channel, x_tap_x=x.line, depth=width, x_depth=x.pixel)
    return dict(taps_y=height, taps_x=width, x_tap_y=x.line, x_tap_x=x.pixel, depth=depth, x_depth=x.channel)


def _steps(product: Product, context: Context) -> list[Step]:
    """One step per panel width and way of splitting; they write different channels, so the threads meet at the end."""
    node, y, steps, gating, first, w = product.node, product.y, [], [], 0, 0
    widths = tiling.panels(product, context.machine)
    for number, (vectors, lanes, panels) in enumerate(widths, 1):
        width, w_image = vectors * lanes, 0
        if product.weight is not None:
            part, order = product.weight[first : first + panels * width], "patch" if product.is_patch else ""
            if product.is_patch:
                part = part.transpose(0, 3, 1, 2)
            w = context.packed_weight((node.tensors["weight"], order, first), part.shape, width, node, lambda w=part: w)
        if product.gate is not None:
            # Images lie outside, panels inside: the weights of these panels for all images, then those of the next.
            scaled = context.scratch[node.output] + y.shape[0] * 4 * first * product.depth
            gating.append(_gating(product, w, scaled, panels, vectors, lanes))
            w, w_image = scaled, 4 * panels * width * product.depth
        # Panels that do not divide among the threads are left for a step in which the threads split pixels; that step
        # must begin with a group. A single pixel is the last thread's; so of its panels only the very last is left,
        # if it has its own width. The others are split as they come, the last thread having the fewest.
        group = panels // product.groups if product.groups > 1 else 1
        left = y.shape[0] * y.pixels > 1 or (number == len(widths) and panels == 1)
        rest = panels % context.threads if left else 0
        split = (panels - rest) // group * group if splits_channels(y) else 0
        for count, by_panel in ((split, True), (panels - split, False)):
            if count:
                steps.append(step(product, context, (vectors, lanes), count, first, (w, w_image), by_panel))
                first += count * width
                w += count * width * product.taps * product.depth * 4
    for last in (*gating[-1:], steps[-1]):
        last.meet = True
    return gating + steps


def _gating(product: Product, packed: int, scaled: int, panels: int, vectors: int, lanes: int) -> Step:
    """The step that scales packed weights by the gates of every image."""
    gate, depth, images = product.gate, product.depth, product.y.shape[0]
    fields = dict(packed=packed, gate=gate.address, gate_image=gate.image, y=scaled, images=images,
                  rows=panels * depth, depth=depth, vectors=vectors)  # fmt: skip
    return Step(("gating", lanes), fields, product.node, images * panels * depth * vectors * lanes, meet=False)


def step(
    product: Product,
    context: Context,
    panel: tuple[int, int],
    panels: int,
    first: int,
    w: tuple[int, int],
    by_panel: bool,
) -> Step:
    """`panels` panels from output channel `first` on, split by panel or by pixel.

    A panel is (vectors, lanes), w is (address, bytes from an image's to the next's).
    """
    node, x, y, (vectors, lanes) = product.node, product.x, product.y, panel
    threads = 1 if by_panel else context.threads
    images, regions = tiling.regions(product, product.most_rows[vectors], threads)
    panel_bytes, bias, own = 4 * vectors * lanes, 0, product.weight is None
    group_bytes = 4 * padded(y.channels, context.machine.lanes) // product.groups
    if not own:
        values = np.zeros(y.channels) if product.bias is None else product.bias
        bias = context.channel_vector(_bias_key(node), values) + 4 * first
    fields = dict(
        x=x.address + (4 * first if own else 4 * first // group_bytes * 4 * product.depth), x_image=x.image,
        x_group=panel_bytes if own else 4 * product.depth,
        w=w[0], w_image=w[1], w_panel=0 if own else product.taps * product.depth * panel_bytes, bias=bias,
        y=y.address + 4 * first, y_image=y.image, panel_bytes=panel_bytes, images=images, panels=panels,
        group_panels=1 if own else group_bytes // panel_bytes,
        regions=[_record(product, *region, vectors, lanes) for region in regions],
        region_count=len(regions), split_panels=int(by_panel),
        # Panels that are split come from memory: each is used for all pixels before the next.
        chunk=1 << 40
        if by_panel
        else max(1, CHUNK_BYTES // (4 * x.channels * product.stride**2 * product.most_rows[vectors])),
        later=0, later_bytes=0, after=w[0], after_thread=0,  # see streaming.py
    )  # fmt: skip
    channels = min(panels * vectors * lanes, y.channels - first)
    flops = 2 * y.shape[0] * y.pixels * channels * product.taps * product.depth
    return Step(("convolution",), fields, node, flops, meet=False)


def _inputs(node: Node, context: Context) -> dict[str, Place | None]:
    x, *others = (context.places[name] for name in node.inputs)
    gate = others.pop() if node.attributes.get("gated") else None
    return dict(x=x, y=context.places[node.output], residual=others[0] if others else None, gate=gate)


def _weight(node: Node, context: Context) -> tuple[np.ndarray, np.ndarray | None]:
    return tuple(context.tensors[node.tensors[role]] if role in node.tensors else None for role in ("weight", "bias"))


def _bias_key(node: Node) -> tuple[str, str]:
    """Products may share a weight and not a bias; the zeros of those without one are as many as the weight has rows."""
    return node.tensors.get("bias", node.tensors["weight"]), "bias"


def is_narrow(node: Node, weight: np.ndarray) -> bool:
    """Whether depthwise.py takes it: several narrow groups. Not a matter of the machine's lanes, on which bits must not
    depend: where they are fewer than a group's channels, LLVM makes several registers of what the kernel calls one."""
    groups = node.attributes["groups"]
    return groups > 1 and weight.shape[1] in NARROW and weight.shape[0] == groups * weight.shape[1]


def conv2d(node: Node, context: Context, first: int = 0) -> list[Step]:
    """Dense, grouped or depthwise convolution, with bias, residual and activation.

    y is lines of the output from `first` on, if the convolution is dense.
    """
    weight, bias = _weight(node, context)
    (out, depth, *window), groups = weight.shape, node.attributes["groups"]
    registers, lanes, group = context.machine.registers, context.machine.lanes, out // groups
    if is_narrow(node, weight):
        return [depthwise(node, context)]
    if groups == 1 or group % lanes == 0:
        tile = dict(tile="matmul", most_rows=target.MATMUL_ROWS[registers])
    else:
        raise Unsupported(
            f"{node.output}: groups of {depth} input and {group} output channels do not fit {lanes} lanes; supported "
            f"are depthwise, groups of 2, 4 or 8 to as many, and groups of whole vectors"
        )
    attributes = {name: node.attributes[name] for name in ("stride", "padding", "groups")}
    attributes.update(window=tuple(window), depth=depth, weight=weight, bias=bias, first=first)
    inputs, steps = _inputs(node, context), []
    x, gate = inputs["x"], inputs["gate"]
    if gate is not None and not gates_weights(out, math.prod(context.shapes[node.output][2:])):
        scaled = nhwc(x.shape, context.scratch[node.output], lanes)
        steps = [scale(node, context, x, gate, scaled)]
        inputs.update(x=scaled, gate=None)
    return steps + _steps(Product(node, **inputs, **tile, **attributes), context)


def _band(lines: int, line_bytes: int, panels: int, threads: int) -> int:
    """Lines that all panels pass over before the next band is begun: few enough to stay in cache, and an equal part of
    every thread's share.

    All of them where each thread's part stays in cache anyway and there are panels enough to split: at the end of a
    run of lines, the hardware would prefetch those that another thread is writing, once for every panel.
    """
    share, most = -(-lines // threads), max(1, CHUNK_BYTES // line_bytes)
    longest = -(-panels // threads) * threads
    if share <= most and longest <= 1.125 * panels:
        return lines
    return max(band for band in range(1, min(share, most) + 1) if share % band == 0)


def depthwise(node: Node, context: Context, first: int = 0, ring: int = 0) -> Step:
    """Depthwise convolution, and with narrow groups, has a kernel of its own, since its taps share what they load.

    With `ring`, x has memory for that many lines only, one taking the place of another, and y is lines of the output
    from `first` on.
    """
    weight, bias = _weight(node, context)
    x, y, residual, _ = _inputs(node, context).values()
    _, width, size, _ = weight.shape
    lanes = max(context.machine.lanes, width)
    stride, padding = node.attributes["stride"], node.attributes["padding"]
    (in_height, in_width), (out_height, out_width) = x.size, y.size
    lines, panels = y.shape[0] * out_height, padded(y.channels, lanes) // lanes
    values = np.zeros(y.channels) if bias is None else bias
    fields = dict(
        x=x.address, x_image=x.image, x_line=x.line, x_pixel=x.pixel,
        w=context.packed_weight(
            (node.tensors["weight"], "crossed"), weight.shape, lanes, node, lambda: crossed(weight)
        ),
        bias=context.channel_vector(_bias_key(node), values),
        zeros=context.constant(("zeros", lanes), lambda: np.zeros(lanes, np.float32)), y=y.address, y_image=y.image,
        y_line=y.line, y_pixel=y.pixel, residual=residual.address - y.address if residual else 0, images=y.shape[0],
        height=in_height, width=in_width, out_height=out_height, out_width=out_width,
        first=first, ring=ring or in_height,
        band=lines if ring or splits_channels(y) else _band(lines, stride * x.line, panels, context.threads),
        panels=panels, **activation.fields(node.attributes.get("activation")),
    )  # fmt: skip
    most = target.DEPTHWISE_ROWS[context.machine.registers].get(size * width, target.FEW_ROWS)
    rows = -(-out_width // -(-out_width // most))
    variant = activation.variant(node.attributes.get("activation"))
    kernel = ("depthwise", size, stride, padding, rows, lanes, variant, width, in_width if rows == out_width else 0)
    return Step(kernel, fields, node, 2 * y.shape[0] * y.pixels * y.channels * size * size * width)


def linear(node: Node, context: Context) -> list[Step]:
    """y = x w^T + bias (+ residual), activation: a pointwise convolution of tokens."""
    weight, bias = _weight(node, context)
    table = target.MATMUL_ROWS[context.machine.registers]
    weight = weight[:, :, None, None]
    product = Product(
        node, **_inputs(node, context), tile="matmul", most_rows=table, depth=weight.shape[1], weight=weight, bias=bias
    )
    return _steps(product, context)


def max_pool2d(node: Node, context: Context) -> list[Step]:
    """Max pooling: the loop nest with a tile that has no weights."""
    kernel, stride, padding = (node.attributes[name] for name in ("window", "stride", "padding"))
    table = target.POOL_ROWS[context.machine.registers]
    product = Product(
        node, **_inputs(node, context), tile="max_pool", most_rows=table, window=(kernel, kernel), stride=stride,
        padding=padding,
    )  # fmt: skip
    return _steps(product, context)


STEPS = {"conv2d": conv2d, "linear": linear, "max_pool2d": max_pool2d}
