"""Lowering: each node of a graph to the steps that compute it, one function per operator.

Products (convolution, linear, max pooling) are lowered in product.py, everything else here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..graph import Node
from ..kernels import attention, packing, simd
from ..kernels.program import bits
from ..kernels.simd import activation
from ..machine import target
from .layout import Packed, Place, nhwc, padded

COUNTS = packing.FIELDS[-4:]


class Unsupported(ValueError):
    """The network has an operator of a size that no kernel takes on this machine, whatever the input."""


@dataclass
class Step:
    """One instruction before it is an int64 row: a kernel's specification, its fields.

    A field is an int64, a kernel's specification, which stands for its address, or stands for the address of a table:
    a list of records of such fields, or for every thread a list of steps. `meet` is whether the threads
    wait for each other behind it. `flops` counts multiply-adds twice. `bytes` is what has to move at least, and
    `weight_bytes` the weights among them: see count_bytes. `streams` are the stretches of memory, (address, bytes),
    that it reads and writes outside of a band: see streaming.py.
    """

    kernel: tuple
    fields: dict[str, object]
    node: Node
    flops: int = 0
    bytes: int = 0
    weight_bytes: int = 0
    meet: bool = True
    streams: tuple[tuple[int, int], ...] = ()
    keep: object = None  # of a packing step: the weight that it reads


@dataclass
class Context:
    """What planning a node may ask for."""

    machine: target.Target
    threads: int
    places: dict[str, Place]
    shapes: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, np.ndarray]
    packed: Packed
    scratch: dict[str, int]  # memory that a node needs beside its output, by output
    private_bytes: int  # that each thread has for itself, whatever the node
    private: int = 0  # address of the first thread's
    fresh: dict[tuple, np.ndarray] = field(default_factory=dict)  # what this plan adds to `packed`, once it is filled
    packing: list[Callable[[], Step]] = field(default_factory=list)  # to be run once, before the program

    def constant(self, key: tuple, make: Callable[[], np.ndarray]) -> int:
        """Address of a constant array, made once and shared by all plans of a model."""
        if key not in self.packed and key not in self.fresh:
            values = make()
            self.fresh[key] = self.packed.empty(values.size)
            self.fresh[key][...] = values.ravel()
        return self._address(key)

    def packed_weight(
        self,
        key: tuple,
        shape: tuple[int, ...],
        width: int,
        node: Node,
        weight: Callable[[], np.ndarray],
        quarters: tuple[int, ...] = (),
    ) -> int:
        """Address of a weight of shape (O, K, KH, KW) in panels of `width` output channels; see kernels/packing.py.

        `weight` is called when its turn to be packed comes, if it does: only then is there memory for what is made.
        With `quarters` the packed weight is a sum of those of another, (2 O, 2 K, 1, 1): each so many times.
        """
        channels, depth, *window = shape
        key = (*key, channels, width)
        if key not in self.packed and key not in self.fresh:
            self.fresh[key] = self.packed.empty(packing.packed_size(shape, width))
            fields = dict(
                channels=channels, depth=depth, taps=math.prod(window), width=width, packed=self._address(key),
                quarters=int(bool(quarters)), **dict(zip(COUNTS, quarters or (1, 0, 0, 0), strict=True)),
            )  # fmt: skip
            moved = 8 * math.prod(shape)

            def step() -> Step:
                made = np.ascontiguousarray(weight())
                source = dict(weight=made.ctypes.data, row=made.strides[0])
                return Step(("packing",), fields | source, node, bytes=moved, keep=made)

            self.packing.append(step)
        return self._address(key)

    def _address(self, key: tuple) -> int:
        return (self.packed if key in self.packed else self.fresh)[key].ctypes.data

    def channel_vector(self, key: tuple, values: np.ndarray) -> int:
        """Address of one value per channel along the last axis, zeros up to whole vectors."""
        width = padded(values.shape[-1], self.machine.lanes)
        edges = [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])]
        return self.constant((*key, self.machine.lanes), lambda: np.pad(values.astype(np.float32), edges))


def count_bytes(node: Node, context: Context, steps: list[Step]) -> list[Step]:
    """The steps of a node with its bytes in them: every input, weight and output once and without padding.

    Where a node has several steps, each has the share that it has of the work. A window narrower than its stride
    skips pixels.
    """
    values = [math.prod(context.places[name].shape) for name in (*node.inputs, node.output)]
    tensors = [context.tensors[name] for name in node.tensors.values()]
    if node.op == "conv2d":
        values[0] *= min(1, math.prod(tensors[0].shape[2:]) / node.attributes["stride"] ** 2)
    weights, total = sum(tensor.size for tensor in tensors), sum(step.flops for step in steps)
    for step in steps:
        share = 4 * step.flops / total
        step.bytes, step.weight_bytes = round(share * (sum(values) + weights)), round(share * weights)
    return steps


def splits_channels(y: Place) -> bool:
    """Whether threads split the channels of an output rather than its pixels: whichever there are more of.

    For a pointwise product that is the split by which the larger of weights and activations is read only once; and
    where most steps follow one rule, a thread finds most of what it reads in its own cache.
    """
    return y.channels > y.shape[0] * y.pixels


def _elementwise(node, context, x, y, *, factor=0, factor_image=0, shift=0, other=None, pixels=None) -> Step:
    kind = node.attributes.get("activation")
    lanes = context.machine.lanes
    pixels = pixels or y.pixels
    fields = dict(
        x=x.address, x_image=x.image, x_pixel=x.pixel, factor=factor, factor_image=factor_image, shift=shift,
        other=other.address if other else 0, other_image=other.image if other else 0,
        other_pixel=other.pixel if other else 0, y=y.address, y_image=y.image, y_pixel=y.pixel, images=y.shape[0],
        pixels=pixels, vectors=padded(y.channels, lanes) // lanes, split_channels=int(splits_channels(y)),
        **activation.fields(kind),
    )  # fmt: skip
    return Step(("elementwise", lanes, activation.variant(kind)), fields, node, 2 * y.shape[0] * pixels * y.channels)


def _batch_norm(node: Node, context: Context) -> list[Step]:
    x, y = context.places[node.inputs[0]], context.places[node.output]
    norm = {role: context.tensors[name].astype(np.float64) for role, name in node.tensors.items()}
    scale = norm["weight"] / np.sqrt(norm["running_var"] + node.attributes["eps"])
    factor = context.channel_vector((node.output, "scale"), scale)
    shift = context.channel_vector((node.output, "shift"), norm["bias"] - norm["running_mean"] * scale)
    return [_elementwise(node, context, x, y, factor=factor, shift=shift)]


def _activation(node: Node, context: Context) -> list[Step]:
    return [_elementwise(node, context, context.places[node.inputs[0]], context.places[node.output])]


def _add(node: Node, context: Context) -> list[Step]:
    x, other = (context.places[name] for name in node.inputs)
    return [_elementwise(node, context, x, context.places[node.output], other=other)]


def scale(node: Node, context: Context, x: Place, gate: Place, y: Place) -> Step:
    """y = x times gate, whatever `node` computes with it then."""
    plain = replace(node, attributes={})
    return _elementwise(plain, context, x, y, factor=gate.address, factor_image=gate.image)


def _scale(node: Node, context: Context) -> list[Step]:
    x, gate = (context.places[name] for name in node.inputs)
    return [scale(node, context, x, gate, context.places[node.output])]


def _tokens(node: Node, context: Context) -> list[Step]:
    """Patches + their positions, and the class token + its position, into one buffer."""
    x, y = context.places[node.inputs[0]], context.places[node.output]
    position = context.channel_vector((node.output, "position"), context.tensors[node.tensors["position"]][0])
    first = context.channel_vector((node.output, "class"), context.tensors[node.tensors["class_token"]][0])
    row = 4 * padded(y.channels, context.machine.lanes)
    positions = replace(y, address=position + row, image=0, pixel=row)
    patches = _elementwise(node, context, x, replace(y, address=y.address + y.pixel), other=positions, pixels=x.pixels)
    constant = Place(y.shape, first, 0, 0, 0)
    single = _elementwise(node, context, constant, y, other=replace(positions, address=position), pixels=1)
    patches.meet = False
    return [patches, single]


def _layer_norm(node: Node, context: Context) -> list[Step]:
    x, y = context.places[node.inputs[0]], context.places[node.output]
    if y.channels % simd.PARTIALS:
        raise Unsupported(f"{node.output}: layer norm takes a multiple of {simd.PARTIALS} channels")
    tensors = {role: context.tensors[name] for role, name in node.tensors.items()}
    fields = dict(
        x=x.address, x_row=x.image if x.pixels == 1 else x.pixel,
        y=y.address, y_row=y.image if y.pixels == 1 else y.pixel, rows=y.shape[0] * y.pixels, channels=y.channels,
        weight=context.channel_vector((node.output, "weight"), tensors["weight"]),
        bias=context.channel_vector((node.output, "bias"), tensors["bias"]),
        reciprocal=bits(1 / y.channels), eps=bits(node.attributes["eps"]),
    )  # fmt: skip
    return [Step(("layer_norm",), fields, node, 8 * int(np.prod(y.shape)))]


def _attention_tile(machine: target.Target, tokens: int, depth: int) -> tuple[int, int]:
    rows, vectors = target.ATTENTION_TILE[machine.registers]
    while depth % (vectors * machine.lanes):
        vectors -= 1
        if not vectors:
            raise Unsupported(f"attention heads of {depth} channels are no multiple of {machine.lanes} lanes")
    return min(rows, tokens), vectors


def _attention_private(node: Node, shapes: dict[str, tuple], machine: target.Target) -> int:
    """Bytes that each thread needs for itself."""
    _, tokens, width = shapes[node.inputs[0]]
    depth = width // 3 // node.attributes["heads"]
    rows, vectors = _attention_tile(machine, tokens, depth)
    return 4 * attention.scratch_floats(tokens, depth, rows, vectors, machine.lanes)


def gates_weights(channels: int, pixels: int) -> bool:
    """Whether a gated product scales its weights rather than its input: where an image has more pixels than the product
    has output channels. Not a matter of the batch size, on which bits must not depend."""
    return pixels >= channels


def gated_scratch(
    node: Node, shapes: Mapping[str, tuple[int, ...]], machine: target.Target, images: int | None = None
) -> int:
    """Bytes of what gates have scaled: a packed weight for each of so many images, all by default, or the input."""
    if not node.attributes.get("gated"):
        return 0
    (n, channels, h, w), x = shapes[node.output], shapes[node.inputs[0]]
    weight = (images or n) * 4 * padded(channels, machine.lanes) * x[1]
    return weight if gates_weights(channels, h * w) else nhwc(x, 0, machine.lanes).bytes


def _attention(node: Node, context: Context) -> list[Step]:
    x, y = context.places[node.inputs[0]], context.places[node.output]
    heads, tokens = node.attributes["heads"], x.shape[1]
    depth = y.channels // heads
    rows, vectors = _attention_tile(context.machine, tokens, depth)
    lanes = context.machine.lanes
    fields = dict(
        qkv=x.address, image=x.image, token=x.pixel, y=y.address, y_image=y.image, y_token=y.pixel,
        images=y.shape[0], heads=heads, tokens=tokens, depth=depth,
        padded=attention.padded_tokens(tokens, vectors, lanes), scratch=context.private,
        scratch_thread=context.private_bytes, scale=bits(depth**-0.5),
    )  # fmt: skip
    return [Step(("attention", rows, vectors, lanes), fields, node, 4 * y.shape[0] * tokens * tokens * y.channels)]


def _global_average_pool(node: Node, context: Context) -> list[Step]:
    x, y = context.places[node.inputs[0]], context.places[node.output]
    lanes = context.machine.lanes
    fields = dict(
        x=x.address, x_image=x.image, x_pixel=x.pixel, pixels=x.pixels, y=y.address, y_image=y.image,
        images=y.shape[0], vectors=padded(y.channels, lanes) // lanes, reciprocal=bits(1 / x.pixels),
    )  # fmt: skip
    return [Step(("average_pool", lanes), fields, node, int(np.prod(x.shape)))]


STEPS: dict[str, Callable[[Node, Context], list[Step]]] = {
    "batch_norm": _batch_norm,
    "activation": _activation,
    "add": _add,
    "scale": _scale,
    "tokens": _tokens,
    "layer_norm": _layer_norm,
    "attention": _attention,
    "global_average_pool": _global_average_pool,
}
# Memory that a node needs beside its output, in all and for each thread: bytes by (node, shapes, machine).
SCRATCH: dict[str, Callable] = {"conv2d": gated_scratch}
PRIVATE: dict[str, Callable] = {"attention": _attention_private}
