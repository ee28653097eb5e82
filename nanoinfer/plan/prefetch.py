"""What is used once comes from beyond L2, and had better be asked for while something else computes.

A network's head and its squeeze-and-excite layers are as fast as their weights arrive, while the convolutions before
them compute and hardly read. So those ask for the weights that come later, a cache line with each step of a tile,
wherever a tile has no lines left to ask for of the next panel, be it its own or the next product's first. Within bands
they first ask for activations too large for L2: the lines that the next product reads or, no less important, writes.
"""

from __future__ import annotations

from ..kernels.simd import CACHE_LINE
from ..lowering.step import Step

GAP = 16 << 10  # bytes between two weights (other constants) that are asked for with them


def look_ahead(steps: list[Step], threads: int) -> None:
    """Fill the fields of convolutions that say what to ask for, from the last step to the first.

    `after` is where the next one begins to read its weights; `later` is memory that waits, of which each takes what is
    nearest to its own time, as much as it has room for.
    """
    waiting: list[tuple[int, int]] = []  # (address, bytes) of weights that no step has asked for
    # The first panel of the convolution that comes next: (the first thread's, about how far the next thread's is)
    panel = (0, 0)
    for step in reversed(steps):
        panels = []
        for thread, own in enumerate(step.fields.get("programs", ())):
            lines: list[tuple[int, int]] = []  # that the next step of the bands reads and writes; they come first
            next_panel = panel[0] + thread * panel[1], 0
            for inner in reversed(own):
                _ask(inner, _room(inner, 1), 1, lines or waiting)
                lines += inner.streams
                next_panel = _first_panel(inner, next_panel, 1)
            panels.append(next_panel[0])
        if panels:
            panel = panels[0], (panels[-1] - panels[0]) // max(1, len(panels) - 1)
        panel = _first_panel(step, panel, threads)
        room = _room(step, threads)
        _ask(step, room, threads, waiting)
        if step.kernel == ("convolution",) and step.fields["w_panel"] and not room:
            address, size = step.fields["w"], step.fields["panels"] * step.fields["w_panel"]
            if waiting and 0 <= waiting[-1][0] - (address + size) <= GAP:
                after, more = waiting.pop()
                size = after + more - address
            waiting.append((address, size))


def _first_panel(step: Step, following: tuple[int, int], threads: int) -> tuple[int, int]:
    """Have a convolution ask for the first panel of the one that follows it; returns its own."""
    fields = step.fields
    if step.kernel != ("convolution",) or not fields["w_panel"]:
        return following
    if following[0]:
        fields.update(after=following[0], after_thread=following[1])
    share = -(-fields["panels"] // threads) * fields["w_panel"]
    return fields["w"], share if fields["split_panels"] else 0


def _ask(step: Step, room: int, threads: int, waiting: list[tuple[int, int]]) -> None:
    if room and waiting:
        address, size = waiting.pop()
        each = min(room, -(-size // (threads * CACHE_LINE)) * CACHE_LINE)
        step.fields.update(later=address, later_bytes=each)
        if each * threads < size:
            waiting.append((address + each * threads, size - each * threads))


def _room(step: Step, threads: int) -> int:
    """Bytes that a thread asks for in a step if each step of its tiles asks for a line, besides the next panels."""
    fields, room = step.fields, 0
    if step.kernel != ("convolution",) or not fields["w_panel"]:
        return 0
    for region in fields["regions"]:
        tiles = fields["images"] * region["lines"] * region["line_tiles"]
        panels = fields["panels"]
        if fields["split_panels"]:
            panels //= threads
        else:
            tiles //= threads
        chunks = -(-tiles // fields["chunk"])
        room += panels * max(0, tiles - chunks * region["next_tiles"]) * region["w_tile"]
    return room
