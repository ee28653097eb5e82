"""OPS, one row per operator: its shape rule and its reference in NumPy.

The reference is the definition of the operator, and tests compare kernels with it. It works in the dtype of its
arguments, so float64 inputs give a float64 reference. `infer_shapes` and `evaluate` walk a graph with these rows.
Shapes are in torch's order: (N, C, H, W), (N, T, D) or (N, D).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from .ir import Graph, Node
from .windows import blur_padding, blur_weights, window_shape, windows


def _erf(x):
    return np.vectorize(math.erf, otypes=[x.dtype])(x) if x.size else x


# With s = sqrt(6), hard_swish(s x) = s x clamp(s x + 3, 0, 6) / 6 = x clamp(x + s / 2, 0, s). The weights are divided
# by the float32 s that the activation uses, so the rounding of s shows in s squared alone: a relative 1e-7.
HARD_SWISH_SCALE = float(np.float32(math.sqrt(6)))

ACTIVATIONS: dict[str | None, Callable] = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "hard_sigmoid": lambda x: np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "hard_swish": lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "scaled_hard_swish": lambda x: x * np.minimum(np.maximum(x + HARD_SWISH_SCALE / 2, 0), HARD_SWISH_SCALE),
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
}


def _epilogue(y, inputs, attributes):
    """The operators that passes fuse behind a product: y (+ residual), then an activation."""
    if len(inputs) > 1:
        y = y + inputs[1]
    return ACTIVATIONS[attributes.get("activation")](y)


def _features(shape):
    """Channels are the last axis of (N, T, D) and (N, D), and of nothing else."""
    if len(shape) not in (2, 3):
        raise ValueError(f"tokens (N, T, D) or (N, D) expected, not {shape}")


def _rank(shape, rank):
    if len(shape) != rank:
        raise ValueError(f"{rank} dimensions expected, not {shape}")


def _conv2d(inputs, tensors, attributes):
    x, weight, groups = inputs[0], tensors["weight"], attributes["groups"]
    if attributes.get("gated"):  # the last input scales the first, as operator "scale" does
        *inputs, gate = inputs
        x = x * gate
    taps = windows(x, weight.shape[2], attributes["stride"], attributes["padding"], 0)
    n, _, oh, ow = taps.shape[:4]
    columns = taps.transpose(0, 1, 4, 5, 2, 3).reshape(n, groups, -1, oh * ow)
    y = weight.reshape(groups, -1, columns.shape[2]) @ columns
    y = y.reshape(n, -1, oh, ow)
    if "bias" in tensors:
        y = y + tensors["bias"][:, None, None]
    return _epilogue(y, inputs, attributes)


def _conv2d_shape(shapes, tensors, attributes):
    out, per_group, window = tensors["weight"][:3]
    _rank(shapes[0], 4)
    _tensor_shape(tensors, "bias", (out,))
    if "patches" in attributes and shapes[0][2:] != tuple(side * window for side in attributes["patches"]):
        (h, w), (rows, columns) = shapes[0][2:], attributes["patches"]
        raise ValueError(
            f"{h} x {w} pixels do not fit {rows} x {columns} position embeddings of {window} x {window} pixels each; "
            f"give images of {rows * window} x {columns * window} pixels"
        )
    n, channels, h, w = window_shape(shapes[0], window, attributes["stride"], attributes["padding"])
    if channels != per_group * attributes["groups"]:
        raise ValueError(f"{per_group * attributes['groups']} channels expected, not {channels}")
    if out % attributes["groups"]:
        raise ValueError(f"{out} output channels do not divide into {attributes['groups']} groups")
    return _epilogue_shape((n, out, h, w), shapes, attributes)


def _epilogue_shape(shape, shapes, attributes):
    """The shape of a product; ValueError unless a residual has that shape too and a gate fits the product's input."""
    residuals = list(shapes[1:])
    if attributes.get("gated"):
        if not residuals:
            raise ValueError("a gated convolution needs a gate")
        _scale_shape([shapes[0], residuals.pop()], {}, attributes)
    for residual in residuals:
        _add_shape([shape, residual], {}, attributes)
    return shape


def _tensor_shape(tensors, role, shape):
    """ValueError if there is a tensor `role` of another shape: a kernel would read beyond its end."""
    if role in tensors and tuple(tensors[role]) != shape:
        raise ValueError(f"{role} of shape {shape} expected, not {tensors[role]}")


