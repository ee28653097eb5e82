"""Wide products with one multiplication in eight left out: Strassen's scheme in Winograd's form.

Two pixels, with their input channels in two halves, are a 2 x 2 matrix a; the weight, in quarters, is a
2 x 2 matrix b; and c = a b is the same two pixels of the output. Row by column that would be eight products. With sums
of activations, s (kernels/strassen.py), and sums of weights, it is seven:

    u1 = a11 b11                        c11 = a12 b21 + u1
    u2 = s2 (b11 - b12 + b22) + u1      c21 = a22 (b12 - b11 + b21 - b22) + u3
    u3 = s3 (b22 - b12) + u2            c12 = s4 b22 + u4
    u4 = s1 (b12 - b11) + u2            c22 = s1 (b12 - b11) + u3    (one product for both)

(V. Strassen, Gaussian Elimination is not Optimal, Numerische Mathematik 13, 1969.) Sums of weights are made once, and
rounded once; instead of the four quarters of a weight there are seven to keep and to read.

Neighbours in a line are a pair, or in small images, whose lines may be odd, a pixel and the one half an image away. So
bits depend on neither batch, threads nor bands. But the two of a pair share their rounding errors, and an infinity or
NaN in one of them may reach both, as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from ..graph import Node
from ..machine import target
from . import loop_nest as product
from .layout import Place, nhwc
from .step import Context, Step, splits_channels
from .tiling import Product

# What is narrower or smaller would gain less than the sums and more weights cost. Halves of UNIT channels are whole
# panels everywhere.
LEAST_CHANNELS, LEAST_PIXELS, UNIT = 256, 48, 64
PLAIN = dict(stride=1, padding=0, groups=1)
NEIGHBOURS = 128  # pixels of an image from which on pairs are neighbours
# For each thread's sums: so many that weights are not read too often, so few that they stay near.
SCRATCH_BYTES = 1280 << 10
TILE = 14  # pairs that stay together where threads and parts share them: a tile of a machine with 32 registers


class Part(NamedTuple):
    """One of the seven products, in the terms above: x times a sum of quarters of the weight."""

    x: str
    quarters: tuple[int, int, int, int]  # how often b11, b12, b21 and b22 are in the sum
    to: str
    add: str = ""
    also: tuple[str, ...] = ()  # (what else the product is added to, what that makes)
    bias: bool = False


SEVEN = (
    Part("a11", (1, 0, 0, 0), "u1"),
    Part("a12", (0, 0, 1, 0), "c11", "u1", bias=True),
    Part("s2", (1, -1, 0, 1), "u2", "u1"),
    Part("s3", (0, -1, 0, 1), "u3", "u2"),
    Part("a22", (-1, 1, 1, -1), "c21", "u3", bias=True),
    Part("s1", (-1, 1, 0, 0), "c22", "u3", ("u2", "u4"), bias=True),  # a bias for c12 as well, by way of u4
    Part("s4", (0, 0, 0, 1), "c12", "u4"),
)


def applies(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a node is computed so: a wide pointwise convolution or, since nearly all weights of a transformer are
    those of linear layers and would be kept seven quarters times, a linear layer that widens.

    Not a matter of the batch or the machine, on which bits must not depend. Where pairs are neighbours, lines have
    whole pairs, so any run of lines has, in a band or a thread's share.
    """
    if node.op not in STEPS or node.attributes.get("gated"):
        return False
    x, y = (Place(shapes[name], 0, 0, 0, 0) for name in (node.inputs[0], node.output))
    (depth, size), (out, out_size), pixels = (x.channels, x.size), (y.channels, y.size), y.pixels
    plain = all(node.attributes.get(name, usual) == usual for name, usual in PLAIN.items())
    return (
        (plain and out_size == size)  # so the window is a single pixel
        and depth % UNIT == out % UNIT == 0
        and min(depth, out) >= LEAST_CHANNELS
        and (node.op != "linear" or out > depth)
        and pixels >= LEAST_PIXELS
        and (size[1] % 2 == 0 or in_halves(node, shapes))
    )


