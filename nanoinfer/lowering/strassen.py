"""Wide products with one multiplication in eight left out: Strassen's scheme in Winograd's form.

Two pixels, with their input channels in two halves, are a 2 x 2 matrix a; the weight, in quarters, is a 2 x 2 matrix b;
and c = a b is the same two pixels of the output. Row by column that would be eight products. With sums of activations,
s1 to s4, and sums of weights, it is seven:

    s1 = a21 + a22    s2 = s1 - a11    s3 = a11 - a21    s4 = a12 - s2

    u1 = a11 b11                        c11 = a12 b21 + u1
    u2 = s2 (b11 - b12 + b22) + u1      c21 = a22 (b12 - b11 + b21 - b22) + u3
    u3 = s3 (b22 - b12) + u2            c12 = s4 b22 + u4
    u4 = s1 (b12 - b11) + u2            c22 = s1 (b12 - b11) + u3    (one product for both)

(V. Strassen, Gaussian Elimination is not Optimal, Numerische Mathematik 13, 1969.) Sums of weights are made once, and
rounded once; seven quarters of a weight are kept and read instead of four.

A pair is two neighbours of an image row or, in small images, whose rows may be odd, a pixel and the one half an image
away (split pairing). So bits depend on neither batch, threads nor row bands. But the two of a pair share their rounding
errors, and an infinity or NaN in one of them may reach both, as NaN.
"""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from ..graph import Node
from ..kernels.elementwise import StrassenSums, SumsInstruction
from ..kernels.program import ThreadProgram, ThreadProgramInstruction
from ..machine import Machine
from . import loop_nest
from .layout import TensorView, ceil_div, nhwc, shape_view, splits_channels
from .packed import PackKey, PackRequest
from .step import Context, Shapes, Step
from .tiling import ConvProblem, Panels

PLAIN = dict(stride=1, padding=0, groups=1)


class Operand(Enum):
    """What is multiplied with a sum of weights: (pixel of the pair, half of the input channels), or a sum."""

    A11, A12, A21, A22 = (0, 0), (0, 1), (1, 0), (1, 1)
    S1, S2, S3, S4 = ("sum", 0), ("sum", 1), ("sum", 2), ("sum", 3)


class Target(Enum):
    """Where a result goes: (pixel, half of the output channels), or a partial sum and its half of the workspace.

    A partial sum takes the place of another that is not needed any more.
    """

    C11, C12, C21, C22 = (0, 0), (0, 1), (1, 0), (1, 1)
    U1, U2, U3, U4 = ("u1", 0), ("u2", 1), ("u3", 0), ("u4", 1)

    @property
    def is_output(self) -> bool:
        return self.name[0] == "C"


class Multiply(NamedTuple):
    """One of the seven products."""

    a: Operand
    b: tuple[int, int, int, int]  # coefficients of b11, b12, b21 and b22
    out: Target
    partial: Target | None = None  # a partial sum that is added before the store
    aux: tuple[Target, Target] | None = None  # another partial sum to add, and where that sum goes
    bias: bool = False


A11, A12, A22 = Operand.A11, Operand.A12, Operand.A22
S1, S2, S3, S4 = Operand.S1, Operand.S2, Operand.S3, Operand.S4
U1, U2, U3, U4 = Target.U1, Target.U2, Target.U3, Target.U4
MULTIPLIES = (
    #        a    b                out
    Multiply(A11, (1, 0, 0, 0), U1),
    Multiply(A12, (0, 0, 1, 0), Target.C11, partial=U1, bias=True),
    Multiply(S2, (1, -1, 0, 1), U2, partial=U1),
    Multiply(S3, (0, -1, 0, 1), U3, partial=U2),
    Multiply(A22, (-1, 1, 1, -1), Target.C21, partial=U3, bias=True),
    Multiply(S1, (-1, 1, 0, 0), Target.C22, partial=U3, aux=(U2, U4), bias=True),  # a bias for C12, too, through U4
    Multiply(S4, (0, 0, 0, 1), Target.C12, partial=U4),
)


def applies(node: Node, shapes: Shapes, machine: Machine) -> bool:
    """Whether a node is computed so: a wide pointwise convolution, or a wide linear layer that widens further.

    (Nearly all weights of a transformer are those of linear layers, and would need 7/4 of their memory.) Neither the
    batch nor what differs between machines has a say, since bits must not depend on them. Where pairs are neighbours,
    image rows are whole pairs, so that any run of rows is, in a row band or a thread's share.
    """
    if node.op not in ("conv2d", "linear") or node.attributes.get("gated"):
        return False
    numerics, x, y = machine.tuning.numerics, shape_view(shapes[node.inputs[0]]), shape_view(shapes[node.output])
    plain = all(node.attributes.get(name, usual) == usual for name, usual in PLAIN.items())
    return (
        (plain and y.height_width == x.height_width)  # so the window is a single pixel
        and x.channels % numerics.strassen_channel_unit == y.channels % numerics.strassen_channel_unit == 0
        and min(x.channels, y.channels) >= numerics.strassen_channels
        and (node.op != "linear" or y.channels > x.channels)
        and y.pixels >= numerics.strassen_pixels
        and (x.height_width[1] % 2 == 0 or has_split_pairs(node, shapes, machine))
        and node.attributes.get("unevenness", math.inf) <= numerics.strassen_unevenness
    )


