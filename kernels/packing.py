"""Weights from their checkpoint's order to the order in which tiles read them, before a program that needs them runs.

    packed[panel][tap][k][lane] = weight[panel * width + lane][k][tap]

where a weight is (output channels, depth, taps) and `width` = vectors * lanes output channels make a panel. So a tile
reads its weights as one stream. Output channels that fill up the last panel are zeros.

Or, for Strassen's scheme (nanoinfer/strassen.py), a sum of the quarters of a weight (2 channels, 2 depth) is packed:
see `sum_of_quarters`.
"""

from __future__ import annotations

import math

import numpy as np

FIELDS = (
    "weight",
    "row",  # bytes from an output channel to the next
    "channels",
    "depth",
    "taps",
    "width",
    "packed",
    "quarters",  # 0: pack a whole weight; 1: a sum of its quarters, whose first output channels and depth these are:
    "count11",  # how often the first is in it,
    "count12",  # the one of the other output channels,
    "count21",  # of the other input channels,
    "count22",  # of both
)


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


def sum_of_quarters(weight: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """(O / 2, K / 2, 1, 1) of a weight (O, K, 1, 1), rounded once: b11, b12, b21 and b22 so many times."""
    quarters = [quarter for half in np.split(weight, 2, 1) for quarter in np.split(half, 2)]
    counted = zip(quarters, counts, strict=True)
    return sum(np.multiply(quarter, count, dtype=np.float64) for quarter, count in counted if count).astype(np.float32)


def build():
    """Threads split panels. Within a panel the rows of `width` channels are read side by side, as so many streams."""
    from .simd.intrinsics import arguments, load_f32, minimum, store_f32

    fields = arguments(len(FIELDS))

    def packing(instruction, thread, threads):
        (weight, row, channels, depth, taps, width, packed, quarters, count11, count12, count21,
         count22) = fields(instruction)  # fmt: skip
        panels, down, across = (channels + width - 1) // width, channels * row, 4 * depth * taps
        for panel in range(panels * thread // threads, panels * (thread + 1) // threads):
            source = weight + panel * width * row
            target = packed + panel * width * across
            present = minimum(width, channels - panel * width)
            for tap in range(taps):
                for k in range(depth):
                    at = source + 4 * (k * taps + tap)
                    if quarters == 0:
                        for lane in range(present):
                            store_f32(target + 4 * lane, load_f32(at + lane * row))
                    else:
                        for lane in range(present):
                            first = at + lane * row
                            total = np.float64(0)
                            if count11 != 0:
                                total += count11 * np.float64(load_f32(first))
                            if count12 != 0:
                                total += count12 * np.float64(load_f32(first + down))
                            if count21 != 0:
                                total += count21 * np.float64(load_f32(first + across))
                            if count22 != 0:
                                total += count22 * np.float64(load_f32(first + down + across))
                            store_f32(target + 4 * lane, np.float32(total))
                    for lane in range(present, width):
                        store_f32(target + 4 * lane, np.float32(0))
                    target += 4 * width

    return packing
