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
from .layout import TensorView, round_up
from .packed import Staging

Shapes = Mapping[str, tuple[int, ...]]


class Unsupported(ValueError):
    """The network has an operator of a size that no kernel takes on this machine, whatever the input."""


class TiledRegion(NamedTuple):
    """A region of a product with the micro-kernels of its tiles; addresses in its records are 0 until it is encoded."""

    region: convolution.Region
    loops: convolution.TileLoops
    full_spec: object  # of the micro-kernel for a full tile
    edge_spec: object | None  # of the one for the pixels left over at the end of a run
    stem_offsets: np.ndarray  # int64; empty unless the micro-kernel is the stem's


@dataclass
class Step:
    """One kernel call: the kernel's spec and its instruction.

    A product has `regions`, and a ThreadProgram `programs`, the steps of each thread; the addresses of these tables are
    0 in the instruction until it is encoded. `flops` counts a multiply-add twice; None stands for all that the operator
    costs. A step moves at least `bytes`, of which `weight_bytes` are weights (see add_bytes). `prefetch_ranges` are the
    (address, bytes) that a step of a fused block reads or writes outside of its line buffer.
    """

    spec: object
    instruction: NamedTuple
    node: Node
    flops: int | None = None
    bytes: int = 0
    weight_bytes: int = 0
    barrier: bool = True  # whether a barrier follows
    regions: tuple[TiledRegion, ...] = ()
    programs: tuple[list[Step], ...] = ()
    prefetch_ranges: tuple[tuple[int, int], ...] = ()

    @property
    def has_weights(self) -> bool:
        """Whether it is a product that streams micro-panels."""
        return bool(self.regions) and self.instruction.panel_stride > 0

    @property
    def main_spec(self):
        """The spec of the kernel that does the work: of a product, the micro-kernel for its largest tile."""
        return (
            max((region.full_spec for region in self.regions), key=lambda spec: spec.mr) if self.regions else self.spec
        )

    @property
    def kernel(self) -> str:
        """The name of the kernel that does the work; a thread program goes by its node, "fused" or "strassen"."""
        if isinstance(self.spec, ThreadProgram):
            return "fused_f32" if self.node.op == "fused" else "strassen_f32"
        return kernel_name(self.main_spec)


class Context(NamedTuple):
    """What a lowering function needs to know, and the addresses that it may use."""

    machine: Machine
    threads: int
    shapes: Shapes
    tensors: Mapping[str, np.ndarray]
    staging: Staging
    views: Mapping[str, TensorView]
    workspaces: Mapping[str, int]  # addresses of memory that nodes need beside their outputs, by output
    thread_workspace: int  # address of the first thread's
    thread_workspace_bytes: int  # of each thread

    def inputs(self, node: Node) -> list[TensorView]:
        return [self.views[name] for name in node.inputs]

    def output(self, node: Node) -> TensorView:
        return self.views[node.output]

    def tensor(self, node: Node, role: str) -> np.ndarray | None:
        """The tensor that has a role in a node, such as "bias"; None if it has none."""
        return self.tensors[node.tensors[role]] if role in node.tensors else None

    def of_thread(self, thread: int) -> Context:
        """This context, for steps that one thread runs alone."""
        workspace = self.thread_workspace + thread * self.thread_workspace_bytes
        return self._replace(threads=1, thread_workspace=workspace)

    def channel_vector(self, key: tuple, values: np.ndarray) -> int:
        """Address of one value a channel along the last axis, zeros up to whole vectors."""
        width = round_up(values.shape[-1], self.machine.lanes)
        edges = [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])]
        return self.staging.constant((*key, self.machine.lanes), lambda: np.pad(values.astype(np.float32), edges))


def add_bytes(node: Node, context: Context, steps: list[Step]) -> None:
    """Write the bytes of a node into its steps: every input, weight and output once and without padding.

    Where a node has several steps, each has the fraction that it has of the FLOP. A window narrower than its stride
    skips pixels.
    """
    values = [math.prod(context.views[name].shape) for name in (*node.inputs, node.output)]
    tensors = [context.tensors[name] for name in node.tensors.values()]
    if node.op == "conv2d":
        values[0] *= min(1, math.prod(tensors[0].shape[2:]) / node.attributes["stride"] ** 2)
    weights, total = sum(tensor.size for tensor in tensors), sum(step.flops for step in steps)
    for step in steps:
        fraction = 4 * step.flops / total
        step.bytes, step.weight_bytes = round(fraction * (sum(values) + weights)), round(fraction * weights)
