"""Multi-head attention: softmax(q k^T / sqrt(d)) v, one (image, head) at a time.

qkv holds, for each token, queries, keys and values of all heads side by side: (tokens, 3 heads d). For one head the
keys are transposed once into scratch memory, [d][tokens]; then, for each tile of queries, scores are a matrix
product q k^T held in scratch, softmax turns them into weights in place, and a second product with the values, read
where they lie, gives the output. All of it stays in L1 and L2.
"""

from __future__ import annotations

import math

import numpy as np

from .simd import PARTIALS

FIELDS = (
    "qkv", "image", "token", "y", "y_image", "y_token", "images", "heads", "tokens", "depth", "padded",
    "scratch", "scratch_thread", "scale",
)  # fmt: skip


def oracle(qkv, heads):
    """The definition in NumPy: (N, T, 3 heads d) -> (N, T, heads d), in the dtype of qkv."""
    n, tokens, width = qkv.shape
    q, k, v = qkv.reshape(n, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(n, tokens, width // 3)


def padded_tokens(tokens: int, vectors: int, lanes: int) -> int:
    """Tokens rounded up to whole panels, and to the 16 lanes of softmax."""
    width = math.lcm(vectors * lanes, PARTIALS)
    return -(-tokens // width) * width


def scratch_floats(tokens: int, depth: int, rows: int, vectors: int, lanes: int) -> int:
    """Scratch memory that one thread needs: the transposed keys and a tile of scores."""
    return (depth + rows) * padded_tokens(tokens, vectors, lanes)


def build(rows: int, vectors: int, lanes: int):
    """Tiles of `rows` queries (at most the number of tokens) x `vectors` vectors of keys, then of value channels.

    Assumes: depth is a multiple of vectors * lanes. The last tile of queries starts early enough to be a full one;
    the rows that it computes again come out with the same bits. Threads split (image, head) pairs.
    """
    from .simd.activation import exp
    from .simd.intrinsics import arguments, float_from_bits, load_f32, minimum, store_f32
    from .simd.tile import block

    t, one = block(rows, vectors, lanes), block(1, 1, PARTIALS)
    zeros, fma_outer, times, store = t.zeros, t.fma_outer, t.times, t.store
    load16, splat16, max16, zeros16, plus16 = one.load, one.splat, one.max, one.zeros, one.plus
    exp16, store16, add16, times16 = one.map(exp), one.store, one.add, one.times
    sum_lanes, max_lanes, fields = one.sum_lanes, one.max_lanes, arguments(len(FIELDS))
    width, wide, lowest = 4 * vectors * lanes, 4 * PARTIALS, np.float32(-np.inf)

    def attention(instruction, thread, threads):
        (qkv, image, token, y, y_image, y_token, images, heads, tokens, depth, padded, scratch, scratch_thread,
         scale) = fields(instruction)  # fmt: skip
        scale = float_from_bits(scale)
        line = 4 * padded
        keys = scratch + thread * scratch_thread
        scores = keys + depth * line
        units = images * heads
        for unit in range(units * thread // threads, units * (thread + 1) // threads):
            n = unit // heads
            offset = (unit - n * heads) * 4 * depth
            q = qkv + n * image + offset
            k, v = q + heads * 4 * depth, q + 2 * heads * 4 * depth
            for j in range(tokens):
                for d in range(depth):
                    store_f32(keys + d * line + 4 * j, load_f32(k + j * token + 4 * d))
            for j in range(tokens, padded):
                for d in range(depth):
                    store_f32(keys + d * line + 4 * j, np.float32(0))
            for first in range(0, tokens, rows):
                start = minimum(first, tokens - rows)
                query = q + start * token
                for panel in range(0, line, width):
                    acc = zeros()
                    for d in range(depth):
                        acc = fma_outer(acc, query + 4 * d, token, keys + d * line + panel)
                    store(times(acc, scale), scores + panel, line)
                for row in range(scores, scores + rows * line, line):
                    for j in range(tokens, padded):
                        store_f32(row + 4 * j, lowest)
                    top = splat16(lowest)
                    for at in range(row, row + line, wide):
                        top = max16(top, at, 0)
                    largest = max_lanes(top)
                    total = zeros16()
                    for at in range(row, row + line, wide):
                        store16(exp16(plus16(load16(at, 0), -largest)), at, 0)
                        total = add16(total, at, 0)
                    share = np.float32(1) / sum_lanes(total)
                    for at in range(row, row + line, wide):
                        store16(times16(load16(at, 0), share), at, 0)
                target = y + n * y_image + start * y_token + offset
                for panel in range(0, 4 * depth, width):
                    acc = zeros()
                    for j in range(tokens):
                        acc = fma_outer(acc, scores + 4 * j, line, v + panel + j * token)
                    store(acc, target + panel, y_token)

    return attention
