"""The convolution's loop nest: a product to steps.

tiling.py decides how an output is cut into micro-panels and tiles; here stands what the threads split, and what every
step reads and prefetches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..graph import Node
from ..kernels import convolution, packing
from ..kernels.matmul import Matmul
from ..kernels.pooling import MaxPool
from ..kernels.simd.activation import code, variant
from ..kernels.stem import Stem
from ..machine import Machine
from .layout import round_up, splits_channels
from .packed import PackKey, PackRequest
from .step import Context, Step, TiledRegion
from .tiling import ConvProblem, Panels, Rectangle, panels, rectangles

ALL_TILES = 1 << 40  # more than any output has


class PackedAddress(NamedTuple):
    """Packed weights in memory."""

    address: int
    image_stride: int = 0  # bytes from one image's weights to the next one's; 0 where images share them


def steps(problem: ConvProblem, context: Context) -> list[Step]:
    """One step for each width of micro-panels and way of splitting them.

    They write different channels, so a barrier follows the last one only.
    """
    gates, products, first_channel = [], [], 0
    widths = panels(problem, context.machine)
    for number, part in enumerate(widths, 1):
        weights = PackedAddress(0)
        if problem.weight is not None:
            weights = PackedAddress(_packed(problem, context, part, first_channel))
        if problem.gate is not None:
            # The scaled copies of one width lie image after image; those of the next width follow.
            scaled = context.workspaces[problem.node.output] + problem.y.images * 4 * first_channel * problem.k
            gates.append(_gate_weights(problem, part, weights.address, scaled))
            weights = PackedAddress(scaled, 4 * part.count * part.width * problem.k)
        for count, parallel_n in _split(problem, context.threads, part, last=number == len(widths)):
            some = part._replace(count=count)
            products.append(product_step(problem, context, some, weights, first_channel, parallel_n))
            first_channel += count * part.width
            next_address = weights.address + count * part.width * problem.taps * problem.k * 4
            weights = weights._replace(address=next_address)
    for last in (*gates[-1:], products[-1]):
        last.barrier = True
    return gates + products


def _split(problem: ConvProblem, threads: int, part: Panels, last: bool) -> list[tuple[int, bool]]:
    """[(micro-panels, whether threads split them rather than pixels)].

    Micro-panels that do not divide among the threads become a step of their own, in which the threads split pixels;
    it begins with a group. Where there is only one pixel, the last thread would compute all of that step, while of
    micro-panels that are split unevenly it has the fewest. So then the remainder stays, unless it is the very last
    micro-panel, of a width of its own.
    """
    group = part.count // problem.groups if problem.groups > 1 else 1
    several_pixels = problem.y.images * problem.y.pixels > 1
    remainder = part.count % threads if several_pixels or (last and part.count == 1) else 0
    split = (part.count - remainder) // group * group if splits_channels(problem.y) else 0
    return [(count, parallel_n) for count, parallel_n in ((split, True), (part.count - split, False)) if count]


def _packed(problem: ConvProblem, context: Context, part: Panels, first_channel: int) -> int:
    """Address of the micro-panels of some output channels."""
    weight = problem.weight[first_channel : first_channel + part.count * part.width]
    axes = (0, 3, 1, 2) if problem.is_patch else (0, 1, 2, 3)  # of a patch: (O, KW, K, KH)
    order, shape = "patch" if problem.is_patch else "", tuple(weight.shape[axis] for axis in axes)
    key = PackKey(problem.node.tensors["weight"], order, len(weight), part.width, first_channel)
    return context.staging.weight(PackRequest(key, shape, lambda: np.asarray(weight).transpose(axes)))


def _gate_weights(problem: ConvProblem, part: Panels, packed: int, scaled: int) -> Step:
    """The step that scales packed weights by the gates of every image."""
    gate, images, rows = problem.gate, problem.y.images, part.count * problem.k
    instruction = packing.GateInstruction(
        packed=packed, gate=gate.address, gate_image_stride=gate.image_stride, y=scaled, images=images, rows=rows,
        k=problem.k, vectors=part.nr,
    )  # fmt: skip
    flops = images * rows * part.width
    return Step(packing.GateWeights(part.lanes), instruction, problem.node, flops, barrier=False)


def product_step(
    problem: ConvProblem, context: Context, part: Panels, weights: PackedAddress, first_channel: int, parallel_n: bool
) -> Step:
    """The step that computes `part` of the micro-panels, from output channel `first_channel` on."""
    x, y, tuning, has_weight = problem.x, problem.y, context.machine.tuning, problem.weight is not None
    images, cut = rectangles(problem, tuning, part.nr, threads=1 if parallel_n else context.threads)
    panel_bytes = 4 * part.width
    # Output channels that read the same input channels, and the input channels themselves. In pooling a micro-panel
    # reads its own channels, as if each were a group.
    group_bytes, x_group_stride = panel_bytes, panel_bytes
    if has_weight:
        group_bytes, x_group_stride = 4 * round_up(y.channels, context.machine.lanes) // problem.groups, 4 * problem.k
    first_byte = 4 * first_channel
    mr = problem.largest_mr(tuning, part.nr)
    block = tuning.block_bytes // (4 * x.channels * problem.stride**2 * mr)
    instruction = convolution.Instruction(
        x=x.address + first_byte // group_bytes * x_group_stride, x_image_stride=x.image_stride,
        x_group_stride=x_group_stride, w=weights.address, w_image_stride=weights.image_stride,
        panel_stride=problem.taps * problem.k * panel_bytes if has_weight else 0,
        bias=_bias(problem, context) + first_byte if has_weight else 0,
        y=y.address + first_byte, y_image_stride=y.image_stride, y_panel_stride=panel_bytes, images=images,
        panels=part.count, panels_per_group=group_bytes // panel_bytes, regions=0, region_count=len(cut),
        parallel_n=int(parallel_n),
        # Micro-panels that threads split come from memory: each is used for all pixels before the next.
        block_tiles=ALL_TILES if parallel_n else max(1, block),
        lookahead=0, lookahead_bytes=0, next_panel=weights.address, next_panel_thread_stride=0,  # see plan/prefetch.py
    )  # fmt: skip
    channels = min(part.count * part.width, y.channels - first_channel)
    flops = 2 * y.images * y.pixels * channels * problem.taps * problem.k
    regions = tuple(_tiled(problem, context.machine, part, rectangle) for rectangle in cut)
    return Step(convolution.LoopNest(), instruction, problem.node, flops, barrier=False, regions=regions)


def _bias(problem: ConvProblem, context: Context) -> int:
    values = np.zeros(problem.y.channels) if problem.bias is None else problem.bias
    return context.channel_vector(bias_key(problem.node), values)


def bias_key(node: Node) -> tuple[str, str]:
    """Products may share a weight and not a bias; the zeros of those without one are as many as the weight has rows."""
    return node.tensors.get("bias", node.tensors["weight"]), "bias"


def _tiled(problem: ConvProblem, machine: Machine, part: Panels, rectangle: Rectangle) -> TiledRegion:
    """A rectangle as the loop nest and the micro-kernels read it: its runs cut into tiles."""
    x, tap_bytes, has_weight = problem.x, problem.k * 4 * part.width, problem.weight is not None
    full, edge = divmod(rectangle.length, rectangle.mr)
    # Groups and pooling: the channels that the next micro-panels read lie beside those of these.
    prefetch_rows, next_group = 0, 4 * (problem.k if has_weight else part.width)
    along_rows = rectangle.x_pixel_stride == problem.stride * x.pixel_stride
    if (problem.groups > 1 or not has_weight) and along_rows:
        prefetch_rows = min(problem.stride, rectangle.taps_y)
    region = convolution.Region(
        full_kernel=0, edge_kernel=0, run_tiles=full + (edge > 0), full_tiles=full, runs=rectangle.runs,
        x_offset=rectangle.x_offset, x_run_stride=rectangle.x_run_stride,
        x_tile_stride=rectangle.mr * rectangle.x_pixel_stride, y_offset=rectangle.y_offset,
        y_run_stride=rectangle.y_run_stride, y_tile_stride=rectangle.mr * rectangle.y_pixel_stride,
        w_offset=rectangle.first_tap * tap_bytes, prefetch_bytes=0, panel_prefetch_tiles=0,  # see plan/prefetch.py
        prefetch_rows=prefetch_rows,
        prefetch_offset=(rectangle.taps_y - prefetch_rows) * x.row_stride + next_group,
        prefetch_row_stride=x.row_stride, prefetch_pixel_stride=x.pixel_stride,
    )  # fmt: skip
    return TiledRegion(
        region, _tile_loops(problem, machine, rectangle, tap_bytes),
        full_spec=_micro_kernel(problem, part, rectangle, rectangle.mr),
        edge_spec=_micro_kernel(problem, part, rectangle, edge) if edge else None,
        stem_offsets=rectangle.stem_offsets,
    )  # fmt: skip


def _tile_loops(problem: ConvProblem, machine: Machine, rectangle: Rectangle, tap_bytes: int) -> convolution.TileLoops:
    y, numerics = problem.y, machine.tuning.numerics
    k_block = numerics.k_block if y.pixels > 1 else numerics.k_block_of_one_pixel

    def offset(view) -> int:
        return view.address - y.address if view else 0

    aux_in, aux_out = problem.aux or (None, None)
    return convolution.TileLoops(
        x_pixel_stride=rectangle.x_pixel_stride, y_pixel_stride=rectangle.y_pixel_stride,
        **_loops(problem, rectangle), k_block=problem.k_block or k_block,
        prefetch_step=0,  # see plan/prefetch.py
        w_skip=(problem.window[1] - rectangle.taps_x) * tap_bytes, residual_offset=offset(problem.residual),
        stem_offsets=0, stem_steps=rectangle.stem_offsets.size,
        activation=code(problem.node.attributes.get("activation")),
        output_exceeds_l2=int(y.bytes > machine.tuning.prefetch_output_above * machine.l2_bytes),
        partial_offset=offset(problem.partial), aux_in_offset=offset(aux_in), aux_out_offset=offset(aux_out),
    )  # fmt: skip


def _loops(problem: ConvProblem, rectangle: Rectangle) -> dict[str, int]:
    """A micro-kernel's loops from a pixel's first element: over two axes of taps and, innermost, over k."""
    x, height, width = problem.x, rectangle.taps_y, rectangle.taps_x
    if problem.is_patch:  # over channels, rows and pixels of a row
        return dict(taps_y=problem.k, taps_x=height, x_tap_y_stride=x.channel_stride, x_tap_x_stride=x.row_stride,
                    k=width, x_k_stride=x.pixel_stride)  # fmt: skip
    return dict(taps_y=height, taps_x=width, x_tap_y_stride=x.row_stride, x_tap_x_stride=x.pixel_stride, k=problem.k,
                x_k_stride=x.channel_stride)  # fmt: skip


def _micro_kernel(problem: ConvProblem, part: Panels, rectangle: Rectangle, mr: int):
    """The spec of the micro-kernel for a tile of `mr` pixels."""
    if problem.weight is None:
        return MaxPool(mr, part.nr, part.lanes)
    activation = variant(problem.node.attributes.get("activation"))
    if rectangle.stem_offsets.size:
        return Stem(mr, part.nr, part.lanes, rectangle.x_pixel_stride, activation)
    single = problem.taps == 1 and problem.padding == (0, 0)  # with padding, a border pixel may have no tap
    form = "partial" if problem.partial else "pointwise" if single else "taps"
    if _loops(problem, rectangle)["x_k_stride"] != 4:
        form = "strided"
    return Matmul(mr, part.nr, part.lanes, activation, form)
