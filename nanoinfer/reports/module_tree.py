"""The modules of a network as torch nests and calls them, recovered from a graph's list of calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..graph import Graph, Node

KINDS = {  # operator or activation -> torch class
    "conv2d": "Conv2d",
    "batch_norm": "BatchNorm2d",
    "layer_norm": "LayerNorm",
    "linear": "Linear",
    "max_pool2d": "MaxPool2d",
    "average_pool2d": "AvgPool2d",
    "blur_pool2d": "BlurPool2d",
    "global_average_pool": "AdaptiveAvgPool2d",
    "global_max_pool": "AdaptiveMaxPool2d",
    "flatten": "Flatten",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "hard_swish": "Hardswish",
    "hard_sigmoid": "Hardsigmoid",
    "gelu": "GELU",
}
LISTS = ("ModuleList", "Sequential")


@dataclass
class Run:
    """One run of a module, with the runs of its children. A list that torch never calls has the value None."""

    name: str
    value: str | None
    children: list[Run] = field(default_factory=list)


def module_tree(graph: Graph) -> Run:
    """The runs of all modules in order, each below the module that called it; the root is the network, named ""."""
    stack: list[Run] = []
    for name, value in graph.calls:  # in the order in which runs end, so a module's children stand right before it
        start = len(stack)
        while start and stack[start - 1].name.startswith((f"{name}.", f"{name}:")):
            start -= 1
        stack[start:] = [Run(name, value, stack[start:])]
    return _with_lists(Run("", graph.outputs[0], stack))


def _with_lists(run: Run) -> Run:
    """Put lists that torch never calls above their members."""
    prefix, children = f"{run.name}." if run.name else "", []
    for child in run.children:
        first, _, rest = child.name.removeprefix(prefix).partition(".")
        if not rest or ":" in child.name:
            children.append(child)
        elif children and children[-1].name == prefix + first and children[-1].value is None:
            children[-1].children.append(child)
        else:
            children.append(Run(prefix + first, None, [child]))
    return Run(run.name, run.value, [_with_lists(child) for child in children])


def kind_of(run: Run, graph: Graph, producers: dict[str, Node]) -> str:
    """The torch class of a module: what the graph notes, or else the class that belongs to its operator."""
    if run.name in graph.kinds:
        return graph.kinds[run.name]
    if run.value is None:
        return "ModuleList"
    if run.children:
        return "Sequential"
    if run.value.partition(":")[0] != run.name:
        return "Identity"
    node = producers[run.value]
    return KINDS[node.attributes["activation"] if node.op == "activation" else node.op]


def points(root: Run, graph: Graph) -> Iterator[tuple[str, str]]:
    """(name, value) of every stage of the trace: top-level modules and steps; lists give way to their members.

    A top-level module that holds a list, as a transformer's encoder does, gives way to its children.
    """
    producers = graph.producers()

    def is_list(run: Run) -> bool:
        return kind_of(run, graph, producers) in LISTS if ":" not in run.name else False

    def walk(run: Run, label: str, top: bool) -> Iterator[tuple[str, str]]:
        if is_list(run):
            for index, child in enumerate(run.children):
                yield from walk(child, f"{run.name} #{index}", False)
        elif top and any(map(is_list, run.children)):
            for child in run.children:
                yield from walk(child, child.name, False)
        else:
            yield label, run.value

    for run in root.children:
        yield from walk(run, run.name.rpartition(":")[2], True)
