"""Passes: graph and tensors in, the same network with fewer steps out.

PASSES is the whole list, in order. The graph is checked after each one, and `optimise(..., count)` runs any prefix of
it, to find the pass that a fault comes from. What a pass makes of tensors is computed in float64 and rounded once. No
pass removes a value that is an output of the graph, so a tapped layer is computed as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .ir import Graph, Node
from .ops import BY_TOKEN, HARD_SWISH_SCALE, is_pointwise

Tensors = dict[str, np.ndarray]


def _sole_consumer(graph: Graph) -> dict[str, Node]:
    """Value -> the only node that reads it, for values that nothing else needs."""
    table = graph.consumers().items()
    return {name: nodes[0] for name, nodes in table if len(nodes) == 1 and name not in graph.outputs}


def fold_batch_norm(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """conv2d, batch_norm -> conv2d with bias."""
    sole, tensors, nodes, folded = _sole_consumer(graph), dict(tensors), [], {}
    for node in graph.nodes:
        follower = sole.get(node.output)
        if node.op == "conv2d" and follower is not None and follower.op == "batch_norm":
            folded[follower.output] = node
        elif node.output in folded:
            conv = folded[node.output]
            norm = {role: tensors[name].astype(np.float64) for role, name in node.tensors.items()}
            scale = norm["weight"] / np.sqrt(norm["running_var"] + node.attributes["eps"])
            weight = tensors[conv.tensors["weight"]] * scale[:, None, None, None]
            bias = tensors[conv.tensors["bias"]] if "bias" in conv.tensors else 0.0
            bias = norm["bias"] + (bias - norm["running_mean"]) * scale
            names = {role: f"{conv.tensors['weight']}*{node.output}.{role}" for role in ("weight", "bias")}
            tensors[names["weight"]], tensors[names["bias"]] = weight.astype(np.float32), bias.astype(np.float32)
            nodes.append(replace(conv, output=node.output, tensors=names))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes)), tensors


def merge_pointwise(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """pointwise conv2d, pointwise conv2d -> one, where it takes fewer multiply-adds than the two.

    So in MobileNetV3: a block's projection, with no activation and no residual behind it, and the next one's expansion.
    """
    sole, producers, tensors, merged, absorbed = _sole_consumer(graph), graph.producers(), dict(tensors), {}, set()

    def parts(node: Node) -> tuple[np.ndarray, np.ndarray | float]:
        weight, bias = (tensors[node.tensors[role]] if role in node.tensors else 0.0 for role in ("weight", "bias"))
        return weight[:, :, 0, 0].astype(np.float64), bias

    for node in graph.nodes:
        first = producers.get(node.inputs[0])
        first = merged.get(first.output, first) if first is not None else None
        if first is None or sole.get(first.output) is not node:
            continue
        if not (is_pointwise(first, tensors) and is_pointwise(node, tensors)):
            continue
        (inner, inner_bias), (outer, outer_bias) = parts(first), parts(node)
        if len(outer) * inner.shape[1] < inner.size + outer.size:
            names = {role: f"{first.output}>{node.output}.{role}" for role in ("weight", "bias")}
            tensors[names["weight"]] = (outer @ inner)[:, :, None, None].astype(np.float32)
            tensors[names["bias"]] = (outer @ (inner_bias * np.ones(len(inner))) + outer_bias).astype(np.float32)
            merged[node.output] = replace(node, inputs=first.inputs, tensors=names)
            absorbed.add(first.output)
    nodes = tuple(merged.get(node.output, node) for node in graph.nodes if node.output not in absorbed)
    return replace(graph, nodes=nodes), tensors


def select_token_early(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """An operator that takes each token by itself, select_token -> select_token, the operator; and again before that.

    So in a vision transformer, whose head reads the class token alone: what follows the attention of its last block is
    computed for that token.
    """
    while True:
        producers = graph.producers()
        pairs = [(producers.get(name), node) for name, node in _sole_consumer(graph).items()]
        pairs = [(first, node) for first, node in pairs if node.op == "select_token" and first and first.op in BY_TOKEN]
        if not pairs:
            return graph, tensors
        ((first, select), *_), nodes = pairs, {}
        for node in graph.nodes:
            if node is first:
                chosen = {name: f"{name}[{select.attributes['index']}]" for name in first.inputs}
                for name, one in chosen.items():
                    nodes.setdefault(one, replace(select, inputs=(name,), output=one))
                nodes[select.output] = replace(first, inputs=tuple(map(chosen.get, first.inputs)), output=select.output)
            elif node is not select:
                nodes.setdefault(node.output, node)
        graph = replace(graph, nodes=tuple(nodes.values()))


def fuse_residual(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """conv2d or linear, add -> the product with the other summand as its second input."""
    sole, producers, merged, absorbed = _sole_consumer(graph), graph.producers(), {}, set()
    for node in graph.nodes:
        if node.op == "add":
            for mine, other in (node.inputs, node.inputs[::-1]):
                product, summand = producers.get(mine), producers.get(other)
                if summand is not None and summand.op == "select_token":
                    continue  # a view with strides of its own, where an epilogue reads the output's
                if product is None or product.op not in ("conv2d", "linear") or sole.get(mine) is not node:
                    continue
                if len(product.inputs) == 1 and not product.attributes.get("activation"):
                    # The product moves to where the sum stood: by then the other summand is there.
                    merged[node.output] = replace(product, inputs=(*product.inputs, other), output=node.output)
                    absorbed.add(mine)
                    break
    nodes = tuple(merged.get(node.output, node) for node in graph.nodes if node.output not in absorbed)
    return replace(graph, nodes=nodes), tensors


def fuse_activation(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """conv2d, linear or add, activation -> one node."""
    sole, nodes, fused = _sole_consumer(graph), [], {}
    for node in graph.nodes:
        follower = sole.get(node.output)
        can_hold = node.op in ("conv2d", "linear", "add") and not node.attributes.get("activation")
        if can_hold and follower is not None and follower.op == "activation":
            attributes = {**node.attributes, **follower.attributes}
            fused[follower.output] = replace(node, output=follower.output, attributes=attributes)
        else:
            nodes.append(fused.get(node.output, node))
    return replace(graph, nodes=tuple(nodes)), tensors


def scale_hard_swish(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """conv2d or linear with hard_swish -> the same with weights smaller by HARD_SWISH_SCALE and scaled_hard_swish.

    So a kernel need not multiply every output by 1/6.
    """
    tensors, nodes = dict(tensors), []
    for node in graph.nodes:
        if node.attributes.get("activation") == "hard_swish" and node.tensors and len(node.inputs) == 1:
            names = {role: f"{name}/hard_swish" for role, name in node.tensors.items()}
            for role, name in node.tensors.items():
                tensors[names[role]] = (tensors[name] / np.float64(HARD_SWISH_SCALE)).astype(np.float32)
            node = replace(node, tensors=names, attributes={**node.attributes, "activation": "scaled_hard_swish"})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)), tensors


def fuse_gate(graph: Graph, tensors: Tensors) -> tuple[Graph, Tensors]:
    """scale, pointwise conv2d -> conv2d that takes the gate as its last input, to scale its weights with."""
    sole, nodes, gated = _sole_consumer(graph), [], {}
    for node in graph.nodes:
        follower = sole.get(node.output)
        if node.op == "scale" and follower is not None and is_pointwise(follower, tensors):
            if follower.inputs[0] == node.output and not follower.attributes.get("gated"):
                gated[node.output] = node
                continue
        scale = gated.get(node.inputs[0])
        if scale is not None:
            x, gate = scale.inputs
            attributes = {**node.attributes, "gated": True}
            node = replace(node, inputs=(x, *node.inputs[1:], gate), attributes=attributes)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes)), tensors


PASSES: tuple[Callable[[Graph, Tensors], tuple[Graph, Tensors]], ...] = (
    fold_batch_norm,
    merge_pointwise,
    select_token_early,
    fuse_residual,
    fuse_activation,
    scale_hard_swish,
    fuse_gate,
)


def optimise(graph: Graph, tensors: Tensors, count: int | None = None) -> tuple[Graph, Tensors]:
    """The first `count` passes (all by default), the graph checked after each."""
    for apply in PASSES[:count]:
        graph, tensors = apply(graph, tensors)
        graph.check()
    return graph, tensors