def has_split_pairs(node: Node, shapes: Shapes, machine: Machine) -> bool:
    """Whether pixels are paired with those half an image away: in small images."""
    return shape_view(shapes[node.output]).pixels < machine.tuning.numerics.strassen_neighbours_from


def thread_workspace(node: Node, shapes: Shapes, machine: Machine) -> int:
    """Bytes that each thread needs for sums and partial sums."""
    if not applies(node, shapes, machine):
        return 0
    x, y = (nhwc((1, *shapes[name][1:]), machine) for name in (node.inputs[0], node.output))
    pairing = Pairing(x, y, has_split_pairs(node, shapes, machine), machine)
    return pairing.most_units * pairing.unit_bytes


def lower(node: Node, context: Context) -> list[Step]:
    """One step in which each thread runs a program of its own, on its share of the pairs or of the micro-panels."""
    x, y = context.inputs(node)[0], context.output(node)
    pairing = Pairing(x, y, has_split_pairs(node, context.shapes, context.machine), context.machine)
    shares_panels, programs = splits_channels(y) or pairing.split, []
    for thread in range(context.threads):
        units, panels = pairing.units, pairing.panels
        if shares_panels:
            panels = _part(panels, thread, context.threads)
        else:
            units = _part(units, thread, context.threads)
        programs.append(_steps(node, context.of_thread(thread), pairing, units, panels))
    return [Step(ThreadProgram(), ThreadProgramInstruction(0), node, programs=tuple(programs))]


def thread_steps(node: Node, context: Context, first_row: int = 0) -> list[Step]:
    """The steps of one thread alone, for all of y: rows of the output from `first_row` on."""
    x, y = context.inputs(node)[0], context.output(node)
    x = x._replace(address=x.address + first_row * x.row_stride)
    pairing = Pairing(x, y, has_split_pairs(node, context.shapes, context.machine), context.machine)
    return _steps(node, context, pairing, pairing.units, pairing.panels)


