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