def in_halves(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether pixels are paired with those half an image away: in small images."""
    return Place(shapes[node.output], 0, 0, 0, 0).pixels < NEIGHBOURS


def lower(node: Node, context: Context) -> list[Step]:
    """Those of product.py, or where the scheme applies, one step in which each thread walks a program of its own."""
    if not applies(node, context.shapes):
        return product.STEPS[node.op](node, context)
    y, threads, programs = context.places[node.output], context.threads, []
    units, panels = _units(node, context.shapes, y), _panels(y, context)
    by_panel = splits_channels(y) or in_halves(node, context.shapes)
    for thread in range(threads):
        own = replace(context, threads=1, private=context.private + thread * context.private_bytes)
        share = _part(panels if by_panel else units, thread, threads)
        programs.append(thread_steps(node, own, **{"panels" if by_panel else "units": share}))
    return [Step(("strassen",), dict(programs=programs), node, flops(node, context))]


def flops(node: Node, context: Context) -> int:
    """Of a product as it is computed: seven products of eight, where the scheme applies."""
    weight = context.tensors[node.tensors["weight"]]
    whole = 2 * math.prod(context.shapes[node.output]) * math.prod(weight.shape[1:])
    return whole * 7 // 8 if applies(node, context.shapes) else whole


def private(node: Node, shapes: Mapping[str, tuple[int, ...]], machine: target.Target) -> int:
    """Bytes that each thread needs for itself."""
    if not applies(node, shapes):
        return 0
    x, y = (nhwc((1, *shapes[name][1:]), 0, machine.lanes) for name in (node.inputs[0], node.output))
    return _most_units(node, shapes, x, y) * _unit_bytes(node, shapes, x, y)


def thread_steps(
    node: Node, context: Context, first: int = 0, units: range | None = None, panels: range | None = None
) -> list[Step]:
    """One thread's steps for some units of pairs or some panels of each half of the channels, or for all of them.

    y is lines of the output from `first` on. As many units go together as have room for their sums.
    """
    x, y = context.places[node.inputs[0]], context.places[node.output]
    x = replace(x, address=x.address + first * x.line)
    units = _units(node, context.shapes, y) if units is None else units
    panels = _panels(y, context) if panels is None else panels
    parts = -(-len(units) // _most_units(node, context.shapes, x, y)) if panels else 0
    return [step for number in range(parts) for step in _seven(node, context, x, _part(units, number, parts), panels)]


def _seven(node: Node, context: Context, x: Place, units: range, panels: range) -> list[Step]:
    """The sums and the seven products of some units and panels."""
    y, residual = context.places[node.output], [context.places[name] for name in node.inputs[1:]]
    weight, bias = (context.tensors.get(node.tensors.get(role)) for role in ("weight", "bias"))
    depth, out, lanes = x.channels // 2, y.channels // 2, context.machine.lanes
    halves = in_halves(node, context.shapes)

    def pixels(place: Place, odd: int = 0) -> Place:
        """The even or the odd pixels of the pairs, as one line of pixels, or a line an image."""
        if halves:
            return _half(place, units, odd)
        pairs = range(TILE * units.start, min(TILE * units.stop, y.shape[0] * y.pixels // 2))
        return _every_other(place, pairs, odd)

    even, odd = pixels(x), pixels(x, 1)
    pairs, pitch = even.shape[3], 2 * x.pixel
    sums = replace(even, address=context.private, image=pairs * pitch, line=pairs * pitch, pixel=pitch)
    partial = replace(pixels(y), address=context.private + sums.bytes)
    unbiased = replace(node, tensors={"weight": node.tensors["weight"]})
    fields = dict(
        x=even.address, x_pair=even.pixel, x_image=even.image, x_odd=odd.address - even.address, y=sums.address,
        y_pair=sums.pixel, images=even.shape[0], pairs=pairs, half=4 * depth,
    )  # fmt: skip
    steps = [Step(("strassen_sums", lanes), fields, unbiased, 4 * even.shape[0] * pairs * depth, meet=False)]

    def factor(name: str) -> Place:
        """a11 to a22, or s1 to s4: from its first channel on."""
        *pixel, part = (int(digit) - 1 for digit in name[1:])
        return _from_channel(pixels(x, *pixel) if pixel else sums, part * depth)

    for number, part in enumerate(SEVEN):
        outer, half = part.to[0] == "c", 0
        others, attributed = {}, replace(unbiased, attributes={})
        if outer:
            other, half = (int(digit) - 1 for digit in part.to[1:])
            others = dict(residual=pixels(residual[0], other) if residual else None)
            attributed = node if part.bias else unbiased

        def addend(name: str, half: int = half) -> Place:
            """u1 to u4, whose channels are as far from its start as those of y are from the start of y. One takes the
            place of another that is not needed any more."""
            return _from_channel(partial, ((name in ("u2", "u4")) - half) * out)

        to = addend(part.to)
        if outer:
            to = pixels(y, other)
            if halves and not other:  # the one in the middle, of an odd number of pixels, is among the odd ones
                to = replace(to, shape=(*to.shape[:3], y.pixels // 2))
        multiplied = Product(
            attributed, factor(part.x), to, "matmul", target.MATMUL_ROWS[context.machine.registers], depth=depth,
            weight=weight, bias=bias if part.bias else None, partial=addend(part.add) if part.add else None,
            also=tuple(addend(name) for name in part.also), sum_block=product.SUM_BLOCK, **others,
        )  # fmt: skip
        packed = context.packed_weight(
            (node.tensors["weight"], "strassen", number), (out, depth, 1, 1), 2 * lanes, node,
            lambda: weight, part.quarters,
        )  # fmt: skip
        first = panels.start * 2 * lanes
        w = packed + 4 * first * depth
        steps.append(product.step(multiplied, context, (2, lanes), len(panels), half * out + first, (w, 0), True))
    return steps


def _units(node: Node, shapes: Mapping[str, tuple[int, ...]], y: Place) -> range:
    """What stays together where pairs are shared by threads or parts: images, or tiles of neighbouring pairs."""
    return range(y.shape[0] if in_halves(node, shapes) else -(-y.shape[0] * y.pixels // (2 * TILE)))


def _panels(y: Place, context: Context) -> range:
    """Of two vectors, in each half of the channels."""
    return range(y.channels // 2 // (2 * context.machine.lanes))


def _unit_bytes(node: Node, shapes: Mapping[str, tuple[int, ...]], x: Place, y: Place) -> int:
    """For the sums of a unit and for what they make."""
    return (-(-y.pixels // 2) if in_halves(node, shapes) else TILE) * 2 * (x.pixel + y.pixel)


def _most_units(node: Node, shapes: Mapping[str, tuple[int, ...]], x: Place, y: Place) -> int:
    """Whose sums have room."""
    return max(1, SCRATCH_BYTES // _unit_bytes(node, shapes, x, y))


def _part(whole: range, number: int, parts: int) -> range:
    return range(*(whole.start + len(whole) * at // parts for at in (number, number + 1)))


def _every_other(place: Place, pairs: range, odd: int) -> Place:
    """The even or the odd pixels of pairs of neighbours, as one line of pixels."""
    address, pitch = place.address + (2 * pairs.start + odd) * place.pixel, 2 * place.pixel
    return Place((1, place.channels, 1, len(pairs)), address, len(pairs) * pitch, len(pairs) * pitch, pitch)


def _half(place: Place, images: range, odd: int) -> Place:
    """The first or the second half of the pixels of some images; the middle one of an odd number is in both."""
    address = place.address + images.start * place.image + odd * (place.pixels // 2) * place.pixel
    pairs = -(-place.pixels // 2)
    return Place((len(images), place.channels, 1, pairs), address, place.image, pairs * place.pixel, place.pixel)


def _from_channel(place: Place, channel: int) -> Place:
    return replace(place, address=place.address + 4 * channel)


STEPS = dict.fromkeys(("conv2d", "linear"), lower)
PRIVATE = dict.fromkeys(STEPS, private)
