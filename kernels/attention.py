"""Multi-head attention: softmax(q k^T / sqrt(d)) v, one (image, head) at a time.

qkv holds, for each token, queries, keys and values of all heads side by side: (tokens, 3 heads d). The keys of one head
are transposed once into the thread's workspace, [d][tokens]. Then, for each tile of queries, scores are a matrix
product q k^T in the workspace, softmax turns them into weights in place, and a second product with the values, read
where they lie, gives the output. All of it stays in L1 and L2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .program import bits
from .simd import PARTIALS


class Attention(NamedTuple):
    mr: int  # queries of a tile, at most the number of tokens
    nr: int  # vectors of keys, then of value channels
    lanes: int


class Instruction(NamedTuple):
    """Attention of all heads of all images. Strides and sizes are in bytes."""

    qkv: int  # address
    image_stride: int
    token_stride: int
    y: int  # address
    y_image_stride: int
    y_token_stride: int
    images: int
    heads: int
    tokens: int
    depth: int  # channels of a head (d): a multiple of nr * lanes
    padded_tokens: int  # tokens in whole tiles of keys
    workspace: int  # address of the first thread's
    workspace_thread_stride: int
    scale: int  # 1 / sqrt(depth), the bits of a float32


def reference(qkv: np.ndarray, heads: int) -> np.ndarray:
    """(N, T, 3 heads d) -> (N, T, heads d), in the dtype of qkv."""
    n, tokens, width = qkv.shape
    q, k, v = qkv.reshape(n, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(n, tokens, width // 3)


def padded_tokens(spec: Attention, tokens: int) -> int:
    """Tokens rounded up to whole tiles of keys, and to the 16 lanes of softmax."""
    width = math.lcm(spec.nr * spec.lanes, PARTIALS)
    return -(-tokens // width) * width


def workspace_bytes(spec: Attention, tokens: int, depth: int) -> int:
    """Workspace of one thread: the transposed keys and a tile of scores."""
    return 4 * (depth + spec.mr) * padded_tokens(spec, tokens)


def example(lanes: int, generator: np.random.Generator, check) -> None:
    """Fewer tokens than a tile of queries has, and more; three heads."""
    for mr, nr, tokens in ((2, 1, 2), (4, 2, 19)):
        spec, depth = Attention(mr, nr, lanes), 2 * lanes
        qkv = generator.standard_normal((2, tokens, 9 * depth), np.float32)
        check(
            spec, reference(qkv.astype(np.float64), 3),
            qkv=qkv, image_stride=qkv.strides[0], token_stride=qkv.strides[1], y_image_stride=tokens * 12 * depth,
            y_token_stride=12 * depth, images=2, heads=3, tokens=tokens, depth=depth,
            padded_tokens=padded_tokens(spec, tokens), workspace_thread_stride=workspace_bytes(spec, tokens, depth),
            workspace=np.empty(3 * workspace_bytes(spec, tokens, depth) // 4, np.float32), scale=bits(depth**-0.5),
        )  # fmt: skip


def build(spec: Attention):
    """Threads split (image, head) pairs.

    The last tile of queries starts early enough to be a full one; the queries that it computes again come out with the
    same bits.
    """
    from .simd.activation import exp
    from .simd.intrinsics import float_from_bits, instruction_reader, load_f32, minimum, store_f32
    from .simd.tile import register_tile

    mr = spec.mr
    t, one = register_tile(mr, spec.nr, spec.lanes), register_tile(1, 1, PARTIALS)
    zeros, fma_rows, rows, advance, times, store = t.zeros, t.fma_rows(1), t.rows, t.advance, t.times, t.store
    load16, splat16, max16, zeros16, plus16 = one.load, one.splat, one.max, one.zeros, one.plus
    exp16, store16, add16, times16 = one.map(exp), one.store, one.add, one.times
    sum_lanes, max_lanes, read_call = one.sum_lanes, one.max_lanes, instruction_reader(Instruction)
    key_tile, vector16, lowest = 4 * spec.nr * spec.lanes, 4 * PARTIALS, np.float32(-np.inf)

    def attention(row_address, thread, threads):
        call = read_call(row_address)
        tokens, depth, token_stride = call.tokens, call.depth, call.token_stride
        scale, score_stride = float_from_bits(call.scale), 4 * call.padded_tokens
        keys = call.workspace + thread * call.workspace_thread_stride
        scores = keys + depth * score_stride
        items = call.images * call.heads
        for item in range(items * thread // threads, items * (thread + 1) // threads):
            image = item // call.heads
            offset = (item - image * call.heads) * 4 * depth
            q = call.qkv + image * call.image_stride + offset
            k, v = q + call.heads * 4 * depth, q + 2 * call.heads * 4 * depth
            for j in range(tokens):
                for d in range(depth):
                    store_f32(keys + d * score_stride + 4 * j, load_f32(k + j * token_stride + 4 * d))
            for j in range(tokens, call.padded_tokens):
                for d in range(depth):
                    store_f32(keys + d * score_stride + 4 * j, np.float32(0))
            for first in range(0, tokens, mr):
                start = minimum(first, tokens - mr)
                queries = q + start * token_stride
                # scores = q k^T / sqrt(d)
                for at in range(0, score_stride, key_tile):
                    acc, read = zeros(), rows(queries, token_stride)
                    for d in range(depth):
                        acc = fma_rows(acc, read, token_stride, 4, keys + d * score_stride + at)
                        read = advance(read, 4)
                    store(times(acc, scale), scores + at, score_stride)
                # weights = softmax(scores), in place
                for query in range(scores, scores + mr * score_stride, score_stride):
                    for j in range(tokens, call.padded_tokens):
                        store_f32(query + 4 * j, lowest)
                    top = splat16(lowest)
                    for at in range(query, query + score_stride, vector16):
                        top = max16(top, at, 0)
                    largest = max_lanes(top)
                    total = zeros16()
                    for at in range(query, query + score_stride, vector16):
                        store16(exp16(plus16(load16(at, 0), -largest)), at, 0)
                        total = add16(total, at, 0)
                    reciprocal = np.float32(1) / sum_lanes(total)
                    for at in range(query, query + score_stride, vector16):
                        store16(times16(load16(at, 0), reciprocal), at, 0)
                # y = weights v
                y = call.y + image * call.y_image_stride + start * call.y_token_stride + offset
                for at in range(0, 4 * depth, key_tile):
                    acc, read = zeros(), rows(scores, score_stride)
                    for j in range(tokens):
                        acc = fma_rows(acc, read, score_stride, 4, v + at + j * token_stride)
                        read = advance(read, 4)
                    store(acc, y + at, call.y_token_stride)

    return attention
