"""Passes: graph and tensors in, the same network with fewer or cheaper steps out.

PASSES is the whole list, in order. `optimise(..., count)` runs any prefix of it, to find the pass that a fault comes
from. A pass matches nodes, usually a node and its only reader, and ends in `Graph.rewrite`, which checks the result. It
computes new tensors in float64 and rounds them once to float32. No pass removes a value that is an output of the graph,
so a tapped layer is computed as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .ir import Graph, Node
from .ops import BY_TOKEN, HARD_SWISH_SCALE, is_pointwise
from .scales import measure_scales

Tensors = dict[str, np.ndarray]

# The names of what passes make. Module names, and the names of tensors and values in them, hold letters, digits, "_",
# "." and ":"; the signs "*", ">", "/" and "[" tell what a pass did. A tensor's name is its key among packed weights, so
# the name says all that the numbers depend on.


def folded_name(weight: str, norm: str, role: str) -> str:
    """Tensor `role` of a convolution whose `weight` is multiplied by batch norm `norm`: "conv1.weight*bn1.bias"."""
    return f"{weight}*{norm}.{role}"


def merged_name(first: str, second: str, role: str) -> str:
    """Tensor `role` of the convolution that computes value `second` from the input of `first`: "bn3>bn1.weight"."""
    return f"{first}>{second}.{role}"


def scaled_name(tensor: str) -> str:
    """`tensor` divided by HARD_SWISH_SCALE: "conv_head.bias/hard_swish"."""
    return f"{tensor}/hard_swish"


def token_name(value: str, index: int) -> str:
    """Value (N, D): token `index` of `value` (N, T, D): "encoder.ln[0]"."""
    return f"{value}[{index}]"


def pixels_name(value: str, stride: int) -> str:
    """Value (N, C, H, W): every `stride`-th pixel of `value` in both directions: "layer3.0.relu[::2]"."""
    return f"{value}[::{stride}]"


def gather_pixels(graph: Graph, tensors: Tensors, wide: int = 0) -> tuple[Graph, Tensors]:
    """1 x 1 conv2d with a stride -> max_pool2d of single pixels, pointwise conv2d.

    The shortcuts of ResNets have such convolutions. The pixels that they read adjoin then, so Strassen's scheme and
    larger tiles suit them; with fewer input or output channels than `wide` that would not be worth the copy.
    """
    gathered, pixels_made = {}, set()
    for node in graph.nodes:
        if node.op != "conv2d" or node.attributes["stride"] == 1:
            continue
        weight, plain = tensors[node.tensors["weight"]], {**node.attributes, "stride": 1}
        if is_pointwise(replace(node, attributes=plain), tensors) and min(weight.shape[:2]) >= wide:
            x, stride = node.inputs[0], node.attributes["stride"]
            pixels = pixels_name(x, stride)
            pool = Node("max_pool2d", (x,), pixels, attributes={"window": 1, "stride": stride, "padding": 0})
            product = replace(node, inputs=(pixels, *node.inputs[1:]), attributes=plain)
            gathered[node.output] = [product] if pixels in pixels_made else [pool, product]
            pixels_made.add(pixels)
    return graph.rewrite(gathered), tensors


def fold_batch_norm(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """conv2d, batch_norm -> conv2d with bias."""
    tensors, folded, absorbed = dict(tensors), {}, set()
    for conv, norm in graph.only_readers():
        if (conv.op, norm.op) != ("conv2d", "batch_norm"):
            continue
        statistics = {role: tensors[name].astype(np.float64) for role, name in norm.tensors.items()}
        scale = statistics["weight"] / np.sqrt(statistics["running_var"] + norm.attributes["eps"])
        weight = tensors[conv.tensors["weight"]] * scale[:, None, None, None]
        bias = tensors[conv.tensors["bias"]] if "bias" in conv.tensors else 0.0
        bias = statistics["bias"] + (bias - statistics["running_mean"]) * scale
        names = {role: folded_name(conv.tensors["weight"], norm.output, role) for role in ("weight", "bias")}
        tensors[names["weight"]], tensors[names["bias"]] = weight.astype(np.float32), bias.astype(np.float32)
        folded[norm.output] = replace(conv, output=norm.output, tensors=names)
        absorbed.add(conv.output)
    return graph.rewrite(folded, drop=absorbed), tensors


def merge_pointwise(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """pointwise conv2d, pointwise conv2d -> one, where it takes fewer multiply-adds than the two.

    MobileNetV3 has such a pair: the projection of its first block, with no activation and no residual behind it, and
    the expansion of the next block.
    """
    tensors, merged, absorbed = dict(tensors), {}, set()

    def parts(node: Node) -> tuple[np.ndarray, np.ndarray | float]:
        weight, bias = (tensors[node.tensors[role]] if role in node.tensors else 0.0 for role in ("weight", "bias"))
        return weight[:, :, 0, 0].astype(np.float64), bias

    for first, second in graph.only_readers():
        first = merged.get(first.output, first)  # three in a row become one
        if second.inputs[0] != first.output or not (is_pointwise(first, tensors) and is_pointwise(second, tensors)):
            continue
        (inner, inner_bias), (outer, outer_bias) = parts(first), parts(second)
        if len(outer) * inner.shape[1] < inner.size + outer.size:
            names = {role: merged_name(first.output, second.output, role) for role in ("weight", "bias")}
            tensors[names["weight"]] = (outer @ inner)[:, :, None, None].astype(np.float32)
            tensors[names["bias"]] = (outer @ (inner_bias * np.ones(len(inner))) + outer_bias).astype(np.float32)
            attributes = {key: value for key, value in second.attributes.items() if key != "unevenness"}
            merged[second.output] = replace(second, inputs=first.inputs, tensors=names, attributes=attributes)
            absorbed.add(first.output)
    return graph.rewrite(merged, drop=absorbed), tensors


def _single_tokens(graph: Graph) -> dict[str, tuple[int, str]]:
    """Value (N, T, D) -> the index of the one token that is needed of it, and the name of that token (N, D).

    These are the outputs of operators BY_TOKEN that a select_token alone reads, or such operators alone.
    """
    consumers, wanted = graph.consumers(), {}
    for node in reversed(graph.nodes):
        if node.op not in BY_TOKEN or node.output in graph.outputs:
            continue
        readers = consumers[node.output]
        if len(readers) == 1 and readers[0].op == "select_token":
            wanted[node.output] = readers[0].attributes["index"], readers[0].output
            continue
        indices = {wanted[reader.output][0] if reader.output in wanted else None for reader in readers}
        if len(indices) == 1 and None not in indices:
            (index,) = indices
            wanted[node.output] = index, token_name(node.output, index)
    return wanted


def select_token_early(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """Operators that compute each token from that token, select_token -> select_token, the operators.

    The head of a vision transformer reads the class token alone, so the operators behind the attention of the last
    block are computed for that token.
    """
    wanted, producers, moved = _single_tokens(graph), graph.producers(), {}
    tokens = {(value, index): name for value, (index, name) in wanted.items()}
    for node in graph.nodes:
        if node.output in wanted:
            index, output = wanted[node.output]
            selects = []
            for name in node.inputs:
                if (name, index) not in tokens:
                    tokens[name, index] = token_name(name, index)
                    selects.append(Node("select_token", (name,), tokens[name, index], attributes={"index": index}))
            inputs = tuple(tokens[name, index] for name in node.inputs)
            moved[node.output] = [*selects, replace(node, inputs=inputs, output=output)]
    return graph.rewrite(moved, drop=[name for _, name in wanted.values() if name in producers]), tensors


def fuse_residual(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """conv2d or linear, add -> the product with the other summand as its second input."""
    producers, fused, absorbed = graph.producers(), {}, set()
    read_once = {node.output for node, _ in graph.only_readers()}

    def takes_residual(node: Node) -> bool:
        return node.op in ("conv2d", "linear") and len(node.inputs) == 1 and not node.attributes.get("activation")

    def is_view(name: str) -> bool:  # its strides are its own, but an epilogue reads by those of the output
        return name in producers and producers[name].op == "select_token"

    for add in graph.nodes:
        if add.op != "add":
            continue
        for mine, other in (add.inputs, add.inputs[::-1]):
            if mine in read_once and takes_residual(producers[mine]) and not is_view(other):
                # The product moves to the place of the sum: by then the other summand is computed.
                product = producers[mine]
                fused[add.output] = replace(product, inputs=(*product.inputs, other), output=add.output)
                absorbed.add(mine)
                break
    return graph.rewrite(fused, drop=absorbed), tensors


def fuse_activation(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """conv2d, linear or add, activation -> one node."""
    fused, absorbed = {}, set()
    for node, activation in graph.only_readers():
        can_hold = node.op in ("conv2d", "linear", "add") and not node.attributes.get("activation")
        if can_hold and activation.op == "activation":
            attributes = {**node.attributes, **activation.attributes}
            fused[activation.output] = replace(node, output=activation.output, attributes=attributes)
            absorbed.add(node.output)
    return graph.rewrite(fused, drop=absorbed), tensors


def scale_hard_swish(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """conv2d or linear with hard_swish -> the same with tensors divided by HARD_SWISH_SCALE, and scaled_hard_swish.

    The kernel then saves the multiplication of every output by 1/6.
    """
    tensors, scaled = dict(tensors), {}
    for node in graph.nodes:
        if node.attributes.get("activation") == "hard_swish" and node.tensors and len(node.inputs) == 1:
            names = {role: scaled_name(name) for role, name in node.tensors.items()}
            for role, name in node.tensors.items():
                tensors[names[role]] = (tensors[name] / np.float64(HARD_SWISH_SCALE)).astype(np.float32)
            attributes = {**node.attributes, "activation": "scaled_hard_swish"}
            scaled[node.output] = replace(node, tensors=names, attributes=attributes)
    return graph.rewrite(scaled), tensors


def fuse_gate(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """scale, pointwise conv2d -> conv2d with the gate as its last input.

    The kernel multiplies the weights by the gate instead of the larger activation.
    """
    gated, absorbed = {}, set()
    for scale, conv in graph.only_readers():
        reads_scaled = conv.inputs[0] == scale.output and is_pointwise(conv, tensors)
        if scale.op == "scale" and reads_scaled and not conv.attributes.get("gated"):
            x, gate = scale.inputs
            attributes = {**conv.attributes, "gated": True}
            gated[conv.output] = replace(conv, inputs=(x, *conv.inputs[1:], gate), attributes=attributes)
            absorbed.add(scale.output)
    return graph.rewrite(gated, drop=absorbed), tensors


PASSES: tuple[Callable[..., tuple[Graph, Tensors]], ...] = (
    gather_pixels,
    measure_scales,
    fold_batch_norm,
    merge_pointwise,
    select_token_early,
    fuse_residual,
    fuse_activation,
    scale_hard_swish,
    fuse_gate,
)


OF_WIDE_PRODUCTS = (gather_pixels, measure_scales)
# What an exact model does without: `measure_scales` lets Strassen's scheme have the layers that it suits, and
# `select_token_early` makes other sums where a value that is asked for keeps it from moving the selection.
INEXACT = (measure_scales, select_token_early)


def optimise(
    graph: Graph, tensors: Tensors, count: int | None = None, *, exact: bool = False, wide: int = 0
) -> tuple[Graph, Tensors]:
    """The graph and its tensors after the first `count` passes (all by default); the arguments stay as they are.

    Tensors are float32 arrays by name. Tensors that nothing reads any more stay in the result. `wide` is the number of
    input and output channels from which on passes look at a product OF_WIDE_PRODUCTS.
    """
    for apply in PASSES[:count]:
        if not (exact and apply in INEXACT):
            graph, tensors = apply(graph, tensors, *([wide] if apply in OF_WIDE_PRODUCTS else []))
    return graph, tensors