def _batch_norm(inputs, tensors, attributes):
    scale = tensors["weight"] / np.sqrt(tensors["running_var"] + attributes["eps"])
    shift = tensors["bias"] - tensors["running_mean"] * scale
    return inputs[0] * scale[:, None, None] + shift[:, None, None]


def _layer_norm(inputs, tensors, attributes):
    centred = inputs[0] - inputs[0].mean(-1, keepdims=True)
    scale = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + attributes["eps"])
    return centred * scale * tensors["weight"] + tensors["bias"]


def _linear(inputs, tensors, attributes):
    return _epilogue(inputs[0] @ tensors["weight"].T + tensors["bias"], inputs, attributes)


def _linear_shape(shapes, tensors, attributes):
    out, features = tensors["weight"]
    _features(shapes[0])
    if shapes[0][-1] != features:
        raise ValueError(f"{features} features expected, not {shapes[0][-1]}")
    _tensor_shape(tensors, "bias", (out,))
    return _epilogue_shape((*shapes[0][:-1], out), shapes, attributes)


def _max_pool2d(inputs, tensors, attributes):
    taps = windows(inputs[0], attributes["window"], attributes["stride"], attributes["padding"], -np.inf)
    return taps.max((-2, -1))


def _average_pool2d(inputs, tensors, attributes):
    return windows(inputs[0], attributes["window"], attributes["stride"], 0, 0).mean((-2, -1))


def _blur_pool2d(inputs, tensors, attributes):
    window, stride = attributes["window"], attributes["stride"]
    edge = (blur_padding(window, stride),) * 2
    padded = np.pad(inputs[0], ((0, 0), (0, 0), edge, edge), mode="reflect")
    return (windows(padded, window, stride, 0, 0) * blur_weights(window)).sum((-2, -1)).astype(padded.dtype)


def _blur_shape(shapes, tensors, attributes):
    padding = blur_padding(attributes["window"], attributes["stride"])
    if min(shapes[0][2:]) <= padding:
        (h, w), least = shapes[0][2:], padding + 1
        raise ValueError(f"an image of {h} x {w} has too few pixels to reflect; it takes {least} x {least}")
    return window_shape(shapes[0], attributes["window"], attributes["stride"], padding)


def _tokens(inputs, tensors, attributes):
    n, d = inputs[0].shape[:2]
    patches = inputs[0].reshape(n, d, -1).transpose(0, 2, 1)
    first = np.broadcast_to(tensors["class_token"], (n, 1, d))
    return np.concatenate([first, patches], 1) + tensors["position"]


def _tokens_shape(shapes, tensors, attributes):
    _rank(shapes[0], 4)
    n, d, h, w = shapes[0]
    length = tensors["position"][1]
    _tensor_shape(tensors, "class_token", (1, 1, d))
    _tensor_shape(tensors, "position", (1, length, d))
    side = math.isqrt(length - 1)
    if (h, w) != (side, side):
        raise ValueError(f"{h} x {w} patches do not fit {side} x {side} position embeddings")
    return n, length, d


