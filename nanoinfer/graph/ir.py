"""The graph: nodes of standard operators over named values, tensors under their checkpoint names.

A graph has no fixed input size: `ops.infer_shapes` gives every value its shape for one input shape, in torch's
order (N, C, H, W) or (N, T, D). The plan decides later how values lie in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

INPUT = "input"


@dataclass(frozen=True)
class Value:
    """An activation while a network is being built: its name and its number of channels (features)."""

    name: str
    channels: int


@dataclass(frozen=True)
class Node:
    """One operator: `inputs` are value names, `tensors` maps a role ("weight") to a tensor name.

    Attributes are "stride", "groups" and "eps" as in torch, "padding" (pixels, or SAME of `windows`), "window" (side of
    a square window), "activation" (a key of `ops.ACTIVATIONS`), "heads", "index" and "patches" (rows, columns). A
    conv2d or linear may have a second input, the residual, which is added to the product before the activation. A
    conv2d with "gated" has the gate of its input as its last input.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    tensors: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A network: nodes in order of execution, its outputs, and the shapes of its tensors.

    nodes: in order of execution; every value is written once, before it is read.
    outputs: names of the values that a call returns.
    parameters, buffers: checkpoint name -> shape, in torch's registration order.
    modules: name of a torch module -> the value that a forward hook on it would see.
    features: the value that forward_features returns.
    input: the value that the caller gives.
    calls: (module, value) for every run of a module, in the order in which the runs end, with every "module:step"
        (see `Builder`) among them.
    kinds: module -> its torch class, for modules whose operator does not tell; "" stands for the network itself.
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
        """Value name -> the nodes that read it, a node once for each input that is this value."""
        table = {name: [] for name in [self.input, *(node.output for node in self.nodes)]}
        for node in self.nodes:
            for name in node.inputs:
                table[name].append(node)
        return table

    def producers(self) -> dict[str, Node]:
        """Value name -> the node that writes it."""
        return {node.output: node for node in self.nodes}

    def only_readers(self) -> Iterator[tuple[Node, Node]]:
        """Every node whose output a single node reads, and nothing else needs, with that reader."""
        consumers = self.consumers()
        for node in self.nodes:
            if len(consumers[node.output]) == 1 and node.output not in self.outputs:
                yield node, consumers[node.output][0]

    def with_outputs(self, outputs: Iterable[str], start: str | None = None) -> Graph:
        """The same network with other outputs, computed from value `start` if given; nodes without effect are dropped.

        Raises ValueError if an output depends on more than `start`.
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

    def rewrite(self, replacements: Mapping[str, Node | Sequence[Node]], drop: Iterable[str] = ()) -> Graph:
        """The graph with some nodes replaced and some dropped, in the same order; a pass ends with it.

        `replacements` maps a value name to the node (or nodes, in order) that takes the place of the node that writes
        the value. `drop` names values whose nodes go; it wins over `replacements`. Raises ValueError if no node writes
        such a value, or if the new graph does not pass `check`.
        """
        drop = set(drop)
        unknown = sorted({*replacements, *drop} - self.producers().keys())
        if unknown:
            raise ValueError(f"no node writes {', '.join(map(repr, unknown))}")
        nodes = []
        for node in self.nodes:
            if node.output not in drop:
                new = replacements.get(node.output, node)
                nodes.extend([new] if isinstance(new, Node) else new)
        return replace(self, nodes=tuple(nodes)).check()

    def check(self) -> Graph:
        """Raise ValueError unless every value is written once, before it is read; returns the graph."""
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
