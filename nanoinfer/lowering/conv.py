"""conv2d and linear: which way each is computed.

A convolution with narrow groups goes to the depthwise kernel, a wide pointwise product to Strassen's scheme, and all
others and linear layers go to the convolution's loop nest. Fused blocks ask here for their parts, too.
"""

from __future__ import annotations

import math

from ..graph import Node
from ..graph.windows import padding_before
from ..machine import Machine
from . import depthwise, loop_nest, simple, strassen
from .layout import nhwc, round_up
from .step import Context, Shapes, Step, Unsupported
from .tiling import ConvProblem


def conv2d(node: Node, context: Context) -> list[Step]:
    """Dense, grouped or depthwise convolution, with bias, gate, residual and activation (torch.nn.Conv2d)."""
    if strassen.applies(node, context.shapes, context.machine):
        return strassen.lower(node, context)
    if depthwise.applies(node, context.tensor(node, "weight").shape):
        return [depthwise.step(node, context)]
    return _in_loop_nest(node, context)


def linear(node: Node, context: Context) -> list[Step]:
    """y = x w^T + bias (+ residual), activation: a pointwise convolution of tokens."""
    if strassen.applies(node, context.shapes, context.machine):
        return strassen.lower(node, context)
    weight, (x, *others) = context.tensor(node, "weight"), context.inputs(node)
    problem = ConvProblem(
        node, x, context.output(node), k=weight.shape[1], weight=weight.reshape(*weight.shape, 1, 1),
        bias=context.tensor(node, "bias"), residual=others[0] if others else None,
    )  # fmt: skip
    return loop_nest.steps(problem, context)


def thread_steps(node: Node, context: Context, first_row: int = 0) -> list[Step]:
    """The steps of one thread alone for a dense convolution, whose y is rows of the output from `first_row` on."""
    if strassen.applies(node, context.shapes, context.machine):
        return strassen.thread_steps(node, context, first_row)
    return _in_loop_nest(node, context, first_row)


def _in_loop_nest(node: Node, context: Context, first_row: int = 0) -> list[Step]:
    """A convolution in the loop nest; groups, if there are any, are whole vectors."""
    weight, groups, lanes = context.tensor(node, "weight"), node.attributes["groups"], context.machine.lanes
    out, k, *window = weight.shape
    if groups > 1 and out // groups % lanes:
        raise Unsupported(
            f"{node.output}: groups of {k} input and {out // groups} output channels do not fit {lanes} lanes; "
            f"supported are depthwise, groups of 2, 4 or 8 to as many, and groups of whole vectors"
        )
    x, *others = context.inputs(node)
    gate = others.pop() if node.attributes.get("gated") else None
    before = []
    if gate is not None and not gates_weights(node, context.shapes):
        scaled = nhwc(x.shape, context.machine, context.workspaces[node.output])
        before, x, gate = [simple.scaled(node, context, x, gate, scaled)], scaled, None
        before[0].flops = 2 * math.prod(x.shape)
    problem = ConvProblem(
        node, x, context.output(node), window=tuple(window), stride=node.attributes["stride"],
        padding=padding_before(node.attributes, x.height_width, window[0]), groups=groups, k=k, weight=weight,
        bias=context.tensor(node, "bias"), residual=others[0] if others else None, gate=gate, first_row=first_row,
    )  # fmt: skip
    return before + loop_nest.steps(problem, context)


def gates_weights(node: Node, shapes: Shapes) -> bool:
    """Whether a gate scales a convolution's weights rather than its input.

    It does where an image has more pixels than the convolution has output channels. The batch size has no say, since
    bits must not depend on it.
    """
    _, channels, height, width = shapes[node.output]
    return height * width >= channels


def gate_workspace(node: Node, shapes: Shapes, machine: Machine, images: int | None = None) -> int:
    """Bytes of what gates have scaled: a packed weight for each of `images` images, all by default, or the input."""
    if not node.attributes.get("gated"):
        return 0
    (n, channels, *_), x = shapes[node.output], shapes[node.inputs[0]]
    weight = (images or n) * 4 * round_up(channels, machine.lanes) * x[1]
    return weight if gates_weights(node, shapes) else nhwc(x, machine).bytes


def flops(node: Node, context: Context) -> int:
    """Of a product as it is computed: Strassen's scheme leaves one multiplication in eight out."""
    weight = context.tensor(node, "weight")
    whole = 2 * math.prod(context.shapes[node.output]) * math.prod(weight.shape[1:])
    return whole * 7 // 8 if strassen.applies(node, context.shapes, context.machine) else whole
