"""How unevenly the weights of wide products are scaled: what a scheme that adds up unlike channels would lose.

Strassen's scheme adds input channel k to channel k + K/2, and weights of output channel o to those of o + O/2, before
it multiplies. Rounding errors are then those of the larger: where the two differ by a factor of a thousand, the smaller
one's result may be off by as much. `measure_scales` predicts this from tensors alone, so that whoever plans can decide
for each layer by a rule that no input, batch or machine has a say in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .ir import Graph, Node
from .ops import is_pointwise

Tensors = Mapping[str, np.ndarray]

SAME_SCALE = ("activation", "max_pool2d", "average_pool2d", "blur_pool2d", "scale")  # their first input's, or less
NORMS = ("batch_norm", "layer_norm")
# Of the median mean square of a layer's outputs: channels that are smaller are as good as switched off, as trained
# networks have them, and errors of this size do not matter in them.
SILENT = 0.1
BLOCK = 1 << 16  # weights that are worked on at a time, so that they stay in a cache
TINY = 1e-12  # of the largest; divisors are at least as large


def measure_scales(graph: Graph, tensors: dict[str, np.ndarray], wide: int = 0) -> tuple[Graph, dict[str, np.ndarray]]:
    """Pointwise conv2d or linear -> the same with attribute "unevenness", 1 if all channels have the same scale.

    It is the mean square error of an output under the scheme over that of a product whose scales are even, relative to
    the output's own size, as a mean over output channels. Products of fewer input or output channels than `wide` stay
    as they are. A pass: it comes early, while norms tell scales.
    """
    scales, readers, measured = _Scales(graph, tensors), {}, {}
    for node, reader in graph.only_readers():
        readers[node.output] = reader
    for node in graph.nodes:
        if not _is_wide_product(node, tensors, wide):
            continue
        weight = np.asarray(tensors[node.tensors["weight"]])
        weight = weight.reshape(-1, weight.shape[1])
        norm = readers.get(node.output)
        factor = _factor(norm, tensors) if norm is not None and norm.op == "batch_norm" else None
        with np.errstate(all="ignore"):  # weights that are all zero, or no numbers, come out as infinitely uneven
            value = unevenness(weight, scales.mean_square(node.inputs[0]), factor)
        measured[node.output] = replace(node, attributes={**node.attributes, "unevenness": value})
    return graph.rewrite(measured), tensors


def unevenness(weight: np.ndarray, x: np.ndarray | None, factor: np.ndarray | None = None) -> float:
    """Of a product with `weight` (O, K), whose output channels a batch norm multiplies by `factor` (O,).

    `x` (K,) holds mean squares of the input channels. Where they are not known, each is taken to be as large as lets
    its channel contribute as much as the others: that is how weights come to differ in scale.
    """
    half = weight.shape[1] // 2
    if x is None:
        columns = _row_sums(np.square(weight.T))
        x = 1 / np.maximum(columns, TINY * columns.max())
    x, own, mixed = x.astype(np.float32), np.empty(len(weight)), np.empty(len(weight))
    step = max(1, BLOCK // weight.shape[1])
    for rows in (slice(first, first + step) for first in range(0, len(weight), step)):
        squares = np.square(weight[rows])
        own[rows] = _row_sums(squares * x)
        mixed[rows] = _row_sums((squares[:, :half] + squares[:, half:]) * (x[:half] + x[half:]))
    if factor is not None:
        own, mixed = own * factor**2, mixed * factor**2
    half = len(own) // 2
    mixed = np.tile(mixed[:half] + mixed[half:], 2) / 4
    floor = max(SILENT * np.median(own), TINY * own.max())
    value = math.fsum(mixed / np.maximum(own, floor)) / len(own)
    return value if math.isfinite(value) else math.inf


def _row_sums(values: np.ndarray) -> np.ndarray:
    """(rows, columns) -> (rows,), in an order that neither NumPy nor the machine chooses, since bits depend on it."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        odd = values[:, 2 * half :]
        values = values[:, :half] + values[:, half : 2 * half]
        values[:, : odd.shape[1]] += odd
    return values[:, 0]


def _is_wide_product(node: Node, tensors: Tensors, wide: int) -> bool:
    """Whether it is a product that the scheme is for, if it is wide enough (lowering/strassen.py)."""
    if node.op not in ("conv2d", "linear"):
        return False
    channels, k = tensors[node.tensors["weight"]].shape[:2]
    widens = channels > k if node.op == "linear" else is_pointwise(node, tensors)
    return widens and channels % 2 == k % 2 == 0 and min(channels, k) >= wide


def _factor(norm: Node, tensors: Tensors) -> np.ndarray:
    """What a batch norm multiplies each channel by, float64."""
    weight, variance = (tensors[norm.tensors[role]].astype(np.float64) for role in ("weight", "running_var"))
    return weight / np.sqrt(variance + norm.attributes["eps"])


class _Scales:
    """Predicted mean squares of the channels of values, found by going back to the nearest norms."""

    def __init__(self, graph: Graph, tensors: Tensors):
        self.producers, self.tensors = graph.producers(), tensors
        self.known: dict[str, np.ndarray | None] = {graph.input: None}

    def mean_square(self, value: str) -> np.ndarray | None:
        """float64 (channels,) of a value; None where nothing is known."""
        stack = [value]
        while stack:  # no recursion: a residual stream is as long as its network
            name = stack[-1]
            needed = [] if name in self.known else self._needed(self.producers[name])
            missing = [other for other in needed if other not in self.known]
            if missing:
                stack += missing
                continue
            if name not in self.known:
                self.known[name] = self._of(self.producers[name], [self.known[other] for other in needed])
            stack.pop()
        return self.known[value]

    def _needed(self, node: Node) -> tuple[str, ...]:
        """The values whose scales tell that of the node's output."""
        if node.op == "add":
            return node.inputs
        return node.inputs[:1] if node.op in SAME_SCALE or self._is_dense(node) else ()

    def _is_dense(self, node: Node) -> bool:
        return node.op == "linear" or (node.op == "conv2d" and node.attributes["groups"] == 1)

    def _of(self, node: Node, inputs: list[np.ndarray | None]) -> np.ndarray | None:
        def square(role: str) -> np.ndarray:
            return np.square(self.tensors[node.tensors[role]].astype(np.float64))

        if node.op in NORMS:
            return square("weight") + square("bias")
        if not inputs or any(x is None for x in inputs):
            return None
        if self._is_dense(node):
            weight = np.asarray(self.tensors[node.tensors["weight"]])
            squares = np.square(weight.reshape(*weight.shape[:2], -1)) * inputs[0].astype(np.float32)[:, None]
            y = _row_sums(squares.reshape(len(weight), -1)).astype(np.float64)
            return y + square("bias") if "bias" in node.tensors else y
        return sum(inputs)
