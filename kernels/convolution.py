"""Every product of activations with weights, as one loop nest over register tiles.

Pointwise, dense and grouped convolution, linear layers, patch embedding and max pooling all compute, for each output
pixel p and channel o, a sum over taps (ky, kx) and over k, the input channels of a group:

    y[p, o] = activation(bias[o] + sum over ky, kx, k of x[p * stride + (ky, kx) - padding, k] * w[o, k, ky, kx])

They differ in the innermost step alone: the *micro-kernel* (matmul.py, stem.py, pooling.py), which holds `mr` pixels of
`nr` vectors of output channels in registers and walks taps and k. This file holds the loops around it, which give it
pixels and micro-panels; nanoinfer/lowering/tiling.py cuts the output into regions and tiles.

*Micro-panels.* The weights of nr vectors of output channels lie side by side in the order in which a micro-kernel reads
them (packing.py), as one stream.

*Regions.* Near the border some taps fall outside of the image. The output is cut into rectangles within which the set
of valid taps is the same, and each is computed with these taps only. So no loop has a test for the border, no input is
copied to pad it, and an output's chain of multiply-adds is the same wherever its tile starts. A region is walked in
*runs* of pixels along its longer side: image rows, or columns for the left and right border.

*Order of work.* Micro-panels outside, pixels inside: a micro-panel stays in L1 while the pixels stream past it. Pixels
come in blocks that fit L2, so that the next micro-panel finds them there. Threads split pixels (the M dimension of the
product) or micro-panels (N).

*Prefetch.* A micro-kernel prefetches some bytes with each step over k: the first tiles of a micro-panel prefetch the
next one, which may be the next product's first (`next_panel`); the tiles after them prefetch weights of a later step
(`lookahead`) or, for a product of a single run of pixels, the pixels of the next L2 block.
"""

from __future__ import annotations

from typing import NamedTuple


class Instruction(NamedTuple):
    """One product over all regions of its output. Strides and sizes are in bytes."""

    x: int  # address of the first input pixel
    x_image_stride: int
    x_group_stride: int  # from the input channels of a group of micro-panels to those of the next
    w: int  # address of the packed weights
    w_image_stride: int  # 0 where images share their weights
    panel_stride: int  # from a micro-panel to the next; 0 without weights
    bias: int  # address
    y: int  # address of the first output pixel
    y_image_stride: int
    y_panel_stride: int  # 4 * nr * lanes: from a micro-panel's output channels to the next one's, in bias and y
    images: int
    panels: int  # micro-panels
    panels_per_group: int  # micro-panels that read the same input channels
    regions: int  # address of the table of regions: for each a Region, then its TileLoops
    region_count: int
    parallel_n: int  # 1: threads split micro-panels (N); 0: threads split pixels (M)
    block_tiles: int  # tiles of pixels in an L2 block
    lookahead: int  # address of memory that a later step needs, to prefetch meanwhile
    lookahead_bytes: int  # bytes of it that each thread prefetches
    next_panel: int  # address of the micro-panel that the first thread needs after its last one here
    next_panel_thread_stride: int  # from there to about where the next thread's is


class Region(NamedTuple):
    """A rectangle of outputs that see the same taps, as the loop nest walks it. Offsets and strides are in bytes."""

    full_kernel: int  # address of the micro-kernel for a tile of `mr` pixels
    edge_kernel: int  # address of the one for the pixels left over at the end of a run
    run_tiles: int  # tiles of a run, the edge included
    full_tiles: int  # tiles of a run without the edge
    runs: int
    x_offset: int  # from the image's first pixel to the first that the region reads
    x_run_stride: int
    x_tile_stride: int  # mr * TileLoops.x_pixel_stride
    y_offset: int
    y_run_stride: int
    y_tile_stride: int
    w_offset: int  # of the first valid tap in a micro-panel
    prefetch_bytes: int  # that a tile prefetches: TileLoops.prefetch_step for each step over k
    panel_prefetch_tiles: int  # tiles that prefetch the next micro-panel; those after them look ahead
    # Where the next group of micro-panels reads other input channels, tiles prefetch these, of the pixels that a run
    # of tiles is the first to read:
    prefetch_rows: int  # image rows of them; 0 where the next group reads the same channels
    prefetch_offset: int  # from a tile's first pixel to the first that it prefetches
    prefetch_row_stride: int
    prefetch_pixel_stride: int


class TileLoops(NamedTuple):
    """What all tiles of a region have in common, as their micro-kernel reads it. Offsets and strides are in bytes."""

    x_pixel_stride: int  # from a pixel of the tile to the next
    y_pixel_stride: int
    taps_y: int  # taps of two outer loops; of a patch, channels and image rows (lowering/loop_nest.py)
    taps_x: int
    x_tap_y_stride: int
    x_tap_x_stride: int
    k: int  # steps of the innermost loop over one tap: input channels of a group
    x_k_stride: int
    k_block: int  # steps in one chain of multiply-adds
    prefetch_step: int  # bytes by which a prefetch goes on with each step over k
    w_skip: int  # of invalid taps between the end of one row of taps and the start of the next
    residual_offset: int  # from an output element to the one that is added to it; 0: none
    # The stem's micro-kernel (stem.py) has a list in place of loops over taps and k:
    stem_offsets: int  # address of int64 offsets from an input pixel to the elements that meet in it
    stem_steps: int  # their number
    activation: int  # its code within the kernel's variant (simd/activation.py)
    output_exceeds_l2: int  # 1: y and the residual are not in L2, so that a tile prefetches them when it begins
    # Partial sums (Strassen's scheme), as offsets from an output element:
    partial_offset: int  # to the partial sum that is added to it, before the residual
    aux_in_offset: int  # to another partial sum, to which the tile's own sum is added as well
    aux_out_offset: int  # to where that goes; 0: there is none


