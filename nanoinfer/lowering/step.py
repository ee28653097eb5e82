"""Steps: what a node becomes, one instruction each before it is an int64 row of a program.

A lowering function takes a node and a Context, asks the context for addresses, and returns steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..graph import Node
from ..kernels import convolution, kernel_name
from ..kernels.program import ThreadProgram
from ..machine import Machine
from .layout import TensorView, padded
from .packed import Staging

Shapes = Mapping[str, tuple[int, ...]]


class Unsupported(ValueError):
    """The network has an operator of a size that no kernel takes on this machine, whatever the input."""


class TiledRegion(NamedTuple):
    """A region of a product with the micro-kernels of its tiles; addresses in its records are 0 until it is encoded."""

    region: convolution.Region
    tile: convolution.Tile
    full: object  # spec of the micro-kernel for a full tile
    edge: object | None  # spec of the one for the pixels left over at the end of a run
    stem_offsets: np.ndarray  # int64; empty unless the micro-kernel is the stem's


@dataclass
class Step:
    """One instruction: the kernel's spec and the record that it reads.

    A product has `regions`, and a ThreadProgram `programs`, the steps of each thread; the addresses of these tables are
    0 in the record until it is encoded. `flops` counts a multiply-add twice. `bytes` has to move at least, and
    `weight_bytes` of these are weights (with_bytes). `prefetch_ranges` are the (address, bytes) that a step of a fused
    block reads or writes outside of its line buffer.
    """

    spec: object
    call: NamedTuple
    node: Node
    flops: int = 0
    bytes: int = 0
    weight_bytes: int = 0
    barrier: bool = True  # whether a barrier follows
    regions: tuple[TiledRegion, ...] = ()
    programs: tuple[list[Step], ...] = ()
    prefetch_ranges: tuple[tuple[int, int], ...] = ()

    @property
    def has_weights(self) -> bool:
        """Whether it is a product that streams micro-panels."""
        return bool(self.regions) and self.call.panel_stride > 0

    @property
    def main_spec(self):
        """The spec of the kernel that does the work: of a product, the micro-kernel for its largest tile."""
        return max((region.full for region in self.regions), key=lambda spec: spec.mr) if self.regions else self.spec

    @property
    def kernel(self) -> str:
        """The name of the kernel that does the work; a thread program goes by its node, "fused" or "strassen"."""
        if isinstance(self.spec, ThreadProgram):
            return "fused_f32" if self.node.op == "fused" else "strassen_f32"
        return kernel_name(self.main_spec)


class Context(NamedTuple):
    """What a lowering function may ask for."""

    machine: Machine
    threads: int
    shapes: Shapes
    tensors: Mapping[str, np.ndarray]
    staging: Staging
    views: Mapping[str, TensorView]
    workspaces: Mapping[str, int]  # addresses of memory that nodes need beside their outputs, by output
    thread_workspace: int  # address of the first thread's workspace
    thread_workspace_bytes: int  # of each thread

    def inputs(self, node: Node) -> list[TensorView]:
        return [self.views[name] for name in node.inputs]

    def output(self, node: Node) -> TensorView:
        return self.views[node.output]

    def tensor(self, node: Node, role: str) -> np.ndarray | None:
        """The tensor that has a role in a node, such as "bias"; None if it has none."""
        return self.tensors[node.tensors[role]] if role in node.tensors else None

    def of_thread(self, thread: int) -> Context:
        """The same for steps that one thread runs alone."""
        workspace = self.thread_workspace + thread * self.thread_workspace_bytes
        return self._replace(threads=1, thread_workspace=workspace)

    def channel_vector(self, key: tuple, values: np.ndarray) -> int:
        """Address of one value a channel along the last axis, zeros up to whole vectors."""
        width = padded(values.shape[-1], self.machine.lanes)
        edges = [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])]
        return self.staging.constant(
            (*key, self.machine.lanes), lambda: np.pad(values.astype(np.float32), edges)
        )  # fmt: skip


def with_bytes(node: Node, context: Context, steps: list[Step]) -> list[Step]:
    """The steps of a node with its bytes in them: every input, weight and output once and without padding.

    Where a node has several steps, each has the share that it has of the work. A window narrower than its stride
    skips pixels.
    """
    values = [math.prod(context.views[name].shape) for name in (*node.inputs, node.output)]
    tensors = [context.tensors[name] for name in node.tensors.values()]
    if node.op == "conv2d":
        values[0] *= min(1, math.prod(tensors[0].shape[2:]) / node.attributes["stride"] ** 2)
    weights, total = sum(tensor.size for tensor in tensors), sum(step.flops for step in steps)
    for step in steps:
        share = 4 * step.flops / total
        step.bytes, step.weight_bytes = round(share * (sum(values) + weights)), round(share * weights)
    return steps


def splits_channels(y: TensorView) -> bool:
    """Whether threads split the channels of an output (N) rather than its pixels (M): whichever there are more of.

    For a pointwise product that is the split by which the larger of weights and activations is read only once. As most
    steps follow one rule, a thread finds most of what it reads in its own cache.
    """
    return y.channels > y.images * y.pixels
