"""Lowering: one operator of a graph to the steps that compute it, and the table of how.

    Node + Context -> LOWERINGS[node.op].lower -> [Step]

Read `step` (a Step, and the Context that lowering functions ask), `layout` (where values lie: TensorView), `packed`
(packed weights), then the operators: `simple` (one kernel call each) and `conv`, which chooses between `depthwise`,
`strassen` and the `loop_nest`, whose outputs `tiling` cuts. `pooling` goes through these kernels, too. `fusion` makes
one step of several convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..graph import Node
from ..machine import Machine
from . import conv, fusion, pooling, simple, strassen
from .layout import TensorView
from .step import Context, Shapes, Step, Unsupported, add_bytes

__all__ = ["LOWERINGS", "Context", "Lowering", "Shapes", "Step", "Unsupported", "lower"]


class Lowering(NamedTuple):
    """How one operator is computed, what memory it needs, and what it costs.

    `lower(node, context)` gives its steps. An operator that computes nothing has `view` instead: `view(node, shape, x)`
    is its output, another view of its input's memory. `workspace_bytes(node, shapes, machine)` is memory that it needs
    beside its output, `thread_workspace_bytes` what each thread needs. `flops(node, context)` is what it costs, a
    multiply-add counted twice; where it becomes several steps, each says its own part.
    """

    lower: Callable[[Node, Context], list[Step]] | None = None
    workspace_bytes: Callable[[Node, Shapes, Machine], int] | None = None
    thread_workspace_bytes: Callable[[Node, Shapes, Machine], int] | None = None
    flops: Callable[[Node, Context], int] | None = None
    view: Callable[[Node, tuple[int, ...], TensorView], TensorView] | None = None


def _select_token(node: Node, shape: tuple[int, ...], x: TensorView) -> TensorView:
    return x._replace(shape=shape, address=x.address + node.attributes["index"] * x.pixel_stride)


LOWERINGS: dict[str, Lowering] = {
    "conv2d": Lowering(
        conv.conv2d, workspace_bytes=conv.gate_workspace, thread_workspace_bytes=strassen.thread_workspace,
        flops=conv.flops,
    ),
    "linear": Lowering(conv.linear, thread_workspace_bytes=strassen.thread_workspace, flops=conv.flops),
    "fused": Lowering(fusion.lower, thread_workspace_bytes=fusion.thread_workspace, flops=fusion.flops),
    "max_pool2d": Lowering(pooling.max_pool2d, flops=pooling.flops),
    "global_max_pool": Lowering(pooling.global_max_pool, flops=pooling.flops),
    "average_pool2d": Lowering(pooling.average_pool2d, flops=pooling.flops),
    "blur_pool2d": Lowering(pooling.blur_pool2d, workspace_bytes=pooling.blur_workspace, flops=pooling.flops),
    "batch_norm": Lowering(simple.batch_norm, flops=simple.elementwise_flops),
    "activation": Lowering(simple.activation, flops=simple.elementwise_flops),
    "add": Lowering(simple.add, flops=simple.elementwise_flops),
    "scale": Lowering(simple.scale, flops=simple.elementwise_flops),
    "tokens": Lowering(simple.tokens, flops=simple.elementwise_flops),
    "layer_norm": Lowering(simple.layer_norm, flops=simple.layer_norm_flops),
    "attention": Lowering(
        simple.attention, thread_workspace_bytes=simple.attention_workspace, flops=simple.attention_flops
    ),
    "global_average_pool": Lowering(simple.global_average_pool, flops=simple.average_flops),
    "flatten": Lowering(view=lambda node, shape, x: x._replace(shape=shape)),
    "select_token": Lowering(view=_select_token),
}  # fmt: skip


def lower(node: Node, context: Context) -> list[Step]:
    """The steps of a node, with what they cost; none for a view."""
    lowering = LOWERINGS[node.op]
    if lowering.lower is None:
        return []
    steps = lowering.lower(node, context)
    for step in steps:
        if step.flops is None:
            step.flops = lowering.flops(node, context)
    add_bytes(node, context, steps)
    return steps
