"""One operator of a graph as torch and onnxruntime run it, for bench.kernels to time beside a kernel.

A fused residual or activation is a call of its own in torch, which has no fused ones; onnxruntime may fuse as it
likes. Torch is timed with channels last and first, and the better counts.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nanoinfer.graph import Node
from nanoinfer.graph.ops import HARD_SWISH_SCALE
from nanoinfer.graph.windows import SAME, blur_padding, blur_weights, edges

from .engines import turn

SECONDS = 0.03  # of one turn, a third of it to settle: the other engines' idle threads spin for a few milliseconds
ACTIVATIONS = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hard_sigmoid": functional.hardsigmoid,
    "hard_swish": functional.hardswish,
    "gelu": functional.gelu,
}


class Operator(nn.Module):
    """A node as a torch module over the node's inputs."""

    def __init__(self, node: Node, tensors: dict[str, np.ndarray]):
        super().__init__()
        self.op, self.attributes, factor = node.op, node.attributes, 1
        if node.attributes.get("activation") == "scaled_hard_swish":  # peers have the one without the factor
            self.attributes, factor = {**node.attributes, "activation": "hard_swish"}, np.float32(HARD_SWISH_SCALE)
        self.roles = dict.fromkeys(node.tensors)
        for role, name in node.tensors.items():
            self.register_buffer(role, torch.from_numpy(np.asarray(tensors[name], np.float32) * factor))

    def forward(self, *inputs):
        if self.attributes.get("gated"):
            x, *rest, gate = inputs
            inputs = (x * gate, *rest)
        y = COMPUTE[self.op](self, inputs[0], inputs[1:], self.attributes)
        if self.op in ("conv2d", "linear") and len(inputs) > 1:
            y = y + inputs[1]
        activation = self.attributes.get("activation")
        return ACTIVATIONS[activation](y) if activation else y


class Chain(nn.Module):
    """The convolutions of a fused node: its inputs are those of the first, then what else the last one reads."""

    def __init__(self, node: Node, tensors: dict[str, np.ndarray]):
        super().__init__()
        self.parts = nn.ModuleList(Operator(part, tensors) for part in node.attributes["parts"])
        self.inputs = len(node.attributes["parts"][0].inputs)

    def forward(self, *inputs):
        first, *inner, last = self.parts
        x = first(*inputs[: self.inputs])
        for part in inner:
            x = part(x)
        return last(x, *inputs[self.inputs :])


def module_of(node: Node, tensors: dict[str, np.ndarray]) -> nn.Module:
    return Chain(node, tensors) if node.op == "fused" else Operator(node, tensors)


def _tokens(m, x, rest, a):
    x = x.flatten(2).transpose(1, 2)
    return torch.cat([m.class_token.expand(x.shape[0], -1, -1), x], 1) + m.position


def _attention(m, x, rest, a):
    n, t, width = x.shape
    q, k, v = x.reshape(n, t, 3, a["heads"], -1).permute(2, 0, 3, 1, 4).unbind(0)
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, width // 3)


def _conv2d(m, x, rest, a):
    if a["padding"] == SAME:
        sides = [edges(size, m.weight.shape[2], a["stride"], SAME) for size in x.shape[2:]]
        x, a = functional.pad(x, (*sides[1], *sides[0])), {**a, "padding": 0}
    return functional.conv2d(x, m.weight, getattr(m, "bias", None), a["stride"], a["padding"], 1, a["groups"])


def _blur_pool2d(m, x, rest, a):
    taps = torch.from_numpy(blur_weights(a["window"])).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    padded = functional.pad(x, (blur_padding(a["window"], a["stride"]),) * 4, mode="reflect")
    return functional.conv2d(padded, taps, stride=a["stride"], groups=x.shape[1])


# operator -> f(module, first input, other inputs, attributes)
COMPUTE: dict[str, Callable] = {
    "conv2d": _conv2d,
    "linear": lambda m, x, rest, a: functional.linear(x, m.weight, m.bias),
    "batch_norm": lambda m, x, rest, a: functional.batch_norm(
        x, m.running_mean, m.running_var, m.weight, m.bias, eps=a["eps"]
    ),
    "layer_norm": lambda m, x, rest, a: functional.layer_norm(x, x.shape[-1:], m.weight, m.bias, a["eps"]),
    "activation": lambda m, x, rest, a: ACTIVATIONS[a["activation"]](x),
    "add": lambda m, x, rest, a: x + rest[0],
    "scale": lambda m, x, rest, a: x * rest[0],
    "max_pool2d": lambda m, x, rest, a: functional.max_pool2d(x, a["window"], a["stride"], a["padding"]),
    "average_pool2d": lambda m, x, rest, a: functional.avg_pool2d(x, a["window"], a["stride"]),
    "blur_pool2d": _blur_pool2d,
    "global_max_pool": lambda m, x, rest, a: functional.adaptive_max_pool2d(x, 1),
    "global_average_pool": lambda m, x, rest, a: functional.adaptive_avg_pool2d(x, 1),
    "tokens": _tokens,
    "attention": _attention,
}


def microseconds(run: Callable[[], object]) -> float:
    """Median time of a call."""
    return statistics.median(turn(lambda _: run(), None, SECONDS)) * 1e6


def torch_peer(threads: int) -> Callable:
    """f(node, tensors, inputs) -> microseconds in torch."""
    torch.set_num_threads(threads)

    def measure(node: Node, tensors: dict, inputs: list[np.ndarray]) -> float:
        times = []
        for layout in (torch.channels_last, torch.contiguous_format):
            module = module_of(node, tensors)
            values = [torch.from_numpy(value) for value in inputs]
            if layout == torch.channels_last:
                values = [v.to(memory_format=layout) if v.ndim == 4 else v for v in values]
                module = module.to(memory_format=layout)
            with torch.inference_mode():
                times.append(microseconds(lambda m=module, v=values: m(*v)))
        return min(times)

    return measure


def onnxruntime_peer(threads: int) -> Callable:
    """f(node, tensors, inputs) -> microseconds in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1

    def measure(node: Node, tensors: dict, inputs: list[np.ndarray]) -> float:
        file, names = io.BytesIO(), [f"input{number}" for number in range(len(inputs))]
        values = tuple(torch.from_numpy(value) for value in inputs)
        torch.onnx.export(
            module_of(node, tensors).eval(), values, file, input_names=names, dynamo=False, opset_version=17
        )
        session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        feed = dict(zip(names, inputs, strict=True))
        return microseconds(lambda: session.run(None, feed))

    return measure


PEERS: dict[str, Callable[[int], Callable]] = {"torch": torch_peer, "onnxruntime": onnxruntime_peer}
