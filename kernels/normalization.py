"""Layer norm over the channels of each token (torch.nn.LayerNorm)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .program import bits
from .simd import PARTIALS


class LayerNorm(NamedTuple):
    """One kernel for all machines: its vectors are 16 floats everywhere, so the partial sums are the same."""


class Instruction(NamedTuple):
    """Layer norm of `tokens` tokens. Strides are in bytes."""

    x: int  # address
    x_token_stride: int
    y: int  # address
    y_token_stride: int
    tokens: int
    channels: int  # a multiple of 16
    weight: int  # address
    bias: int  # address
    reciprocal: int  # 1 / channels, the bits of a float32
    eps: int  # the bits of a float32


def reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """x (tokens, D), weight and bias (D,) -> (tokens, D), in the dtype of x."""
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + eps) * weight + bias


def example(lanes: int, generator: np.random.Generator, check) -> None:
    """Tokens whose mean is as large as their deviation."""
    for channels in (16, 80):
        x = generator.standard_normal((5, channels), np.float32) + np.float32(1)
        weight, bias = generator.standard_normal((2, channels), np.float32)
        check(
            LayerNorm(), reference(x.astype(np.float64), weight, bias, 1e-6),
            x=x, x_token_stride=x.strides[0], y_token_stride=x.strides[0], tokens=5, channels=channels, weight=weight,
            bias=bias, reciprocal=bits(1 / channels), eps=bits(1e-6),
        )  # fmt: skip


def build(_: LayerNorm):
    """Mean, then mean square deviation, each as 16 partial sums (channel c in sum c % 16) and a fixed tree.

    Threads split tokens.
    """
    from .simd.intrinsics import float_from_bits, instruction_reader, sqrt
    from .simd.tile import register_tile

    t, vector = register_tile(1, 1, PARTIALS), 4 * PARTIALS
    zeros, load, add, plus, times, mul, store = t.zeros, t.load, t.add, t.plus, t.times, t.mul, t.store
    add_square, sum_lanes, read = t.add_square, t.sum_lanes, instruction_reader(Instruction)

    def layer_norm(row_address, thread, threads):
        call = read(row_address)
        reciprocal, eps, size = float_from_bits(call.reciprocal), float_from_bits(call.eps), 4 * call.channels
        for token in range(call.tokens * thread // threads, call.tokens * (thread + 1) // threads):
            x, y = call.x + token * call.x_token_stride, call.y + token * call.y_token_stride
            acc = zeros()
            for at in range(0, size, vector):
                acc = add(acc, x + at, 0)
            mean = sum_lanes(acc) * reciprocal
            acc = zeros()
            for at in range(0, size, vector):
                acc = add_square(acc, plus(load(x + at, 0), -mean))
            scale = np.float32(1) / sqrt(sum_lanes(acc) * reciprocal + eps)
            for at in range(0, size, vector):
                normal = times(plus(load(x + at, 0), -mean), scale)
                store(add(mul(normal, call.weight + at, 0), call.bias + at, 0), y + at, 0)

    return layer_norm
