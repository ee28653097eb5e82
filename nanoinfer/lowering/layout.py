"""Where values lie: NHWC, channels padded to whole vectors, so that no kernel has a ragged last vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..graph import Node
from ..kernels.simd import CACHE_LINE

# The pixels of a tile are read side by side. At a distance that is a multiple of this many bytes they fall into so few
# sets of an L1 cache (8 ways, 64 sets) that they push each other out; one cache line more, and they do not.
CONFLICT = 2048

ALIGNMENT = 128
HUGE_PAGE = 2 << 20
# Address space that constants are taken from: so much, and then as much again as there is. What is written to becomes
# memory.
RESERVE = 64 << 20


@dataclass(frozen=True)
class Place:
    """Where a value lies: its address and the distances in bytes between images, lines, pixels and channels.

    Tokens (N, T, D) are pixels of one line; (N, D) is one pixel.
    """

    shape: tuple[int, ...]
    address: int
    image: int
    line: int
    pixel: int
    channel: int = 4

    @property
    def channels(self) -> int:
        return self.shape[1] if len(self.shape) == 4 else self.shape[-1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        if len(self.shape) == 4:
            return self.shape[2:]
        return 1, self.shape[1] if len(self.shape) == 3 else 1

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.image

    @property
    def contiguous(self) -> bool:
        """Whether pixels follow each other without gaps, within and across images."""
        return self.channel == 4 and self.line == self.size[1] * self.pixel and self.image == self.pixels * self.pixel


def padded(channels: int, lanes: int) -> int:
    """Channels rounded up to whole vectors."""
    return -(-channels // lanes) * lanes


def nhwc(shape: tuple[int, ...], address: int, lanes: int) -> Place:
    """The place of a whole value at an address."""
    h, w = Place(shape, 0, 0, 0, 0).size
    pixel = 4 * padded(shape[1] if len(shape) == 4 else shape[-1], lanes)
    if pixel % CONFLICT == 0:
        pixel += CACHE_LINE
    return Place(shape, address, h * w * pixel, w * pixel, pixel)


def nchw(shape: tuple[int, ...], address: int) -> Place:
    """The place of an array as torch lays it out."""
    _, c, h, w = shape
    return Place(shape, address, 4 * c * h * w, 4 * w, 4, 4 * h * w)


def aligned_empty(size: int) -> np.ndarray:
    """float32 array of `size` elements that starts on a cache line.

    A large one starts on a huge page and has room up to the end of one: where the system gives huge pages on request
    (NumPy requests them), one entry of the TLB then serves 512 times as much.
    """
    unit = HUGE_PAGE if 4 * size >= HUGE_PAGE // 4 else ALIGNMENT
    buffer = np.empty((-(-4 * size // unit) + 1) * unit // 4, np.float32)
    start = -buffer.ctypes.data % unit // 4
    return buffer[start : start + size]


class Packed(dict):
    """Packed weights and constants by key, side by side in memory, so that they share huge pages."""

    def __init__(self):
        super().__init__()
        self._free, self._reserved = np.empty(0, np.float32), RESERVE // 4

    def empty(self, size: int) -> np.ndarray:
        """float32 array of `size` elements that starts on a cache line."""
        room = -(-4 * size // ALIGNMENT) * ALIGNMENT // 4
        if room > self._free.size:
            self._free = aligned_empty(max(room, self._reserved))
            self._reserved += self._free.size
        part, self._free = self._free[:size], self._free[room:]
        return part


# Nodes that compute nothing: another view of their input's memory.
def _flatten(node: Node, shape: tuple[int, ...], x: Place) -> Place:
    return replace(x, shape=shape)


def _select_token(node: Node, shape: tuple[int, ...], x: Place) -> Place:
    return replace(x, shape=shape, address=x.address + node.attributes["index"] * x.pixel)


VIEWS: dict[str, Callable[[Node, tuple[int, ...], Place], Place]] = {"flatten": _flatten, "select_token": _select_token}
