"""Weights from their checkpoint's order to micro-panels, and micro-panels times the gates of squeeze-and-excite.

    packed[panel][tap][k][channel] = weight[panel * width + channel][k][tap]

A weight is (output channels, k, taps), and `width` = nr * lanes output channels make a micro-panel. So a micro-kernel
reads its weights as one stream. Output channels that fill up the last micro-panel are zeros. Packing runs once, before
a program that needs the weights.

For Strassen's scheme (nanoinfer/lowering/strassen.py) a sum of the quarters of a weight (2 channels, 2 k) is packed
instead: each quarter as often as its coefficient says (`sum_of_quarters`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Packing(NamedTuple):
    """One kernel for all machines: the width of a micro-panel is in the instruction."""


class Instruction(NamedTuple):
    """One weight. Strides are in bytes."""

    weight: int  # address
    channel_stride: int  # from an output channel to the next
    channels: int  # output channels
    k: int  # input channels of a group
    taps: int
    width: int  # output channels of a micro-panel
    y: int  # address of the packed weight
    quarters: int  # 0: pack a whole weight; 1: a sum of its quarters, whose first one `channels` and `k` describe
    # The weight (O, K) is b transposed: from quarter b11, b12 lies half of the output channels down, b21 half of the
    # input channels across.
    coefficient11: int
    coefficient12: int
    coefficient21: int
    coefficient22: int


def coefficient_fields(coefficients: tuple[int, ...]) -> dict[str, int]:
    """The last five fields: coefficients of b11, b12, b21 and b22, or () for a whole weight."""
    return dict(zip(Instruction._fields[-5:], (1, *coefficients) if coefficients else (0,) * 5, strict=True))


def reference(weight: np.ndarray, width: int) -> np.ndarray:
    """(O, K, KH, KW) -> float32 (panels, KH, KW, K, width)."""
    o, k, kh, kw = weight.shape
    packed = np.zeros((-(-o // width), kh, kw, k, width), np.float32)
    for panel in range(len(packed)):
        part = weight[panel * width : (panel + 1) * width]
        packed[panel, ..., : len(part)] = part.transpose(2, 3, 1, 0)
    return packed


def packed_size(shape: tuple[int, ...], width: int) -> int:
    """Number of floats in a packed weight of shape (O, K, KH, KW)."""
    return -(-shape[0] // width) * width * math.prod(shape[1:])


def sum_of_quarters(weight: np.ndarray, coefficients: tuple[int, ...]) -> np.ndarray:
    """(O / 2, K / 2, 1, 1) of a weight (O, K, 1, 1): coefficients times b11, b12, b21 and b22, rounded once."""
    quarters = [quarter for half in np.split(weight, 2, 1) for quarter in np.split(half, 2)]
    terms = [np.multiply(q, c, dtype=np.float64) for q, c in zip(quarters, coefficients, strict=True) if c]
    return sum(terms).astype(np.float32)


def example(lanes: int, generator: np.random.Generator, check) -> None:
    """Whole weights, and sums of quarters, with a last micro-panel that is not full."""
    for channels, k, window, width in ((5, 3, 1, lanes), (33, 7, 3, 2 * lanes)):
        weight = generator.standard_normal((channels, k, window, window), np.float32)
        fields = dict(channel_stride=weight.strides[0], channels=channels, k=k, taps=window**2, width=width)
        check(Packing(), reference(weight, width), weight=weight, **fields, **coefficient_fields(()))
    weight = generator.standard_normal((34, 6, 1, 1), np.float32)
    for coefficients in ((1, -1, 0, 1), (-1, 1, 1, -1)):
        fields = dict(channel_stride=weight.strides[0], channels=17, k=3, taps=1, width=lanes)
        packed = reference(sum_of_quarters(weight, coefficients), lanes)
        check(Packing(), packed, weight=weight, **fields, **coefficient_fields(coefficients))


def build(_: Packing):
    """Threads split micro-panels. The `width` output channels of one are read side by side, as so many streams."""
    from .simd.intrinsics import instruction_reader, load_f32, minimum, store_f32

    read = instruction_reader(Instruction)

    def packing(row_address, thread, threads):
        call = read(row_address)
        width, channel_stride = call.width, call.channel_stride
        panels = (call.channels + width - 1) // width
        down, across = call.channels * channel_stride, 4 * call.k * call.taps  # from a quarter to its neighbours
        for panel in range(panels * thread // threads, panels * (thread + 1) // threads):
            source = call.weight + panel * width * channel_stride
            target = call.y + panel * width * across
            present = minimum(width, call.channels - panel * width)
            for tap in range(call.taps):
                for k in range(call.k):
                    column = source + 4 * (k * call.taps + tap)
                    if call.quarters == 0:
                        for channel in range(present):
                            store_f32(target + 4 * channel, load_f32(column + channel * channel_stride))
                    else:
                        for channel in range(present):
                            b11 = column + channel * channel_stride
                            total = np.float64(0)
                            if call.coefficient11 != 0:
                                total += call.coefficient11 * np.float64(load_f32(b11))
                            if call.coefficient12 != 0:
                                total += call.coefficient12 * np.float64(load_f32(b11 + down))
                            if call.coefficient21 != 0:
                                total += call.coefficient21 * np.float64(load_f32(b11 + across))
                            if call.coefficient22 != 0:
                                total += call.coefficient22 * np.float64(load_f32(b11 + down + across))
                            store_f32(target + 4 * channel, np.float32(total))
                    for channel in range(present, width):
                        store_f32(target + 4 * channel, np.float32(0))
                    target += 4 * width

    return packing


class GateWeights(NamedTuple):
    lanes: int


class GateInstruction(NamedTuple):
    """Packed weights of a pointwise convolution times the gates of its input channels.

    There are several times fewer weights than activations, which the gates scale otherwise.
    """

    packed: int  # address
    gate: int  # address
    gate_image_stride: int  # bytes
    y: int  # address; each image's weights follow those of the image before
    images: int
    rows: int  # of a packed weight: panels * k
    k: int
    vectors: int  # of a row


def gate_reference(packed: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """packed (panels, K, width), gate (N, K) -> (N, panels, K, width), in the dtype of packed."""
    return packed * gate[:, None, :, None]


def gate_example(lanes: int, generator: np.random.Generator, check) -> None:
    """Two images, whose gates lie among other values."""
    packed = generator.standard_normal((3, 5, 2 * lanes), np.float32)
    gate = generator.standard_normal((2, 8), np.float32)
    check(
        GateWeights(lanes), gate_reference(packed, gate[:, :5]),
        packed=packed, gate=gate, gate_image_stride=gate.strides[0], images=2, rows=15, k=5, vectors=2,
    )  # fmt: skip


def build_gate_weights(spec: GateWeights):
    """Threads split images and rows."""
    from .simd.intrinsics import instruction_reader, load_f32
    from .simd.tile import register_tile

    t, vector = register_tile(1, 1, spec.lanes), 4 * spec.lanes
    load, times, store, read = t.load, t.times, t.store, instruction_reader(GateInstruction)

    def gate_weights(row_address, thread, threads):
        call = read(row_address)
        row_stride, items = vector * call.vectors, call.images * call.rows
        for item in range(items * thread // threads, items * (thread + 1) // threads):
            image = item // call.rows
            row = item - image * call.rows
            factor = load_f32(call.gate + image * call.gate_image_stride + 4 * (row % call.k))
            for at in range(0, row_stride, vector):
                store(times(load(call.packed + row * row_stride + at, 0), factor), call.y + item * row_stride + at, 0)

    return gate_weights
