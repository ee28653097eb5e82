"""The graph: nodes of standard operators over named values, tensors under their checkpoint names.

A graph has no fixed input size; `ops.infer_shapes` gives every value its shape for one input shape, in torch's
order (N, C, H, W) or (N, T, D). How values lie in memory is decided later, by the plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

INPUT = "input"


@dataclass(frozen=True)
class Value:
    """An activation while a network is being built: its name and its number of channels (features)."""

    name: str
    channels: int


@dataclass(frozen=True)
class Node:
    """One operator: inputs are value names, tensors map a role ("weight") to a name in the checkpoint."""

    op: str
    inputs: tuple[str, ...]
    output: str
    tensors: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in order of execution; `parameters` and `buffers` map a checkpoint name to its shape, in torch's order.

    `modules` maps a torch module's name to the value that a forward hook on it would see; `features` is the value
    that forward_features returns. `calls` lists every run of a module in the order in which they end, as (module,
    value), and every "module:step" among them; `kinds` is the class of a module that its operator does not tell,
    the network's own under "".
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, tuple[int, ...]]
    buffers: dict[str, tuple[int, ...]]
    modules: dict[str, str]
    features: str
    input: str = INPUT
    calls: tuple[tuple[str, str], ...] = ()
    kinds: dict[str, str] = field(default_factory=dict)

    def consumers(self) -> dict[str, list[Node]]:
        """Value name -> the nodes that read it."""
        table = {name: [] for name in [self.input, *(node.output for node in self.nodes)]}
        for node in self.nodes:
            for name in node.inputs:
                table[name].append(node)
        return table

    def producers(self) -> dict[str, Node]:
        """Value name -> the node that writes it."""
        return {node.output: node for node in self.nodes}

    def with_outputs(self, outputs: Iterable[str], start: str | None = None) -> Graph:
        """The same network computing `outputs` only, from value `start` on if given; unneeded nodes are dropped.

        Raises ValueError if an output does not depend on `start` alone.
        """
        start = start or self.input
        outputs = tuple(outputs)
        producers, needed, stack = self.producers(), set(), list(outputs)
        while stack:
            name = stack.pop()
            if name == start or name in needed:
                continue
            if name not in producers:
                raise ValueError(f"{name!r} is not computed from {start!r}")
            needed.add(name)
            stack.extend(producers[name].inputs)
        nodes = tuple(node for node in self.nodes if node.output in needed)
        return replace(self, nodes=nodes, outputs=outputs, input=start)

    def check(self) -> Graph:
        """Raise ValueError unless every value is written once before it is read; returns the graph."""
        known = {self.input}
        for node in self.nodes:
            for name in node.inputs:
                if name not in known:
                    raise ValueError(f"{node.op} {node.output!r} reads {name!r}, which no earlier node writes")
            if node.output in known:
                raise ValueError(f"{node.output!r} is written twice")
            known.add(node.output)
        for name in self.outputs:
            if name not in known:
                raise ValueError(f"output {name!r} is never written")
        return self

    def __str__(self) -> str:
        lines = [f"{self.input} = input"]
        for node in self.nodes:
            options = [f"{key}={value}" for key, value in node.attributes.items() if value is not None]
            operands = [*node.inputs, *node.tensors.values()]
            lines.append(
                f"{node.output} = {node.op}({', '.join(operands)}){' ' if options else ''}{', '.join(options)}"
            )
        return "\n".join([*lines, f"return {', '.join(self.outputs)}"])


class Builder:
    """Builds a graph in torch's registration order: tensors are declared as the operators that use them are added.

    Every method that adds an operator takes the torch module's name where there is one ("blocks.0.0.conv_dw"), or
    "module:step" for a step that torch takes inside a module ("blocks.0.0.se:mean"), and returns the new value.
    `module(name, value)` names the output of a composite module. `kind` is the torch class of the network.
    """

    def __init__(self, channels: int = 3, kind: str = "Network"):
        self.nodes, self.parameters, self.buffers, self.modules = [], {}, {}, {}
        self.calls, self.kinds = [], {"": kind}
        self.input = Value(INPUT, channels)
        self.names = {INPUT}

    def finish(self, output: Value, features: Value) -> Graph:
        """The checked graph that returns `output`; `features` is what forward_features returns."""
        tables = self.parameters, self.buffers, self.modules
        graph = Graph(tuple(self.nodes), (output.name,), *tables, features.name, INPUT, tuple(self.calls), self.kinds)
        return graph.check()

    def module(self, name: str, value: Value, kind: str | None = None) -> Value:
        """Record that torch module `name`, of class `kind` if its operator does not tell, returns `value`."""
        self.modules[name] = value.name
        if kind:
            self.kinds[name] = kind
        # A module that computes and then calls its children (BatchNormAct2d), or is only named again, has run once.
        start = len(self.calls)
        while start and self.calls[start - 1][0].startswith((f"{name}.", f"{name}:")):
            start -= 1
        named_before = start and self.calls[start - 1][0] == name
        if named_before and (start < len(self.calls) or self.calls[-1][1] == value.name):
            del self.calls[start - 1]
        self.calls.append((name, value.name))
        return value

    def parameter(self, name: str, *shape: int) -> str:
        """Declare a trainable tensor; returns its name. ValueError if a width or class count leaves it empty."""
        if min(shape) < 1:
            raise ValueError(f"{name} would have shape {shape}; every size must be at least 1")
        self.parameters[name] = shape
        return name

    def buffer(self, name: str, *shape: int) -> str:
        """Declare a tensor that is stored but not trained; returns its name."""
        self.buffers[name] = shape
        return name

    def add(self, op: str, inputs: Iterable[Value], channels: int, name: str, tensors=None, **attributes) -> Value:
        """Append one operator and record its output under `name`, made unique where a module runs several times."""
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}:{count}"
        self.names.add(unique)
        self.nodes.append(Node(op, tuple(value.name for value in inputs), unique, tensors or {}, attributes))
        value = Value(unique, channels)
        if ":" not in name:
            return self.module(name, value)
        self.calls.append((name, unique))
        return value

    def conv2d(self, x, name, channels, kernel, stride=1, padding=None, groups=1, bias=False) -> Value:
        """torch.nn.Conv2d; weight (channels, in / groups, kernel, kernel); padding None keeps H and W at stride 1."""
        tensors = {"weight": self.parameter(f"{name}.weight", channels, x.channels // groups, kernel, kernel)}
        if bias:
            tensors["bias"] = self.parameter(f"{name}.bias", channels)
        padding = (kernel - 1) // 2 if padding is None else padding
        return self.add("conv2d", [x], channels, name, tensors, stride=stride, padding=padding, groups=groups)

    def batch_norm(self, x, name, eps=1e-5) -> Value:
        """torch.nn.BatchNorm2d in eval mode."""
        tensors = {role: self.parameter(f"{name}.{role}", x.channels) for role in ("weight", "bias")}
        for role in ("running_mean", "running_var"):
            tensors[role] = self.buffer(f"{name}.{role}", x.channels)
        return self.add("batch_norm", [x], x.channels, name, tensors, eps=eps)

    def layer_norm(self, x, name, eps=1e-5) -> Value:
        """torch.nn.LayerNorm over the last axis of (N, T, D)."""
        tensors = {role: self.parameter(f"{name}.{role}", x.channels) for role in ("weight", "bias")}
        return self.add("layer_norm", [x], x.channels, name, tensors, eps=eps)

    def linear(self, x, name, features, weight=None, bias=None) -> Value:
        """torch.nn.Linear over the last axis; `weight` and `bias` name tensors that do not follow `name`."""
        tensors = {
            "weight": self.parameter(weight or f"{name}.weight", features, x.channels),
            "bias": self.parameter(bias or f"{name}.bias", features),
        }
        return self.add("linear", [x], features, name, tensors)

    def activation(self, x, kind, name) -> Value:
        """One of relu, relu6, hard_swish, hard_sigmoid, gelu (exact), as in torch.nn.functional."""
        return self.add("activation", [x], x.channels, name, kind=kind)

    def residual(self, x, shortcut, name) -> Value:
        """x + shortcut, of one shape."""
        return self.add("add", [x, shortcut], x.channels, name)

    def scale(self, x, gate, name) -> Value:
        """x (N, C, H, W) times gate (N, C, 1, 1): the last step of squeeze-and-excite."""
        return self.add("scale", [x, gate], x.channels, name)

    def max_pool2d(self, x, name, kernel, stride, padding) -> Value:
        """torch.nn.MaxPool2d."""
        return self.add("max_pool2d", [x], x.channels, name, kernel=kernel, stride=stride, padding=padding)

    def global_average_pool(self, x, name) -> Value:
        """Mean over H and W, kept as (N, C, 1, 1)."""
        return self.add("global_average_pool", [x], x.channels, name)

    def flatten(self, x, name) -> Value:
        """(N, C, 1, 1) -> (N, C)."""
        return self.add("flatten", [x], x.channels, name)

    def tokens(self, x, class_token, position, name) -> Value:
        """Patches (N, D, h, w) -> (N, 1 + h w, D): class token first, positions added; the tensors are named."""
        return self.add("tokens", [x], x.channels, name, {"class_token": class_token, "position": position})

    def attention(self, qkv, heads, name) -> Value:
        """softmax(q k^T / sqrt(d)) v for each head; qkv (N, T, 3 D) holds queries, keys, values -> (N, T, D)."""
        return self.add("attention", [qkv], qkv.channels // 3, name, heads=heads)

    def select_token(self, x, index, name) -> Value:
        """(N, T, D) -> (N, D), token `index`."""
        return self.add("select_token", [x], x.channels, name, index=index)
