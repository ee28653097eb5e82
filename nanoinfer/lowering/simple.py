"""Operators that are one kernel call each: elementwise ones, reductions and attention."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..graph import Node
from ..kernels import attention as attention_kernel
from ..kernels import elementwise, normalization, pooling
from ..kernels.program import bits
from ..kernels.simd import PARTIALS
from ..kernels.simd.activation import code, variant
from ..machine import Machine
from .layout import TensorView, round_up, splits_channels
from .step import Context, Shapes, Step, Unsupported


def _elementwise(
    node: Node, context: Context, x: TensorView, y: TensorView, *, factor: int = 0, factor_image_stride: int = 0,
    shift: int = 0, other: TensorView | None = None, pixels: int | None = None,
) -> Step:  # fmt: skip
    activation, lanes, pixels = node.attributes.get("activation"), context.machine.lanes, pixels or y.pixels
    instruction = elementwise.Instruction(
        x=x.address, x_image_stride=x.image_stride, x_pixel_stride=x.pixel_stride, factor=factor,
        factor_image_stride=factor_image_stride, shift=shift, other=other.address if other else 0,
        other_image_stride=other.image_stride if other else 0, other_pixel_stride=other.pixel_stride if other else 0,
        y=y.address, y_image_stride=y.image_stride, y_pixel_stride=y.pixel_stride, images=y.images, pixels=pixels,
        vectors=round_up(y.channels, lanes) // lanes, parallel_channels=int(splits_channels(y)),
        activation=code(activation),
    )  # fmt: skip
    return Step(elementwise.Elementwise(lanes, variant(activation)), instruction, node)


def elementwise_flops(node: Node, context: Context) -> int:
    """A multiply-add for each element of the output."""
    return 2 * math.prod(context.shapes[node.output])


def batch_norm(node: Node, context: Context) -> list[Step]:
    (x,), y = context.inputs(node), context.output(node)
    norm = {role: context.tensors[name].astype(np.float64) for role, name in node.tensors.items()}
    scale = norm["weight"] / np.sqrt(norm["running_var"] + node.attributes["eps"])
    factor = context.channel_vector((node.output, "scale"), scale)
    shift = context.channel_vector((node.output, "shift"), norm["bias"] - norm["running_mean"] * scale)
    return [_elementwise(node, context, x, y, factor=factor, shift=shift)]


def activation(node: Node, context: Context) -> list[Step]:
    (x,) = context.inputs(node)
    return [_elementwise(node, context, x, context.output(node))]


def add(node: Node, context: Context) -> list[Step]:
    x, other = context.inputs(node)
    return [_elementwise(node, context, x, context.output(node), other=other)]


def scale(node: Node, context: Context) -> list[Step]:
    x, gate = context.inputs(node)
    return [scaled(node, context, x, gate, context.output(node))]


def scaled(node: Node, context: Context, x: TensorView, gate: TensorView, y: TensorView) -> Step:
    """y = x times gate, whatever `node` computes from y then."""
    plain = replace(node, attributes={})
    return _elementwise(plain, context, x, y, factor=gate.address, factor_image_stride=gate.image_stride)


def copied(node: Node, context: Context, x: TensorView, y: TensorView) -> Step:
    """y = x."""
    step = _elementwise(replace(node, attributes={}), context, x, y)
    step.flops = 2 * y.images * y.pixels * y.channels
    return step


def tokens(node: Node, context: Context) -> list[Step]:
    """Patches + their positions, and the class token + its position, into one buffer."""
    (x,), y = context.inputs(node), context.output(node)
    tables = (context.tensor(node, role) for role in ("position", "class_token"))  # (1, T, D), (1, 1, D)
    position, first = (
        context.channel_vector((node.output, role), table.reshape(*table.shape[1:]))
        for role, table in zip(("position", "class"), tables, strict=True)
    )
    stride = 4 * round_up(y.channels, context.machine.lanes)
    positions = y._replace(address=position + stride, image_stride=0, pixel_stride=stride)
    after_first = y._replace(address=y.address + y.pixel_stride)
    patches = _elementwise(node, context, x, after_first, other=positions, pixels=x.pixels)
    patches.barrier = False  # the class token goes elsewhere
    class_token = TensorView(y.shape, first, 0, 0, 0)
    single = _elementwise(node, context, class_token, y, other=positions._replace(address=position), pixels=1)
    patches.flops, single.flops = (2 * y.images * pixels * y.channels for pixels in (x.pixels, 1))
    return [patches, single]


def layer_norm(node: Node, context: Context) -> list[Step]:
    (x,), y = context.inputs(node), context.output(node)
    if y.channels % PARTIALS:
        raise Unsupported(f"{node.output}: layer norm takes a multiple of {PARTIALS} channels")
    instruction = normalization.Instruction(
        x=x.address, x_token_stride=x.image_stride if x.pixels == 1 else x.pixel_stride,
        y=y.address, y_token_stride=y.image_stride if y.pixels == 1 else y.pixel_stride,
        tokens=y.images * y.pixels, channels=y.channels,
        weight=context.channel_vector((node.output, "weight"), context.tensor(node, "weight")),
        bias=context.channel_vector((node.output, "bias"), context.tensor(node, "bias")),
        reciprocal=bits(1 / y.channels), eps=bits(node.attributes["eps"]),
    )  # fmt: skip
    return [Step(normalization.LayerNorm(), instruction, node)]


def layer_norm_flops(node: Node, context: Context) -> int:
    """Four operations of two FLOP for each element: the mean, the deviation, scaling, weight and bias."""
    return 8 * math.prod(context.shapes[node.output])


def attention_spec(node: Node, shapes: Shapes, machine: Machine) -> tuple[attention_kernel.Attention, int, int]:
    """(spec, tokens, channels of a head)."""
    _, length, width = shapes[node.inputs[0]]
    depth = width // 3 // node.attributes["heads"]
    mr, nr = machine.tuning.attention_tile
    while depth % (nr * machine.lanes):
        nr -= 1
        if not nr:
            raise Unsupported(f"attention heads of {depth} channels are no multiple of {machine.lanes} lanes")
    return attention_kernel.Attention(min(mr, length), nr, machine.lanes), length, depth


def attention_workspace(node: Node, shapes: Shapes, machine: Machine) -> int:
    """Bytes that each thread needs for itself."""
    return attention_kernel.workspace_bytes(*attention_spec(node, shapes, machine))


def attention(node: Node, context: Context) -> list[Step]:
    (x,), y = context.inputs(node), context.output(node)
    spec, length, depth = attention_spec(node, context.shapes, context.machine)
    instruction = attention_kernel.Instruction(
        qkv=x.address, image_stride=x.image_stride, token_stride=x.pixel_stride, y=y.address,
        y_image_stride=y.image_stride, y_token_stride=y.pixel_stride, images=y.images,
        heads=node.attributes["heads"], tokens=length, depth=depth,
        padded_tokens=attention_kernel.padded_tokens(spec, length), workspace=context.thread_workspace,
        workspace_thread_stride=context.thread_workspace_bytes, scale=bits(depth**-0.5),
    )  # fmt: skip
    return [Step(spec, instruction, node)]


def attention_flops(node: Node, context: Context) -> int:
    """Two matrix products, q k^T and weights times v; exponentials do not count."""
    images, length, channels = context.shapes[node.output]
    return 4 * images * length * length * channels


def global_average_pool(node: Node, context: Context) -> list[Step]:
    (x,), y, lanes = context.inputs(node), context.output(node), context.machine.lanes
    instruction = pooling.AverageInstruction(
        x=x.address, x_image_stride=x.image_stride, x_pixel_stride=x.pixel_stride, pixels=x.pixels, y=y.address,
        y_image_stride=y.image_stride, images=y.images, vectors=round_up(y.channels, lanes) // lanes,
        reciprocal=bits(1 / x.pixels),
    )  # fmt: skip
    return [Step(pooling.AveragePool(lanes), instruction, node)]


def average_flops(node: Node, context: Context) -> int:
    """An addition for each element of the input."""
    return math.prod(context.shapes[node.inputs[0]])