def _attention(inputs, tensors, attributes):
    n, t, width = inputs[0].shape
    heads = attributes["heads"]
    q, k, v = inputs[0].reshape(n, t, 3, heads, width // 3 // heads).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    y = (scores / scores.sum(-1, keepdims=True)) @ v
    return y.transpose(0, 2, 1, 3).reshape(n, t, width // 3)


def _attention_shape(shapes, tensors, attributes):
    _rank(shapes[0], 3)
    n, t, width = shapes[0]
    if width % (3 * attributes["heads"]):
        raise ValueError(f"{width} features do not divide into queries, keys and values of {attributes['heads']} heads")
    return n, t, width // 3


def _pool_shape(shapes, tensors, attributes):
    _rank(shapes[0], 4)
    return *shapes[0][:2], 1, 1


def _select_token_shape(shapes, tensors, attributes):
    _rank(shapes[0], 3)
    return shapes[0][0], shapes[0][2]


def _flatten_shape(shapes, tensors, attributes):
    if shapes[0][2:] != (1, 1):
        raise ValueError(f"flatten takes (N, C, 1, 1), not {shapes[0]}")
    return shapes[0][:2]


def _scale_shape(shapes, tensors, attributes):
    x, gate = shapes
    if gate != (*x[:2], 1, 1):
        raise ValueError(f"a gate of {gate} cannot scale the channels of {x}")
    return x


def _batch_norm_shape(shapes, tensors, attributes):
    _rank(shapes[0], 4)
    for role in tensors:
        _tensor_shape(tensors, role, shapes[0][1:2])
    return shapes[0]


def _layer_norm_shape(shapes, tensors, attributes):
    _features(shapes[0])
    for role in tensors:
        _tensor_shape(tensors, role, shapes[0][-1:])
    return shapes[0]


def _same(shapes, tensors, attributes):
    return shapes[0]


def _add_shape(shapes, tensors, attributes):
    if shapes[0] != shapes[1]:
        raise ValueError(f"shapes differ: {shapes[0]} and {shapes[1]}")
    return shapes[0]


class Op(NamedTuple):
    """The meaning of an operator.

    shape: (input shapes, {role: tensor shape}, attributes) -> output shape; ValueError if they do not fit together.
    reference: (input arrays, {role: array}, attributes) -> output array, in the dtype of the inputs.
    """

    shape: Callable[[list[tuple], dict[str, tuple], dict[str, object]], tuple[int, ...]]
    reference: Callable[[list[np.ndarray], dict[str, np.ndarray], dict[str, object]], np.ndarray]


OPS: dict[str, Op] = {
    "conv2d": Op(_conv2d_shape, _conv2d),
    "linear": Op(_linear_shape, _linear),
    "batch_norm": Op(_batch_norm_shape, _batch_norm),
    "layer_norm": Op(_layer_norm_shape, _layer_norm),
    "activation": Op(_same, lambda x, t, a: ACTIVATIONS[a["activation"]](x[0])),
    "add": Op(_add_shape, lambda x, t, a: ACTIVATIONS[a.get("activation")](x[0] + x[1])),
    "scale": Op(_scale_shape, lambda x, t, a: x[0] * x[1]),
    "max_pool2d": Op(lambda s, t, a: window_shape(s[0], a["window"], a["stride"], a["padding"]), _max_pool2d),
    "average_pool2d": Op(lambda s, t, a: window_shape(s[0], a["window"], a["stride"], 0), _average_pool2d),
    "blur_pool2d": Op(_blur_shape, _blur_pool2d),
    "global_max_pool": Op(_pool_shape, lambda x, t, a: x[0].max((2, 3), keepdims=True)),
    "global_average_pool": Op(_pool_shape, lambda x, t, a: x[0].mean((2, 3), keepdims=True)),
    "flatten": Op(_flatten_shape, lambda x, t, a: x[0].reshape(x[0].shape[:2])),
    "tokens": Op(_tokens_shape, _tokens),
    "attention": Op(_attention_shape, _attention),
    "select_token": Op(_select_token_shape, lambda x, t, a: x[0][:, a["index"]]),
}

# Operators that compute token t of their output (N, T, D) from token t of their inputs alone.
BY_TOKEN = ("linear", "layer_norm", "activation", "add")


def is_pointwise(node: Node, tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether `node` is a 1 x 1 convolution of stride 1 without padding and groups."""
    if node.op != "conv2d" or tensors[node.tensors["weight"]].shape[2:] != (1, 1):
        return False
    return (node.attributes["stride"], node.attributes["padding"], node.attributes["groups"]) == (1, 0, 1)


def infer_shapes(graph: Graph, input_shape: tuple[int, ...], tensors: dict[str, tuple] | None = None) -> dict:
    """{value: shape} of every value for one input shape.

    `tensors` gives the shapes of tensors that passes have made, beyond the graph's parameters and buffers. Raises
    ValueError, which names the node, if shapes do not fit together: an image too small, a residual or a tensor of
    another shape than the product's.
    """
    known = {**graph.parameters, **graph.buffers, **(tensors or {})}
    shapes = {graph.input: tuple(input_shape)}
    for node in graph.nodes:
        roles = {role: known[name] for role, name in node.tensors.items()}
        try:
            shapes[node.output] = OPS[node.op].shape([shapes[name] for name in node.inputs], roles, node.attributes)
        except ValueError as error:
            raise ValueError(f"{node.output}: {error}") from None
    return shapes


def evaluate(graph: Graph, tensors: dict[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """{value: array} of every value: the graph in plain NumPy, in the dtype of `x` (float64 for a reference)."""
    values = {graph.input: x}
    for node in graph.nodes:
        values[node.output] = apply(node, [values[name] for name in node.inputs], tensors)
    return values


def apply(node: Node, inputs: list[np.ndarray], tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The reference of one node, in the dtype of its inputs; `tensors` are arrays by name."""
    roles = {role: np.asarray(tensors[name], inputs[0].dtype) for role, name in node.tensors.items()}
    return OPS[node.op].reference(inputs, roles, node.attributes)
