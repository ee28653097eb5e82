"""Lifetimes to offsets: one arena for all activations of a plan. Integers in, integers out."""

from __future__ import annotations

from ..lowering.layout import ALIGNMENT


def place(sizes: dict[str, int], lifetimes: dict[str, tuple[int, int]]) -> tuple[dict[str, int], int]:
    """({buffer: offset}, total bytes): no two buffers whose lifetimes meet overlap; offsets are 128-byte multiples.

    A lifetime is (first step, last step), both included. Largest first, among these the longest-lived first, each
    into the lowest gap that it fits.
    """
    offsets: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], lifetimes[name][0] - lifetimes[name][1])):
        first, last = lifetimes[name]
        busy = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if lifetimes[other][0] <= last and first <= lifetimes[other][1]
        )
        offset = 0
        for start, end in busy:
            if offset + sizes[name] <= start:
                break
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        offsets[name] = offset
    return offsets, max((offsets[name] + sizes[name] for name in sizes), default=0)
