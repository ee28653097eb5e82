"""Every product of activations with weights, as one loop nest over register tiles.

Pointwise, dense and grouped convolution, linear layers, patch embedding and max pooling all compute, for
each output pixel and channel, a sum over taps (ky, kx) and over a depth of input channels:

    y[p, o] = activation(bias[o] + sum over ky, kx, k of x[p * stride + (ky, kx) - padding, k] * w[o, k, ky, kx])

They differ in the innermost step alone. That step is a *tile* (matmul.py, pooling.py): a micro-kernel
that holds `rows` pixels x `vectors` vectors of channels in registers and walks taps and depth. This file holds what
is common: the loops that hand pixels and channel panels to tiles, and the cutting of an image's border into regions.

*Regions.* Near the border some taps fall outside of the image. The output is cut into rectangles within which the
set of valid taps is the same; for each, a tile is run with just those taps. So no loop has a test for the border,
no input is copied to pad it, and an output's chain of multiply-adds is the same wherever its tile starts. Tiles run
along the longer side of a region: a left or right border column is walked downwards.

*Order of work.* Panels outside, pixels inside: a panel of weights stays in L1 while the pixels stream past it.
Pixels come in chunks that fit L2, so that the next panel finds them there. Threads split pixels, or panels where an
output has more channels than pixels. While a tile works it asks for memory, a cache line a step: the first few tiles
of a panel for the next panel, which may be the next product's first (`after`), those behind them for what a later step
needs (`later`), or if that has been asked for, for the pixels of the next chunk.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .simd.activation import FIELDS as ACTIVATION

# An instruction of `convolution_f32`; addresses and strides in bytes.
FIELDS = (
    "x",  # first input pixel
    "x_image",
    "x_group",  # from a group of panels to the next one's input channels
    "w",  # packed weights
    "w_image",  # 0, or from one image's weights to the next's
    "w_panel",
    "bias",
    "y",  # first output pixel
    "y_image",
    "panel_bytes",  # vectors * lanes * 4: from a panel to the next, in bias and y
    "images",
    "panels",
    "group_panels",  # panels that read the same input channels
    "regions",  # address of the region records
    "region_count",
    "split_panels",  # 1: threads split panels; 0: they split pixels
    "chunk",  # tiles between changes of panel
    "later",  # memory that a later step needs, to ask for meanwhile
    "later_bytes",  # so much by each thread
    "after",  # the first panel that the first thread needs behind its last one here,
    "after_thread",  # and from there to about where the next thread's is
)

# A record of the region table: what the loop nest needs, then what the tile reads.
REGION = (
    "tile",  # address of the micro-kernel for a full tile of pixels
    "edge",  # the one for the pixels left over at the end of a line
    "line_tiles",  # tiles in a line, the edge included
    "full_tiles",  # without it
    "lines",
    "x_offset",
    "x_line",
    "x_tile",  # from a tile's first pixel to the next tile's
    "y_offset",
    "y_line",
    "y_tile",
    "w_offset",  # the first valid tap
    "w_tile",  # bytes of weights that a tile asks for while it works
    "next_tiles",  # tiles that ask for the next panel; all after them ask for what a later step needs
    # Of the pixels that a line of tiles is the first to read, it asks for the channels of the next group of panels:
    "ask_lines",  # in so many lines; 0: the next group reads the same channels
    "ask_offset",  # from a tile's first pixel to the first that it asks for
    "ask_line",
    "ask_pixel",
    "x_step",  # from a pixel of the tile to the next
    "y_step",
    "taps_y",  # of a patch: channels, and below lines and, as depth, pixels of a line (product.py's _walk)
    "taps_x",
    "x_tap_y",
    "x_tap_x",
    "depth",
    "x_depth",
    "sum_block",  # input channels in one chain of multiply-adds
    "w_skip",  # bytes of invalid taps between the end of one row of taps and the start of the next
    "residual",  # 0, or the distance in bytes from an output element to the element that is added to it
    # Of a stem's tiles (stem.py): from a pixel of the input to what meets in it
    "offsets",  # address of a list of distances
    "steps",  # their number
    *ACTIVATION,
    "far",  # 1: y and the residual are not in L2, so tiles ask for them when they begin
    # Of tiles that add partial sums, the same distances:
    "partial",  # to the one that goes into y, before the residual
    "also_add",  # to another one, which the tile's own is added to as well,
    "also_to",  # and to where that goes; 0: nowhere
)
TILE_START = REGION.index("x_step")


def oracle(x, weight, bias, stride, padding, groups):
    """The definition in NumPy: x (N, H, W, C), weight (O, C / groups, KH, KW) -> (N, OH, OW, O), in x's dtype."""
    n, h, w, c = x.shape
    o, depth, kh, kw = weight.shape
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    oh, ow = (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1
    y = np.zeros((n, oh, ow, o), x.dtype) + bias
    for ky in range(kh):
        for kx in range(kw):
            tap = padded[:, ky : ky + oh * stride : stride, kx : kx + ow * stride : stride][:, :oh, :ow]
            for g in range(groups):
                out = slice(g * o // groups, (g + 1) * o // groups)
                y[..., out] += tap[..., g * depth : (g + 1) * depth] @ weight[out, :, ky, kx].T
    return y


@lru_cache
def border_groups(
    size: int, first: int, end: int, kernel: int, stride: int, padding: int
) -> list[tuple[int, int, int, int]]:
    """(first, end, first tap, end tap) of the runs among outputs first..end along an axis that see the same taps."""
    runs = []
    for position in range(first, end):
        start = position * stride - padding
        taps = max(0, -start), min(kernel, size - start)
        if runs and runs[-1][2:] == taps:
            runs[-1] = (runs[-1][0], position + 1, *taps)
        else:
            runs.append((position, position + 1, *taps))
    return runs


def build():
    """The loop nest; all that varies is data."""
    from .simd.intrinsics import arguments, call_tile, minimum, prefetch

    instruction_fields = arguments(len(FIELDS))
    region_fields = arguments(TILE_START, first=0)
    region_bytes = 8 * len(REGION)

    def convolution(instruction, thread, threads):
        (x, x_image, x_group, w, w_image, w_panel, bias, y, y_image, panel_bytes, images, panels, group_panels, regions,
         region_count, split_panels, chunk, later, later_bytes, after,
         after_thread) = instruction_fields(instruction)  # fmt: skip
        later += thread * later_bytes
        later_end = later + later_bytes
        last_region = regions + (region_count - 1) * region_bytes
        for region in range(regions, last_region + region_bytes, region_bytes):
            (tile, edge, line_tiles, full_tiles, lines, x_offset, x_line, x_tile, y_offset, y_line, y_tile, w_offset,
             w_tile, next_tiles, ask_lines, ask_offset, ask_line, ask_pixel) = region_fields(region)  # fmt: skip
            first_panel, end_panel = 0, panels
            first, end = 0, images * lines * line_tiles
            if split_panels:  # rounded up: where they do not come out even, the first threads have one more
                first_panel = (panels * thread + threads - 1) // threads
                end_panel = (panels * (thread + 1) + threads - 1) // threads
            else:
                first, end = end * thread // threads, end * (thread + 1) // threads
            while first < end:
                stop = minimum(first + chunk, end)
                pixels, pixels_end = x + x_offset + stop * x_tile, x + x_offset + minimum(stop + chunk, end) * x_tile
                for panel in range(first_panel, end_panel):
                    panel_x = x + x_offset + panel // group_panels * x_group
                    panel_y = y + y_offset + panel * panel_bytes
                    panel_w = w + w_offset + panel * w_panel
                    panel_bias = bias + panel * panel_bytes
                    next_w = w + (panel + 1) * w_panel
                    if panel + 1 == end_panel:
                        done = stop == end and region == last_region
                        next_w = after + thread * after_thread if done else w + first_panel * w_panel
                    at = first
                    while at < stop:
                        line = at // line_tiles
                        column = at - line * line_tiles
                        image = line // lines
                        line -= image * lines
                        tile_x = panel_x + image * x_image + line * x_line + column * x_tile
                        tile_w = panel_w + image * w_image
                        tile_y = panel_y + image * y_image + line * y_line + column * y_tile
                        count = minimum(full_tiles - column, stop - at)
                        kernel = tile
                        if count <= 0:
                            count, kernel = 1, edge
                        if at < first + next_tiles:
                            count = minimum(count, first + next_tiles - at)
                            ahead, ahead_end = next_w + (at - first) * w_tile, next_w + w_panel
                        elif later < later_end or lines * images > 1:
                            ahead, ahead_end = later, later_end
                            later += count * w_tile
                        else:
                            ahead, ahead_end = pixels, pixels_end
                            pixels += count * w_tile
                        for asked in range(ask_lines):
                            start = tile_x + ask_offset + asked * ask_line
                            for pixel in range(start, start + count * x_tile, ask_pixel):
                                prefetch(pixel)
                        call_tile(kernel, region, tile_x, tile_w, panel_bias, tile_y, count, ahead, ahead_end)
                        at += count
                first = stop

    return convolution