class Pairing(NamedTuple):
    """Which pixels of x and y are pairs. A unit of pairs stays together where threads or chunks divide them."""

    x: TensorView
    y: TensorView
    split: bool  # a unit is an image, whose pairs are half an image apart; otherwise some neighbouring pairs
    machine: Machine

    @property
    def unit_pairs(self) -> int:
        return ceil_div(self.y.pixels, 2) if self.split else self.machine.tuning.strassen_unit

    @property
    def units(self) -> range:
        pixels = self.y.images * self.y.pixels
        return range(self.y.images if self.split else ceil_div(pixels, 2 * self.unit_pairs))

    @property
    def panel_width(self) -> int:
        """Output channels of a micro-panel."""
        return self.machine.tuning.panel_nr * self.machine.lanes

    @property
    def panels(self) -> range:
        """Micro-panels in each half of the output channels."""
        return range(self.y.channels // 2 // self.panel_width)

    @property
    def unit_bytes(self) -> int:
        """Workspace of a unit, for sums and partial sums."""
        return self.unit_pairs * 2 * (self.x.pixel_stride + self.y.pixel_stride)

    @property
    def most_units(self) -> int:
        """Units whose sums have room."""
        return max(1, self.machine.tuning.strassen_workspace_bytes // self.unit_bytes)

    def pixels(self, view: TensorView, units: range, odd: int) -> TensorView:
        """The even or the odd pixels of the pairs, as one row of pixels for all images or for each."""
        if self.split:  # the first or the second half of an image; the middle pixel of an odd number is in both
            half = odd * (view.pixels // 2) * view.pixel_stride
            address, pairs = view.address + units.start * view.image_stride + half, ceil_div(view.pixels, 2)
            row = pairs * view.pixel_stride
            return TensorView((len(units), view.channels, 1, pairs), address, view.image_stride, row, view.pixel_stride)
        first = self.unit_pairs * units.start
        pairs = min(self.unit_pairs * units.stop, self.y.images * self.y.pixels // 2) - first
        address, stride = view.address + (2 * first + odd) * view.pixel_stride, 2 * view.pixel_stride
        return TensorView((1, view.channels, 1, pairs), address, pairs * stride, pairs * stride, stride)


def _part(whole: range, number: int, count: int) -> range:
    """Part `number` of `count`, as equal as they come."""
    return range(*(whole.start + len(whole) * at // count for at in (number, number + 1)))


def _steps(node: Node, context: Context, pairing: Pairing, units: range, panels: range) -> list[Step]:
    """One thread's steps for some units and some micro-panels of each half of the channels.

    As many units as have room for their sums go together, as a chunk.
    """
    count = ceil_div(len(units), pairing.most_units) if panels else 0
    chunks = (_part(units, number, count) for number in range(count))
    return [step for chunk in chunks for step in _chunk_steps(node, context, pairing, chunk, panels)]


def _chunk_steps(node: Node, context: Context, pairing: Pairing, units: range, panels: range) -> list[Step]:
    """The sums and the seven products of a chunk of units and some micro-panels."""
    even, odd = (pairing.pixels(pairing.x, units, at) for at in (0, 1))
    pairs, stride = even.shape[3], 2 * pairing.x.pixel_stride
    sums = even._replace(
        address=context.thread_workspace, image_stride=pairs * stride, row_stride=pairs * stride,
        pixel_stride=stride,
    )  # fmt: skip
    partials = pairing.pixels(pairing.y, units, 0)._replace(address=context.thread_workspace + sums.bytes)
    views = _Views(pairing, units, sums, partials)
    k = pairing.x.channels // 2
    instruction = SumsInstruction(
        x=even.address, x_pair_stride=even.pixel_stride, x_image_stride=even.image_stride,
        odd_offset=odd.address - even.address, y=sums.address, y_pair_stride=stride, images=even.images, pairs=pairs,
        half=4 * k,
    )  # fmt: skip
    spec, unbiased = StrassenSums(context.machine.lanes), replace(node, tensors={"weight": node.tensors["weight"]})
    first = Step(spec, instruction, unbiased, 4 * even.images * pairs * k, barrier=False)
    return [first, *(_multiply(node, context, views, panels, number) for number in range(len(MULTIPLIES)))]


class _Views(NamedTuple):
    """Where the operands and the results of a chunk lie."""

    pairing: Pairing
    units: range
    sums: TensorView  # s1 to s4 of each pair
    partials: TensorView  # u1 or u3 in the first half of its channels, u2 or u4 in the second

    def operand(self, operand: Operand) -> TensorView:
        pixel, half = operand.value
        view = self.sums if pixel == "sum" else self.pairing.pixels(self.pairing.x, self.units, pixel)
        return view.from_channel(half * (self.pairing.x.channels // 2))

    def partial(self, target: Target, half: int) -> TensorView:
        """A partial sum; its channels are as far from its start as those of a half of y are from the start of y."""
        _, own = target.value
        return self.partials.from_channel((own - half) * (self.pairing.y.channels // 2))

    def output(self, pixel: int) -> TensorView:
        view = self.pairing.pixels(self.pairing.y, self.units, pixel)
        if self.pairing.split and pixel == 0:  # the middle one of an odd number of pixels is written as an odd one
            view = view._replace(shape=(*view.shape[:3], self.pairing.y.pixels // 2))
        return view


def _multiply(node: Node, context: Context, views: _Views, panels: range, number: int) -> Step:
    """One of the seven products."""
    multiply, pairing = MULTIPLIES[number], views.pairing
    (k, out), weight = (pairing.x.channels // 2, pairing.y.channels // 2), context.tensor(node, "weight")
    product_node, half, residual = replace(node, tensors={"weight": node.tensors["weight"]}), 0, None
    if multiply.out.is_output:
        pixel, half = multiply.out.value
        y, residuals = views.output(pixel), [context.views[name] for name in node.inputs[1:]]
        residual = pairing.pixels(residuals[0], views.units, pixel) if residuals else None
        product_node = node if multiply.bias else product_node
    else:
        y, product_node = views.partial(multiply.out, half), replace(product_node, attributes={})
    problem = ConvProblem(
        product_node, views.operand(multiply.a), y, k=k, weight=weight,
        bias=context.tensor(node, "bias") if multiply.bias else None, residual=residual,
        partial=views.partial(multiply.partial, half) if multiply.partial else None,
        aux=tuple(views.partial(target, half) for target in multiply.aux) if multiply.aux else None,
        k_block=context.machine.tuning.numerics.k_block,  # also where y has one pair of many
    )  # fmt: skip
    key = PackKey(node.tensors["weight"], ("strassen", number), out, pairing.panel_width)
    packed = context.staging.weight(PackRequest(key, (out, k, 1, 1), lambda: weight, multiply.b))
    first = panels.start * pairing.panel_width
    weights = loop_nest.PackedAddress(packed + 4 * first * k)
    part = Panels(context.machine.tuning.panel_nr, context.machine.lanes, len(panels))
    return loop_nest.product_step(problem, context, part, weights, half * out + first, parallel_n=True)
