"""Weights from their checkpoint's order to the order in which tiles read them, before a program that needs them runs.

    packed[panel][tap][k][lane] = weight[panel * width + lane][k][tap]

where a weight is (output channels, depth, taps) and `width` = vectors * lanes output channels make a panel. So a tile
reads its weights as one stream. Output channels that fill up the last panel are zeros.
"""

from __future__ import annotations

import math

import numpy as np

FIELDS = ("weight", "channels", "depth", "taps", "width", "packed")


def oracle(weight: np.ndarray, width: int) -> np.ndarray:
    """The definition in NumPy: (O, K, KH, KW) -> (panels, KH, KW, K, width)."""
    o, k, kh, kw = weight.shape
    packed = np.zeros((-(-o // width), kh, kw, k, width), np.float32)
    for panel in range(len(packed)):
        part = weight[panel * width : (panel + 1) * width]
        packed[panel, ..., : len(part)] = part.transpose(2, 3, 1, 0)
    return packed


def packed_size(shape: tuple[int, ...], width: int) -> int:
    """Number of floats in a packed weight of shape (O, K, KH, KW)."""
    return -(-shape[0] // width) * width * math.prod(shape[1:])


def build():
    """Threads split panels. Within a panel the rows of `width` channels are read side by side, as so many streams."""
    from .intrinsics import arguments, load_f32, minimum, store_f32

    fields = arguments(len(FIELDS))

    def packing(instruction, thread, threads):
        weight, channels, depth, taps, width, packed = fields(instruction)
        panels = (channels + width - 1) // width
        channel_bytes = 4 * depth * taps
        for panel in range(panels * thread // threads, panels * (thread + 1) // threads):
            source = weight + panel * width * channel_bytes
            target = packed + panel * width * channel_bytes
            present = minimum(width, channels - panel * width)
            for tap in range(taps):
                for k in range(depth):
                    at = source + 4 * (k * taps + tap)
                    for lane in range(present):
                        store_f32(target + 4 * lane, load_f32(at + lane * channel_bytes))
                    for lane in range(present, width):
                        store_f32(target + 4 * lane, np.float32(0))
                    target += 4 * width

    return packing