class TileCall(NamedTuple):
    """One call of a micro-kernel: `count` tiles side by side. Addresses."""

    x: int  # the first tile's first pixel
    w: int  # the first valid tap in the micro-panel
    bias: int
    y: int
    count: int  # tiles
    prefetch: int  # what the first tile prefetches; each tile goes on where the one before it ends
    prefetch_end: int  # from here on tiles prefetch their own weights, which are in L1 already


class LoopNest(NamedTuple):
    """The kernel around all micro-kernels: one for every machine, since whatever varies is in its records."""


def build(_: LoopNest):
    """Assumes: a region has at least one run, and a run at least one tile."""
    from .simd.intrinsics import call_tiles, instruction_reader, minimum, prefetch, reader, stack_space, writer

    read_instruction, read_region = instruction_reader(Instruction), reader(Region)
    new_tile_call, write_tile_call = stack_space(TileCall), writer(TileCall)
    loops_offset = 8 * len(Region._fields)  # bytes from a Region to the TileLoops behind it
    record_bytes = loops_offset + 8 * len(TileLoops._fields)

    def convolution(row_address, thread, threads):
        call, tile_call = read_instruction(row_address), new_tile_call()
        lookahead = call.lookahead + thread * call.lookahead_bytes
        lookahead_end = lookahead + call.lookahead_bytes
        last_record = call.regions + (call.region_count - 1) * record_bytes
        for record in range(call.regions, last_record + record_bytes, record_bytes):
            region = read_region(record)
            first_panel, end_panel = 0, call.panels
            first, end = 0, call.images * region.runs * region.run_tiles
            if call.parallel_n:  # rounded up: where panels do not come out even, the first threads have one more
                first_panel = (call.panels * thread + threads - 1) // threads
                end_panel = (call.panels * (thread + 1) + threads - 1) // threads
            else:
                first, end = end * thread // threads, end * (thread + 1) // threads
            # Loop over L2 blocks: tiles first..stop, counted over all images and runs.
            while first < end:
                stop = minimum(first + call.block_tiles, end)
                x_region = call.x + region.x_offset
                next_block = x_region + stop * region.x_tile_stride
                next_block_end = x_region + minimum(stop + call.block_tiles, end) * region.x_tile_stride
                # Loop over micro-panels.
                for panel in range(first_panel, end_panel):
                    panel_x = x_region + panel // call.panels_per_group * call.x_group_stride
                    panel_y = call.y + region.y_offset + panel * call.y_panel_stride
                    panel_w = call.w + region.w_offset + panel * call.panel_stride
                    panel_bias = call.bias + panel * call.y_panel_stride
                    next_panel = call.w + (panel + 1) * call.panel_stride
                    if panel + 1 == end_panel:
                        done = stop == end and record == last_record
                        after = call.next_panel + thread * call.next_panel_thread_stride
                        next_panel = after if done else call.w + first_panel * call.panel_stride
                    # Loop over calls of a micro-kernel: tiles side by side in one run.
                    tile = first
                    while tile < stop:
                        run = tile // region.run_tiles
                        tile_in_run = tile - run * region.run_tiles
                        image = run // region.runs
                        run -= image * region.runs
                        x = panel_x + image * call.x_image_stride
                        x += run * region.x_run_stride + tile_in_run * region.x_tile_stride
                        w = panel_w + image * call.w_image_stride
                        y = panel_y + image * call.y_image_stride
                        y += run * region.y_run_stride + tile_in_run * region.y_tile_stride
                        count, micro_kernel = minimum(region.full_tiles - tile_in_run, stop - tile), region.full_kernel
                        if count <= 0:
                            count, micro_kernel = 1, region.edge_kernel
                        if tile < first + region.panel_prefetch_tiles:  # 1. the next micro-panel
                            count = minimum(count, first + region.panel_prefetch_tiles - tile)
                            ahead = next_panel + (tile - first) * region.prefetch_bytes
                            ahead_end = next_panel + call.panel_stride
                        elif lookahead < lookahead_end or region.runs * call.images > 1:  # 2. a later step, or nothing
                            ahead, ahead_end = lookahead, lookahead_end
                            lookahead += count * region.prefetch_bytes
                        else:  # 3. pixels of the next L2 block
                            ahead, ahead_end = next_block, next_block_end
                            next_block += count * region.prefetch_bytes
                        for row in range(region.prefetch_rows):
                            start = x + region.prefetch_offset + row * region.prefetch_row_stride
                            for pixel in range(
                                start, start + count * region.x_tile_stride, region.prefetch_pixel_stride
                            ):
                                prefetch(pixel)
                        write_tile_call(tile_call, x, w, panel_bias, y, count, ahead, ahead_end)
                        call_tiles(micro_kernel, record + loops_offset, tile_call)
                        tile += count
                first = stop

    return convolution
