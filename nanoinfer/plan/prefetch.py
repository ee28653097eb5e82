"""Software prefetch: which step prefetches what.

Classifier heads and squeeze-and-excite layers touch each weight once and run at memory bandwidth, while convolutions
are compute-bound and leave that bandwidth idle. So the weights of the former are prefetched during the latter. Each
step over k of a tile prefetches one cache line. The first tiles of a micro-panel fetch the next micro-panel, of this
product or of the one that follows. The other tiles have lines to spare, with which they fetch weights of later steps.
Within fused blocks, rows that the next product reads or writes come before weights if they lie beyond L2.
"""

from __future__ import annotations

from typing import NamedTuple

from ..kernels.simd import CACHE_LINE
from ..lowering import Step
from ..lowering.layout import ceil_div

Ranges = list[tuple[int, int]]  # (address, bytes)


class FirstPanel(NamedTuple):
    """The micro-panel that a thread reads first in a product; addresses are 0 where no product follows."""

    address: int  # the first thread's
    thread_stride: int  # about how far the next thread's is


def schedule_prefetch(steps: list[Step], threads: int, gap: int) -> None:
    """Fill the prefetch fields of all products, in one backward pass.

    `next_panel` is where the product that follows begins to read its weights. `lookahead` is memory of a later step
    that is pending: each product takes the range that is nearest to its own time, as much as its budget allows. Two
    weights with at most `gap` bytes between them are one range.
    """
    pending: Ranges = []  # weights that no step prefetches yet
    following = FirstPanel(0, 0)
    for step in reversed(steps):
        if step.programs:
            following = _schedule_programs(step, following, pending)
            continue
        following = _link_panels(step, following, threads)
        budget = _budget(step, threads)
        _look_ahead(step, budget, threads, pending)
        if step.has_weights and not budget:
            _push(pending, step.instruction.w, step.instruction.panels * step.instruction.panel_stride, gap)


def _schedule_programs(step: Step, following: FirstPanel, pending: Ranges) -> FirstPanel:
    """Fill the prefetch fields within the programs of threads; returns the first micro-panel of these."""
    addresses = []
    for thread, program in enumerate(step.programs):
        row_ranges: Ranges = []  # that the next step of the fused block reads and writes; they come first
        panel = FirstPanel(following.address + thread * following.thread_stride, 0)
        for inner in reversed(program):
            _look_ahead(inner, _budget(inner, 1), 1, row_ranges or pending)
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


def _look_ahead(step: Step, budget: int, threads: int, pending: Ranges) -> None:
    """Have a product prefetch a part of what is pending: at most `budget` bytes by each thread."""
    if budget and pending:
        address, size = pending.pop()
        each = min(budget, ceil_div(size, threads * CACHE_LINE) * CACHE_LINE)
        step.instruction = step.instruction._replace(lookahead=address, lookahead_bytes=each)
        if each * threads < size:
            pending.append((address + each * threads, size - each * threads))


def _push(pending: Ranges, address: int, size: int, gap: int) -> None:
    """Add a range, as one with the last if they lie close together in this order."""
    if pending and 0 <= pending[-1][0] - (address + size) <= gap:
        after, more = pending.pop()
        size = after + more - address
    pending.append((address, size))


def _budget(step: Step, threads: int) -> int:
    """Bytes that a thread can prefetch in a step: a cache line a step over k, less those of the next micro-panels."""
    if not step.has_weights:
        return 0
    call, budget = step.instruction, 0
    for region, *_ in step.regions:
        tiles, panels = call.images * region.runs * region.run_tiles, call.panels
        if call.parallel_n:
            panels //= threads
        else:
            tiles //= threads
        blocks = ceil_div(tiles, call.block_tiles)
        budget += panels * max(0, tiles - blocks * region.panel_prefetch_tiles) * region.prefetch_bytes
    return budget
