"""summary: a network's modules with their output shapes, parameters and multiply-adds, as torchinfo lists them.

Rows, numbering and totals follow torchinfo 1.8 (https://github.com/TylerYep/torchinfo), so that the two tables can be
laid side by side. Its rules are coarse in places. Multiply-adds are the weights of a leaf module times the pixels of a
convolution's output, but times nothing else: a linear layer counts once, however many tokens pass it. Activations
and parameters count in megabytes if they belong to a leaf module with parameters, activations twice (for
gradients). Attention and timm's BatchNormAct2d have children, so that none of this counts them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

from ..graph import Graph, ops
from ..weights import InputError
from .module_tree import Run, kind_of, module_tree, points
from .report import Report

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Row:
    """One run of a module. `index` counts the rows of one depth; None stands for what torchinfo shows as "--".

    `parameters` are those that no row below holds, `all_parameters` include them; `mult_adds` are a leaf's.
    """

    name: str
    kind: str
    depth: int
    index: int
    output_shape: tuple[int, ...] | None
    parameters: int
    all_parameters: int
    kernel: tuple[int, int] | None
    mult_adds: int
    leaf: bool
    repeated: bool

    @property
    def title(self) -> str:
        """Such as "│    └─Conv2d: 2-1"."""
        if self.depth == 0:
            return self.kind
        branch = "├─" if self.depth == 1 else "│    " * (self.depth - 1) + "└─"
        return f"{branch}{self.kind}: {self.depth}-{self.index}"


@dataclass(frozen=True)
class Summary(Report):
    """A network at one input size; `depth` is that of the last rows to be printed, None for all of them."""

    model: str
    input_size: tuple[int, ...]
    rows: tuple[Row, ...]
    trace: Trace
    depth: int | None = None

    columns = ("Layer (type:depth-idx)", "Output shape", ">Param #", "Kernel", ">Mult-adds")

    @property
    def total_params(self) -> int:
        return self.rows[0].all_parameters

    @property
    def trainable_params(self) -> int:
        return self.total_params

    @property
    def non_trainable_params(self) -> int:
        return 0

    @property
    def total_mult_adds(self) -> int:
        return sum(row.mult_adds for row in self.rows)

    @property
    def input_mb(self) -> float:
        return BYTES * math.prod(self.input_size) / 1e6

    @property
    def forward_backward_mb(self) -> float:
        leaves = (row for row in self.rows if row.leaf and row.all_parameters)
        return 2 * BYTES * sum(math.prod(row.output_shape) for row in leaves) / 1e6

    @property
    def params_mb(self) -> float:
        return BYTES * sum(row.parameters for row in self.rows if row.leaf and not row.repeated) / 1e6

    @property
    def total_mb(self) -> float:
        return self.input_mb + self.forward_backward_mb + self.params_mb

    def cells(self) -> list[tuple[str, ...]]:
        cells = []
        for at, row in enumerate(self.rows):
            if self.depth is not None and row.depth > self.depth:
                continue
            parameters, mult_adds = row.parameters, row.mult_adds
            if row.depth == self.depth:  # the last row of its branch answers for those below
                parameters = row.all_parameters
                mult_adds += sum(below.mult_adds for below in _below(self.rows, at))
            count = "(recursive)" if row.repeated and parameters else _number(parameters)
            shape, kernel = (str(list(size)) if size else "--" for size in (row.output_shape, row.kernel))
            cells.append((row.title, shape, count, kernel, _number(mult_adds)))
        return cells

    def records(self) -> list[dict]:
        return [
            {
                "name": row.name,
                "type": row.kind,
                "depth": row.depth,
                "index": row.index,
                "output_shape": list(row.output_shape) if row.output_shape else None,
                "parameters": row.parameters,
                "kernel": list(row.kernel) if row.kernel else None,
                "mult_adds": row.mult_adds,
            }
            for row in self.rows
            if self.depth is None or row.depth <= self.depth
        ]

    def totals(self) -> dict[str, object]:
        """The figures below the table."""
        return {
            "total_params": self.total_params,
            "trainable_params": self.trainable_params,
            "non_trainable_params": self.non_trainable_params,
            "total_mult_adds": self.total_mult_adds,
            "input_mb": self.input_mb,
            "forward_backward_mb": self.forward_backward_mb,
            "params_mb": self.params_mb,
            "total_mb": self.total_mb,
        }

    def to_dict(self) -> dict:
        head = {"model": self.model, "input_size": list(self.input_size)}
        return {**head, **self.totals(), "rows": self.records(), "trace": self.trace.records()}

    def footing(self) -> list[str]:
        count = self.total_mult_adds
        unit, scale = ("T", 1e12) if count >= 1e12 else ("G", 1e9) if count >= 1e9 else ("M", 1e6)
        return [
            f"Total params: {self.total_params:,}",
            f"Trainable params: {self.trainable_params:,}",
            f"Non-trainable params: {self.non_trainable_params:,}",
            f"Total mult-adds ({unit}): {count / scale:,.2f}",
            f"Input size (MB): {self.input_mb:.2f}",
            f"Forward/backward pass size (MB): {self.forward_backward_mb:.2f}",
            f"Params size (MB): {self.params_mb:.2f}",
            f"Estimated Total Size (MB): {self.total_mb:.2f}",
        ]


@dataclass(frozen=True)
class Trace(Report):
    """The shapes on the way through a network: top-level modules, of lists their members, in order of execution."""

    model: str
    stages: tuple[tuple[str, tuple[int, ...]], ...]

    columns = ("Stage", "Output shape")

    def cells(self) -> list[tuple[str, ...]]:
        return [(f"after {name}", str(list(shape))) for name, shape in self.stages]

    def records(self) -> list[dict]:
        return [{"after": name, "shape": list(shape)} for name, shape in self.stages]

    def to_dict(self) -> dict:
        return {"model": self.model, "trace": self.records()}

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.stages)
        return "\n".join(f"after {name:{width}} : {list(shape)}" for name, shape in self.stages)


def summarise(model: str, graph: Graph, input_size=(1, 3, 224, 224), depth: int | None = None) -> Summary:
    """The summary of a graph. InputError where the network cannot take `input_size`."""
    try:
        input_size = tuple(map(operator.index, input_size))
    except TypeError:
        input_size = ()
    if len(input_size) != 4 or min(input_size) < 1:
        raise InputError("input_size is four whole numbers from 1 on: images, 3, height, width")
    if depth is not None and (not isinstance(depth, Integral) or depth < 1):
        raise InputError(f"depth={depth!r}: give a whole number from 1 on")
    try:
        shapes = ops.infer_shapes(graph, input_size)
    except ValueError as error:
        raise InputError(f"{model} cannot take an input of shape {input_size}: {error}") from None
    root = module_tree(graph)
    trace = Trace(model, tuple((name, shapes[value]) for name, value in points(root, graph)))
    return Summary(model, input_size, tuple(_rows(root, graph, shapes)), trace, depth)


def _rows(root: Run, graph: Graph, shapes: dict) -> Iterator[Row]:
    producers, counts, seen = graph.producers(), {}, set()
    owners = {name.rpartition(".")[0] for name in graph.parameters}
    modules = {*owners, *(name for name, _ in graph.calls)}

    def walk(run: Run, depth: int) -> Iterator[Row]:
        prefix = f"{run.name}." if run.name else ""
        below = [child for child in run.children if ":" not in child.name]
        total = _count(graph, prefix)
        kind, index = kind_of(run, graph, producers), counts.get(depth, 0) + 1
        leaf = not any(name.startswith(prefix) for name in modules if name)
        shape = shapes[run.value] if run.value else None
        node = producers.get(run.value)
        own = total - sum(_count(graph, f"{name}.") for name in {child.name for child in below})
        mult_adds = own * shape[0] * (math.prod(shape[2:]) if "Conv" in kind else 1) if leaf else 0
        kernel = None
        if leaf and node is not None and node.output.partition(":")[0] == run.name:
            kernel = _kernel(node, graph)
        counts[depth] = index
        yield Row(run.name, kind, depth, index, shape, own, total, kernel, mult_adds, leaf, run.name in seen)
        seen.add(run.name)
        for child in below:
            yield from walk(child, depth + 1)

    return walk(root, 0)


def _count(graph: Graph, prefix: str) -> int:
    return sum(math.prod(shape) for name, shape in graph.parameters.items() if name.startswith(prefix))


def _kernel(node, graph: Graph) -> tuple[int, int] | None:
    if node.op == "conv2d":
        return graph.parameters[node.tensors["weight"]][2:]
    size = node.attributes.get("window")
    return (size, size) if size else None


def _below(rows: tuple[Row, ...], at: int) -> Iterator[Row]:
    for row in rows[at + 1 :]:
        if row.depth <= rows[at].depth:
            return
        yield row


def _number(value: int) -> str:
    return f"{value:,}" if value else "--"
