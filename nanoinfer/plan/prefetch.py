"""Software prefetch: which step prefetches what.

Classifier heads and squeeze-and-excite layers touch each weight once and run at memory bandwidth, while convolutions
are compute-bound and leave that bandwidth idle. So the weights of the former are prefetched during the latter. Each
step over k of a tile prefetches some bytes. The first tiles of a micro-panel fetch the next micro-panel, of this
product or of the one that follows. The other tiles fetch weights of later steps; where there are none, all tiles share
the next micro-panel among them, since a core waits when more is requested than memory delivers. Within fused blocks,
rows that the next product reads or writes come before weights if they lie beyond L2.
"""

from __future__ import annotations

from typing import NamedTuple

from ..kernels.simd import CACHE_LINE
from ..lowering import Step
from ..lowering.layout import ceil_div
from ..machine import Tuning

Ranges = list[tuple[int, int]]  # (address, bytes)


class FirstPanel(NamedTuple):
    """The micro-panel that a thread reads first in a product; addresses are 0 where no product follows."""

    address: int  # the first thread's
    thread_stride: int  # about how far the next thread's is


def schedule_prefetch(steps: list[Step], threads: int, tuning: Tuning) -> None:
    """Fill the prefetch fields of all products, in one backward pass.

    `next_panel` is where the product that follows begins to read its weights. `lookahead` is memory of a later step
    that is pending: each product takes the range that is nearest to its own time, as much as its budget allows. Two
    weights with at most `gap` bytes between them are one range.
    """
    pending: Ranges = []  # weights that no step prefetches yet
    following = FirstPanel(0, 0)
    for step in reversed(steps):
        if step.programs:
            following = _schedule_programs(step, following, pending, tuning)
            continue
        following = _link_panels(step, following, threads)
        budget = _look_ahead(step, threads, pending, tuning)
        if step.has_weights and not budget:
            weights = step.instruction.panels * step.instruction.panel_stride
            _push(pending, step.instruction.w, weights, tuning.lookahead_gap)


def _schedule_programs(step: Step, following: FirstPanel, pending: Ranges, tuning: Tuning) -> FirstPanel:
    """Fill the prefetch fields within the programs of threads; returns the first micro-panel of these."""
    addresses = []
    for thread, program in enumerate(step.programs):
        row_ranges: Ranges = []  # that the next step of the fused block reads and writes; they come first
        panel = FirstPanel(following.address + thread * following.thread_stride, 0)
        for inner in reversed(program):
            _look_ahead(inner, 1, row_ranges or pending, tuning)
            row_ranges += inner.prefetch_ranges
            panel = _link_panels(inner, panel, 1)
        addresses.append(panel.address)
    if 0 in addresses:  # a thread without steps, and no product that follows
        return FirstPanel(max(addresses), 0)
    return FirstPanel(addresses[0], (addresses[-1] - addresses[0]) // max(1, len(addresses) - 1))


def _link_panels(step: Step, following: FirstPanel, threads: int) -> FirstPanel:
    """Have a product prefetch the first micro-panel of the one that follows it; returns its own first one."""
    if not step.has_weights:
        return following
    if following.address:
        step.instruction = step.instruction._replace(
            next_panel=following.address, next_panel_thread_stride=following.thread_stride
        )  # fmt: skip
    own = ceil_div(step.instruction.panels, threads) * step.instruction.panel_stride
    return FirstPanel(step.instruction.w, own if step.instruction.parallel_n else 0)


def _look_ahead(step: Step, threads: int, pending: Ranges, tuning: Tuning) -> int:
    """Have a product prefetch a part of what is pending; returns how many bytes each thread has room for.

    Where nothing is pending, its tiles have more time for the next micro-panels.
    """
    budget = _pace(step, threads, tuning.prefetch_step)
    if not budget:
        return 0
    if not pending:
        _pace(step, threads, tuning.slowest_prefetch_step)
        return budget
    address, size = pending.pop()
    each = min(budget, ceil_div(size, threads * CACHE_LINE) * CACHE_LINE)
    step.instruction = step.instruction._replace(lookahead=address, lookahead_bytes=each)
    if each * threads < size:
        pending.append((address + each * threads, size - each * threads))
    return budget


def _push(pending: Ranges, address: int, size: int, gap: int) -> None:
    """Add a range, as one with the last if they lie close together in this order."""
    if pending and 0 <= pending[-1][0] - (address + size) <= gap:
        after, more = pending.pop()
        size = after + more - address
    pending.append((address, size))


def _pace(step: Step, threads: int, slowest: int) -> int:
    """Set how fast a product prefetches; returns the bytes that each of its threads can prefetch beside micro-panels.

    A region's tiles prefetch `slowest` bytes with each step over k, or more where they are too few for a micro-panel:
    a cache line at most.
    """
    if not step.has_weights:
        return 0
    call, budget, regions = step.instruction, 0, []
    for tiled in step.regions:
        region, loops = tiled.region, tiled.loops
        steps = 0 if loops.stem_steps else loops.taps_y * loops.taps_x * loops.k  # a stem's tile prefetches nothing
        tiles, panels = call.images * region.runs * region.run_tiles, call.panels
        if call.parallel_n:
            panels //= threads
        else:
            tiles //= threads
        block = max(1, min(tiles, call.block_tiles))
        pace = min(CACHE_LINE, max(slowest, ceil_div(call.panel_stride, max(1, steps * block))))
        panel_tiles = ceil_div(call.panel_stride, pace * steps) if steps else 0
        region = region._replace(prefetch_bytes=pace * steps, panel_prefetch_tiles=panel_tiles)
        regions.append(tiled._replace(region=region, loops=loops._replace(prefetch_step=pace)))
        blocks = ceil_div(tiles, call.block_tiles)
        budget += panels * max(0, tiles - blocks * panel_tiles) * region.prefetch_bytes
    step.regions = tuple(regions)
    return budget
