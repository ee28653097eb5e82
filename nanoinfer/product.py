"""Planning of everything that runs in the convolution's loop nest: convolution, linear layers and max pooling.

Three decisions are made here: how output channels are cut into panels, which tile each line of pixels gets, and
what the threads split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .graph import Node
from .kernels import activation, convolution, target
from .kernels.matmul import CACHE_LINE
from .layout import Place, nhwc, padded
from .lowering import Context, Step, Unsupported, bits, gates_weights, scale, splits_channels

# Pixels between changes of panel: as many as fit this much of L2.
CHUNK_BYTES = 256 * 1024

# Input channels in one chain of multiply-adds. Where an output is a single pixel (a network's head, the gates of
# squeeze-and-excite) torch multiplies a matrix by a vector, with many short sums; there, accuracy costs nothing.
SUM_BLOCK, VECTOR_SUM_BLOCK = 256, 64

# A head, one row times so many vectors of channels or more, has panels of four vectors: it is as fast as its weights
# arrive, and four streams of sums hide more of the latency of a multiply-add than two.
HEAD = 48


# Input channels of a convolution whose border is so little work that it takes no kernels of its own.
FEW = 4


@dataclass(frozen=True)
class Product:
    """One convolution, linear layer or max pooling.

    `tile` is the kernel of its tiles and `most_rows` their most rows by vectors. Without a weight (max pooling) each
    output channel reads its own input channel.
    """

    node: Node
    x: Place
    y: Place
    tile: str
    most_rows: dict[int, int]
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    groups: int = 1
    depth: int = 1
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    residual: Place | None = None
    gate: Place | None = None
    first: int = 0  # y is lines of the output from this one on

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    def tile_kernel(self, rows: int, vectors: int, lanes: int) -> tuple:
        """The specification of its micro-kernel for `rows` pixels."""
        if self.weight is None:
            return self.tile, rows, vectors, lanes
        return self.tile, rows, vectors, lanes, activation.variant(self.node.attributes.get("activation"))


def _panels(product: Product, machine: target.Target) -> list[tuple[int, int, int]]:
    """(vectors in a panel, lanes of a vector, number of panels).

    Two vectors a panel (four in a head), and three or one where a vector is left over. On a machine with half vectors,
    channels that end within the first half of a vector end with a panel of three or five half vectors, unless there is
    only one pixel to compute.
    """
    lanes, channels = machine.lanes, product.y.channels
    vectors = padded(channels, lanes) // lanes
    if product.groups > 1:  # panels must not cross groups
        group = vectors // product.groups
        wide = 2 if group % 2 == 0 else 3 if group % 3 == 0 else 1
        return [(wide, lanes, vectors // wide)]
    if product.y.pixels == 1 and vectors >= HEAD:
        return [(wide, lanes, count) for wide, count in ((4, vectors // 4), (vectors % 4, 1)) if wide and count]
    last = 0 if vectors % 2 == 0 else 1 if product.weight is None or vectors == 1 else 3
    panels = [(2, lanes, (vectors - last) // 2), (last, lanes, 1)]
    halves = padded(channels, lanes // 2) // (lanes // 2)
    if machine.halves and product.weight is not None and halves % 2 and product.y.pixels > 1:
        last = halves if halves < 4 else 3 if halves % 4 == 3 else 5
        panels = [(2, lanes, (halves - last) // 4), (last, lanes // 2, 1)]
    return [(wide, lanes, count) for wide, lanes, count in panels if wide and count]


def _regions(product: Product) -> tuple[int, list[dict[str, int]]]:
    """(images, regions): rectangles of outputs that see the same taps, as lines of pixels. See convolution.py."""
    x, y, stride, padding = product.x, product.y, product.stride, product.padding
    kernel_h, kernel_w = product.window
    if (kernel_h, kernel_w, stride, padding) == (1, 1, 1, 0):
        point = dict(first_tap=0, taps_y=1, taps_x=1, x_offset=product.first * x.line, y_offset=0)
        if x.contiguous and y.contiguous:  # one line of all pixels, of all images if they share their weights
            images = y.shape[0] if product.gate else 1
            return images, [dict(point, lines=1, length=y.shape[0] // images * y.pixels, x_line=0, y_line=0,
                                 x_step=x.pixel, y_step=y.pixel)]  # fmt: skip
        if y.pixels == 1:
            return 1, [dict(point, lines=1, length=y.shape[0], x_line=0, y_line=0, x_step=x.image, y_step=y.image)]
    regions = []
    (height, width), first, (out_h, out_w) = x.size, product.first, y.size
    for top, bottom, ky, ky_end in convolution.border_groups(height, first, first + out_h, kernel_h, stride, padding):
        for left, right, kx, kx_end in convolution.border_groups(width, 0, out_w, kernel_w, stride, padding):
            down = (bottom - top, stride * x.line, y.line)
            along = (right - left, stride * x.pixel, y.pixel)
            outer, inner = (down, along) if along[0] >= down[0] else (along, down)
            (lines, x_line, y_line), (length, x_step, y_step) = outer, inner
            regions.append(dict(
                lines=lines, length=length, x_line=x_line, y_line=y_line, x_step=x_step, y_step=y_step,
                x_offset=(top * stride - padding + ky) * x.line + (left * stride - padding + kx) * x.pixel,
                y_offset=(top - first) * y.line + left * y.pixel,
                first_tap=ky * kernel_w + kx, taps_y=ky_end - ky, taps_x=kx_end - kx,
            ))  # fmt: skip
    return y.shape[0], regions


def _tile_rows(most: int, images: int, lines: int, length: int, threads: int) -> int:
    """Rows of the tiles that a line of pixels is cut into: as even as they come, and a share for every thread.

    Tiles smaller by up to a fifth are better than one of another size at the end, which is one more kernel to compile.
    """
    tiles, share = -(-length // most), 1
    if images * lines == 1 and tiles < 8 * threads:
        share = threads
        tiles = min(-(-tiles // share) * share, length)
    rows = -(-length // tiles)
    even = (fewer for fewer in range(rows, -(-4 * rows // 5) - 1, -1) if length % (fewer * share) == 0)
    return next(even, rows)


def _parts(product: Product, region: dict[str, int], most: int) -> list[tuple[dict[str, int], int]]:
    """(part of a region, most rows of its tiles): a stem's border columns have whole tiles and then single pixels,
    rather than a kernel to compile for each number of pixels that may be left."""
    if region["taps_x"] == product.window[1] or product.depth > FEW:
        return [(region, most)]
    whole, rest = region["length"] - region["length"] % most, region["length"] % most
    after = dict(region, length=rest, x_offset=region["x_offset"] + whole * region["x_step"],
                 y_offset=region["y_offset"] + whole * region["y_step"])  # fmt: skip
    return [part for part in ((dict(region, length=whole), most), (after, 1)) if part[0]["length"]]


def _record(
    product: Product, region: dict[str, int], most: int, images: int, vectors: int, lanes: int, threads: int
) -> dict:
    """A region as the loop nest reads it: its lines cut into tiles of at most so many rows."""
    length, x, tap_bytes = region["length"], product.x, product.depth * 4 * vectors * lanes
    low, high = activation.limits(product.node.attributes.get("activation"))
    rows = _tile_rows(most, images, region["lines"], length, threads)
    w_tile = region["taps_y"] * region["taps_x"] * product.depth * CACHE_LINE
    full, edge = divmod(length, rows)
    return dict(
        tile=product.tile_kernel(rows, vectors, lanes),
        edge=product.tile_kernel(edge, vectors, lanes) if edge else 0,
        line_tiles=full + (edge > 0), full_tiles=full, lines=region["lines"],
        x_offset=region["x_offset"], x_line=region["x_line"], x_tile=rows * region["x_step"],
        y_offset=region["y_offset"], y_line=region["y_line"], y_tile=rows * region["y_step"],
        w_offset=region["first_tap"] * tap_bytes,
        w_tile=w_tile, next_tiles=-(-product.taps * tap_bytes // w_tile) if w_tile else 0,
        x_step=region["x_step"], y_step=region["y_step"],
        taps_y=region["taps_y"], taps_x=region["taps_x"], x_tap_y=x.line, x_tap_x=x.pixel, depth=product.depth,
        x_depth=x.channel, sum_block=SUM_BLOCK if product.y.pixels > 1 else VECTOR_SUM_BLOCK,
        w_skip=(product.window[1] - region["taps_x"]) * tap_bytes,
        residual=product.residual.address - product.y.address if product.residual else 0,
        low=bits(low), high=bits(high),
    )  # fmt: skip


def _steps(product: Product, context: Context) -> list[Step]:
    """One step per panel width and way of splitting; they write different channels, so the threads meet at the end."""
    node, y, steps, gating, first, w = product.node, product.y, [], [], 0, 0
    for vectors, lanes, panels in _panels(product, context.machine):
        width, w_image = vectors * lanes, 0
        if product.weight is not None:
            part = product.weight[first : first + panels * width]
            w = context.packed_weight((node.tensors["weight"], first), part, width, node)
        if product.gate is not None:
            # Images lie outside, panels inside: the weights of these panels for all images, then those of the next.
            scaled = context.scratch[node.output] + y.shape[0] * 4 * first * product.depth
            gating.append(_gating(product, w, scaled, panels, vectors, lanes))
            w, w_image = scaled, 4 * panels * width * product.depth
        # Panels that do not divide among the threads are left for a step in which the threads split pixels; that
        # step must begin with a group.
        group = panels // product.groups if product.groups > 1 else 1
        split = (panels - panels % context.threads) // group * group if splits_channels(y) else 0
        for count, by_panel in ((split, True), (panels - split, False)):
            if count:
                steps.append(_step(product, context, (vectors, lanes), count, first, (w, w_image), by_panel))
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


def _step(
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
    (images, regions), most = _regions(product), product.most_rows[vectors]
    parts = [part for region in regions for part in _parts(product, region, most)]
    panel_bytes, bias, own = 4 * vectors * lanes, 0, product.weight is None
    group_bytes = 4 * padded(y.channels, context.machine.lanes) // product.groups
    if not own:
        values = np.zeros(y.channels) if product.bias is None else product.bias
        bias = context.channel_vector((node.tensors["weight"], "bias"), values) + 4 * first
    threads = 1 if by_panel else context.threads
    fields = dict(
        x=x.address + (4 * first if own else 4 * first // group_bytes * 4 * product.depth), x_image=x.image,
        x_group=panel_bytes if own else 4 * product.depth,
        w=w[0], w_image=w[1], w_panel=product.taps * product.depth * panel_bytes, bias=bias,
        y=y.address + 4 * first, y_image=y.image, panel_bytes=panel_bytes, images=images, panels=panels,
        group_panels=1 if own else group_bytes // panel_bytes,
        regions=[_record(product, *part, images, vectors, lanes, threads) for part in parts],
        region_count=len(parts), split_panels=int(by_panel),
        # Panels that are split come from memory: each is used for all pixels before the next.
        chunk=1 << 40
        if by_panel
        else max(1, CHUNK_BYTES // (4 * x.channels * product.stride**2 * most)),
        later=0, later_bytes=0,  # see streaming.py
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


def is_narrow(node: Node, weight: np.ndarray, lanes: int) -> bool:
    """Whether depthwise.py takes it: several groups, each as wide as a power of two below a vector."""
    groups = node.attributes["groups"]
    group = weight.shape[0] // groups
    return groups > 1 and group == weight.shape[1] and group < lanes and lanes % group == 0


def conv2d(node: Node, context: Context, first: int = 0) -> list[Step]:
    """Dense, grouped or depthwise convolution, with bias, residual and activation.

    y is lines of the output from `first` on, if the convolution is dense.
    """
    weight, bias = _weight(node, context)
    (out, depth, *window), groups = weight.shape, node.attributes["groups"]
    registers, lanes, group = context.machine.registers, context.machine.lanes, out // groups
    if groups == 1 or group % lanes == 0:
        tile = dict(tile="matmul", most_rows=target.MATMUL_ROWS[registers])
    elif is_narrow(node, weight, lanes):
        return [depthwise(node, context)]
    else:
        raise Unsupported(
            f"{node.output}: groups of {depth} input and {group} output channels do not fit {lanes} lanes; supported "
            f"are depthwise, groups as wide as a power of two, and groups of whole vectors"
        )
    attributes = {name: node.attributes[name] for name in ("stride", "padding", "groups")}
    attributes.update(window=tuple(window), depth=depth, weight=weight, bias=bias, first=first)
    inputs, steps = _inputs(node, context), []
    x, y, gate = inputs["x"], inputs["y"], inputs["gate"]
    if gate is not None and not gates_weights(out, y.pixels):
        scaled = nhwc(x.shape, context.scratch[node.output], lanes)
        steps = [scale(node, context, x, gate, scaled)]
        inputs.update(x=scaled, gate=None)
    return steps + _steps(Product(node, **inputs, **tile, **attributes), context)


def _band(lines: int, line_bytes: int, context: Context) -> int:
    """Lines that all panels pass over before the next band is begun: few enough to stay in cache, and an equal part of
    every thread's share.

    All of them where each thread's part stays in cache anyway. Threads then split panels: at the end of a run of
    lines, the hardware would prefetch those that another thread is writing, once for every panel.
    """
    share, most = -(-lines // context.threads), max(1, CHUNK_BYTES // line_bytes)
    if share <= most:
        return lines
    return max(band for band in range(1, most + 1) if share % band == 0)


def depthwise(node: Node, context: Context, first: int = 0, ring: int = 0) -> Step:
    """Depthwise convolution, and with narrow groups, has a kernel of its own, since its taps share what they load.

    With `ring`, x has memory for that many lines only, one taking the place of another, and y is lines of the output
    from `first` on.
    """
    weight, bias = _weight(node, context)
    x, y, residual, _ = _inputs(node, context).values()
    lanes, (_, width, size, _) = context.machine.lanes, weight.shape
    stride, padding = node.attributes["stride"], node.attributes["padding"]
    low, high = activation.limits(node.attributes.get("activation"))
    (in_height, in_width), (out_height, out_width) = x.size, y.size
    lines, panels = y.shape[0] * out_height, padded(y.channels, lanes) // lanes
    values = np.zeros(y.channels) if bias is None else bias
    fields = dict(
        x=x.address, x_image=x.image, x_line=x.line, x_pixel=x.pixel,
        w=context.packed_weight((node.tensors["weight"], 0), weight, lanes, node),
        bias=context.channel_vector((node.tensors["weight"], "bias"), values),
        zeros=context.constant(("zeros",), lambda: np.zeros(lanes, np.float32)), y=y.address, y_image=y.image,
        y_line=y.line, y_pixel=y.pixel, residual=residual.address - y.address if residual else 0, images=y.shape[0],
        height=in_height, width=in_width, out_height=out_height, out_width=out_width,
        first=first, ring=ring or in_height,
        band=lines if ring or splits_channels(y) else _band(lines, stride * x.line, context),
        panels=panels, low=bits(low), high=bits(high),
    )  # fmt: skip
    rows = -(-out_width // -(-out_width // target.DEPTHWISE_ROWS[context.machine.registers][width]))
    variant = activation.variant(node.attributes.get("activation"))
    kernel = ("depthwise", size, stride, padding, rows, lanes, variant, width)
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
    kernel, stride, padding = (node.attributes[name] for name in ("kernel", "stride", "padding"))
    table = target.POOL_ROWS[context.machine.registers]
    product = Product(
        node, **_inputs(node, context), tile="max_pool", most_rows=table, window=(kernel, kernel), stride=stride,
        padding=padding,
    )  # fmt: skip
    return _steps(product, context)


STEPS = {"conv2d": conv2d, "linear": linear, "max_pool2d": max_pool2d}
