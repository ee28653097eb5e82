"""The convolution's loop nest: a ConvProblem to steps.

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
from ..kernels.simd import CACHE_LINE
from ..kernels.simd.activation import code, variant
from ..kernels.stem import Stem
from ..machine import Machine
from .layout import padded
from .packed import PackKey, PackRequest
from .step import Context, Step, TiledRegion, splits_channels
from .tiling import ConvProblem, Panels, Rectangle, panels, rectangles

ALL_TILES = 1 << 40  # more than any output has


class Weights(NamedTuple):
    """Packed weights in memory."""

    address: int
    image_stride: int = 0  # bytes from one image's weights to the next one's; 0 where images share them


def steps(problem: ConvProblem, context: Context) -> list[Step]:
    """One step for each width of micro-panels and way of splitting them.

    They write different channels, so a barrier follows the last one only.
    """
    gating, products, first, w = [], [], 0, 0
    cut = panels(problem, context.machine)
    for number, part in enumerate(cut, 1):
        w_image_stride = 0
        if problem.weight is not None:
            w = _packed(problem, context, part, first)
        if problem.gate is not None:
            # Images lie outside, micro-panels inside: these for all images, then those of the next width.
            scaled = context.workspaces[problem.node.output] + problem.y.images * 4 * first * problem.k
            gating.append(_gate_weights(problem, part, w, scaled))
            w, w_image_stride = scaled, 4 * part.count * part.width * problem.k
        for count, parallel_n in _split(problem, context.threads, part, last=number == len(cut)):
            weights = Weights(w, w_image_stride)
            products.append(product(problem, context, part._replace(count=count), weights, first, parallel_n))
            first += count * part.width
            w += count * part.width * problem.taps * problem.k * 4
    for last in (*gating[-1:], products[-1]):
        last.barrier = True
    return gating + products


def _split(problem: ConvProblem, threads: int, part: Panels, last: bool) -> list[tuple[int, bool]]:
    """[(micro-panels, whether threads split them rather than pixels)].

    Micro-panels that do not divide among the threads are left for a step in which the threads split pixels; that step
    must begin with a group. A single pixel is the last thread's, so that of its micro-panels only the very last is
    left, if it has a width of its own. The others are split as they come, the last thread having the fewest.
    """
    group = part.count // problem.groups if problem.groups > 1 else 1
    leaves = problem.y.images * problem.y.pixels > 1 or (last and part.count == 1)
    rest = part.count % threads if leaves else 0
    split = (part.count - rest) // group * group if splits_channels(problem.y) else 0
    return [(count, parallel_n) for count, parallel_n in ((split, True), (part.count - split, False)) if count]


def _packed(problem: ConvProblem, context: Context, part: Panels, first: int) -> int:
    """Address of the micro-panels of some output channels."""
    weight, order = problem.weight[first : first + part.count * part.width], ""
    if problem.is_patch:  # a micro-kernel walks channels, rows and then pixels of a row: see _loops
        weight, order = weight.transpose(0, 3, 1, 2), "patch"
    key = PackKey(problem.node.tensors["weight"], order, len(weight), part.width, first)
    return context.staging.weight(PackRequest(key, weight.shape, lambda: weight))


def _gate_weights(problem: ConvProblem, part: Panels, packed: int, scaled: int) -> Step:
    """The step that scales packed weights by the gates of every image."""
    gate, images, rows = problem.gate, problem.y.images, part.count * problem.k
    call = packing.GateInstruction(
        packed=packed, gate=gate.address, gate_image_stride=gate.image_stride, y=scaled, images=images, rows=rows,
        k=problem.k, vectors=part.nr,
    )  # fmt: skip
    return Step(packing.GateWeights(part.lanes), call, problem.node, images * rows * part.width, barrier=False)


def product(
    problem: ConvProblem, context: Context, part: Panels, weights: Weights, first: int, parallel_n: bool
) -> Step:
    """The step that computes `part` of the micro-panels, from output channel `first` on."""
    x, y, tuning, has_weight = problem.x, problem.y, context.machine.tuning, problem.weight is not None
    threads = 1 if parallel_n else context.threads
    images, cut = rectangles(problem, tuning, part.nr, threads)
    panel_bytes, k_bytes = 4 * part.width, 4 * problem.k
    group_bytes = 4 * padded(y.channels, context.machine.lanes) // problem.groups
    mr = problem.largest_mr(tuning, part.nr)
    block = tuning.block_bytes // (4 * x.channels * problem.stride**2 * mr)
    call = convolution.Instruction(
        x=x.address + (4 * first // group_bytes * k_bytes if has_weight else 4 * first),
        x_image_stride=x.image_stride, x_group_stride=k_bytes if has_weight else panel_bytes,
        w=weights.address, w_image_stride=weights.image_stride,
        panel_stride=problem.taps * problem.k * panel_bytes if has_weight else 0,
        bias=_bias(problem, context) + 4 * first if has_weight else 0,
        y=y.address + 4 * first, y_image_stride=y.image_stride, y_panel_stride=panel_bytes, images=images,
        panels=part.count, panels_per_group=group_bytes // panel_bytes if has_weight else 1,
        regions=0, region_count=len(cut), parallel_n=int(parallel_n),
        # Micro-panels that threads split come from memory: each is used for all pixels before the next.
        block_tiles=ALL_TILES if parallel_n else max(1, block),
        lookahead=0, lookahead_bytes=0, next_panel=weights.address, next_panel_thread_stride=0,  # see plan/prefetch.py
    )  # fmt: skip
    channels = min(part.count * part.width, y.channels - first)
    flops = 2 * y.images * y.pixels * channels * problem.taps * problem.k
    regions = tuple(_tiled(problem, context.machine, part, rectangle) for rectangle in cut)
    return Step(convolution.LoopNest(), call, problem.node, flops, barrier=False, regions=regions)


def _bias(problem: ConvProblem, context: Context) -> int:
    values = np.zeros(problem.y.channels) if problem.bias is None else problem.bias
    return context.channel_vector(bias_key(problem.node), values)


def bias_key(node: Node) -> tuple[str, str]:
    """Products may share a weight and not a bias; the zeros of those without one are as many as the weight has rows."""
    return node.tensors.get("bias", node.tensors["weight"]), "bias"


def _tiled(problem: ConvProblem, machine: Machine, part: Panels, rectangle: Rectangle) -> TiledRegion:
    """A rectangle as the loop nest and the micro-kernels read it: its runs cut into tiles."""
    x, tap_bytes = problem.x, problem.k * 4 * part.width
    full, edge = divmod(rectangle.length, rectangle.mr)
    prefetch_bytes = rectangle.taps_y * rectangle.taps_x * problem.k * CACHE_LINE
    if rectangle.stem_offsets.size:
        prefetch_bytes = 0
    prefetch_rows, has_weight = 0, problem.weight is not None
    # Groups and pooling: the channels that the next micro-panels read lie beside those of these.
    along_rows = rectangle.x_pixel_stride == problem.stride * x.pixel_stride
    if (problem.groups > 1 or not has_weight) and along_rows:
        prefetch_rows = min(problem.stride, rectangle.taps_y)
    next_group = 4 * (problem.k if has_weight else part.width)
    region = convolution.Region(
        full_tile=0, edge_tile=0, run_tiles=full + (edge > 0), full_tiles=full, runs=rectangle.runs,
        x_offset=rectangle.x_offset, x_run_stride=rectangle.x_run_stride,
        x_tile_stride=rectangle.mr * rectangle.x_pixel_stride, y_offset=rectangle.y_offset,
        y_run_stride=rectangle.y_run_stride, y_tile_stride=rectangle.mr * rectangle.y_pixel_stride,
        w_offset=rectangle.first_tap * tap_bytes, prefetch_bytes=prefetch_bytes,
        panel_prefetch_tiles=-(-problem.taps * tap_bytes // prefetch_bytes) if prefetch_bytes else 0,
        prefetch_rows=prefetch_rows,
        prefetch_offset=(rectangle.taps_y - prefetch_rows) * x.row_stride + next_group,
        prefetch_row_stride=x.row_stride, prefetch_pixel_stride=x.pixel_stride,
    )  # fmt: skip
    return TiledRegion(
        region, _tile(problem, machine, rectangle, tap_bytes),
        full=_micro_kernel(problem, part, rectangle, rectangle.mr),
        edge=_micro_kernel(problem, part, rectangle, edge) if edge else None,
        stem_offsets=rectangle.stem_offsets,
    )  # fmt: skip


def _tile(problem: ConvProblem, machine: Machine, rectangle: Rectangle, tap_bytes: int) -> convolution.Tile:
    y, numerics = problem.y, machine.tuning.numerics
    k_block = numerics.k_block if y.pixels > 1 else numerics.k_block_of_one_pixel

    def offset(view) -> int:
        return view.address - y.address if view else 0

    aux_in, aux_out = problem.aux or (None, None)
    return convolution.Tile(
        x_pixel_stride=rectangle.x_pixel_stride, y_pixel_stride=rectangle.y_pixel_stride,
        **_loops(problem, rectangle), k_block=problem.k_block or k_block,
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
    single = problem.taps == 1 and problem.padding == 0  # with padding, a border pixel may have no tap
    form = "partial" if problem.partial else "pointwise" if single else "taps"
    return Matmul(mr, part.nr, part.lanes, activation, form)
