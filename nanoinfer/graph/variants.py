"""Variants of a finished graph: without its head, or for inputs of another number of channels."""

from __future__ import annotations

from dataclasses import replace

from .ir import Graph, Node


def head(graph: Graph) -> Node | None:
    """The linear layer whose output is the network's; None if the graph has none."""
    node = graph.producers()[graph.outputs[0]]
    return node if node.op == "linear" else None


def embedding(graph: Graph) -> str:
    """The value (N, D) that the head reads, which a graph without one returns."""
    node = head(graph)
    return node.inputs[0] if node else graph.outputs[0]


def without_head(graph: Graph) -> Graph:
    """The network that returns what its head reads, (N, D); the head becomes an identity, as in timm."""
    node, value = head(graph), embedding(graph)

    def renamed(name):
        return value if name == node.output else name

    gone = set(node.tensors.values())
    return replace(
        graph,
        nodes=tuple(other for other in graph.nodes if other is not node),
        outputs=(value,),
        parameters={name: shape for name, shape in graph.parameters.items() if name not in gone},
        modules={name: renamed(output) for name, output in graph.modules.items()},
        calls=tuple((name, renamed(output)) for name, output in graph.calls),
        kinds=graph.kinds | {node.output: "Identity"},
    ).check()


def with_channels(graph: Graph, channels: int) -> Graph:
    """The network for inputs of `channels` channels. ValueError below one."""
    if channels < 1:
        raise ValueError(f"in_chans={channels}: an input has at least one channel")
    parameters = dict(graph.parameters)
    for name in input_weights(graph):
        outputs, _, *window = parameters[name]
        parameters[name] = (outputs, channels, *window)
    return replace(graph, parameters=parameters)


def input_weights(graph: Graph) -> list[str]:
    """Names of the weights (outputs, channels, rows, columns) that read the input."""
    return [node.tensors["weight"] for node in graph.nodes if graph.input in node.inputs]
