"""summary: a network's modules with their output shapes, parameters and multiply-adds, as torchinfo lists them.

Rows, numbering and totals follow torchinfo 1.8 (https://github.com/TylerYep/torchinfo), so that the two tables can be
laid side by side. Its rules are coarse in places. Multiply-adds are the weights of a leaf module times the pixels of a
convolution's output, but times nothing else: a linear layer counts once, however many tokens pass it. Activations
and parameters count in megabytes if they belong to a leaf module with parameters, activations twice (for
gradients). Attention and timm's BatchNormAct2d have children, so they count in none of these figures.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral

from ..errors import InputError
from ..graph import Graph, ops
from .module_tree import Run, kind_of, module_tree, points
from .report import Column, Report, Table

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Row:
    """One run of a module. `index` counts the rows of one depth; None stands for what torchinfo shows as "--".

    `parameters` are those that no row below holds; `mult_adds` is 0 unless the module is a leaf. `all_parameters` and
    `all_mult_adds` include the rows below. A row that is `folded` is printed with these, in place of the rows below.
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
    all_mult_adds: int
    leaf: bool
    repeated: bool
    folded: bool = False

    @property
    def title(self) -> str:
        """Such as "│    └─Conv2d: 2-1"."""
        if self.depth == 0:
            return self.kind
        branch = "├─" if self.depth == 1 else "│    " * (self.depth - 1) + "└─"
        return f"{branch}{self.kind}: {self.depth}-{self.index}"


def _count_text(row: Row) -> str:
    count = row.all_parameters if row.folded else row.parameters
    return "(recursive)" if row.repeated and count else _number(count)


def _number(value: int) -> str:
    return f"{value:,}" if value else "--"


def _size(value: tuple[int, ...] | None) -> str:
    return str(list(value)) if value else "--"


COLUMNS = (
    Column("Layer (type:depth-idx)", None, lambda row: row.title),
    Column(None, "name"),
    Column(None, "type", read=lambda row: row.kind),
    Column(None, "depth"),
    Column(None, "index"),
    Column("Output shape", "output_shape", lambda row: _size(row.output_shape)),
    Column("Param #", "parameters", _count_text, right=True),
    Column("Kernel", "kernel", lambda row: _size(row.kernel)),
    Column(
        "Mult-adds",
        "mult_adds",
        lambda row: _number(row.all_mult_adds if row.folded else row.mult_adds),
        right=True,
    ),
)


def _mult_adds_line(summary: Summary) -> str:
    count = summary.total_mult_adds
    unit, scale = ("T", 1e12) if count >= 1e12 else ("G", 1e9) if count >= 1e9 else ("M", 1e6)
    return f"Total mult-adds ({unit}): {count / scale:,.2f}"


# The figures below the table: the key in JSON, which is the Summary's attribute, and the line for people.
TOTALS = (
    Column(None, "total_params", "Total params: {:,}"),
    Column(None, "trainable_params", "Trainable params: {:,}"),
    Column(None, "non_trainable_params", "Non-trainable params: {:,}"),
    Column(None, "total_mult_adds", _mult_adds_line),
    Column(None, "input_mb", "Input size (MB): {:.2f}"),
    Column(None, "forward_backward_mb", "Forward/backward pass size (MB): {:.2f}"),
    Column(None, "params_mb", "Params size (MB): {:.2f}"),
    Column(None, "total_mb", "Estimated Total Size (MB): {:.2f}"),
)


@dataclass(frozen=True)
class Summary(Report):
    """A network at one input size; `depth` is that of the last rows to be printed, None for all of them."""

    model: str
    input_size: tuple[int, ...]
    rows: tuple[Row, ...]
    trace: Trace
    depth: int | None = None

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
        return self.rows[0].all_mult_adds

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

    def tables(self) -> list[Table]:
        rows = [row for row in self.rows if self.depth is None or row.depth <= self.depth]
        return [Table("", "rows", COLUMNS, [replace(row, folded=row.depth == self.depth) for row in rows])]

    def totals(self) -> dict[str, object]:
        """The figures below the table."""
        return {total.field: total.value(self) for total in TOTALS}

    def figures(self) -> dict[str, object]:
        return {"model": self.model, "input_size": list(self.input_size), **self.totals()}

    def footing(self) -> list[str]:
        return [total.text(self) for total in TOTALS]

    def to_dict(self) -> dict:
        """All that the summary holds, the trace included."""
        return super().to_dict() | {"trace": self.trace.to_dict()["trace"]}


TRACE_COLUMNS = (
    Column("Stage", "after", lambda stage: f"after {stage[0]}", read=operator.itemgetter(0)),
    Column("Output shape", "shape", lambda stage: str(list(stage[1])), read=operator.itemgetter(1)),
)


@dataclass(frozen=True)
class Trace(Report):
    """The shapes on the way through a network: top-level modules, of lists their members, in order of execution."""

    model: str
    stages: tuple[tuple[str, tuple[int, ...]], ...]

    def tables(self) -> list[Table]:
        return [Table("", "trace", TRACE_COLUMNS, self.stages)]

    def figures(self) -> dict[str, object]:
        return {"model": self.model}

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.stages)
        return "\n".join(f"after {name:{width}} : {list(shape)}" for name, shape in self.stages)


def summarise(
    model: str, graph: Graph, input_size: tuple[int, ...] = (1, 3, 224, 224), depth: int | None = None
) -> Summary:
    """The summary of a graph for an input (N, 3, H, W). InputError where the network cannot take `input_size`."""
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
    return Summary(model, input_size, tuple(_Rows(graph, shapes).below(root, 0)), trace, depth)


class _Rows:
    """Makes the rows of a module tree, numbered in the order in which they are printed."""

    def __init__(self, graph: Graph, shapes: Mapping[str, tuple[int, ...]]):
        self.graph, self.shapes, self.producers = graph, shapes, graph.producers()
        self.indices: dict[int, int] = {}  # by depth
        self.seen: set[str] = set()
        owners = {name.rpartition(".")[0] for name in graph.parameters}
        self.modules = {*owners, *(name for name, _ in graph.calls)} - {""}

    def below(self, run: Run, depth: int) -> list[Row]:
        """The row of a run and those of the modules that it calls."""
        index = self.indices[depth] = self.indices.get(depth, 0) + 1
        repeated = run.name in self.seen
        self.seen.add(run.name)
        children = [child for child in run.children if ":" not in child.name]
        rows = [row for child in children for row in self.below(child, depth + 1)]

        prefix = f"{run.name}." if run.name else ""
        kind = kind_of(run, self.graph, self.producers)
        shape = self.shapes[run.value] if run.value else None
        leaf = not any(name.startswith(prefix) for name in self.modules)
        total = self._parameters(prefix)
        own = total - sum(self._parameters(f"{name}.") for name in {child.name for child in children})
        mult_adds = own * shape[0] * (math.prod(shape[2:]) if "Conv" in kind else 1) if leaf else 0
        row = Row(
            name=run.name,
            kind=kind,
            depth=depth,
            index=index,
            output_shape=shape,
            parameters=own,
            all_parameters=total,
            kernel=self._window(run) if leaf else None,
            mult_adds=mult_adds,
            all_mult_adds=mult_adds + sum(row.mult_adds for row in rows),
            leaf=leaf,
            repeated=repeated,
        )
        return [row, *rows]

    def _parameters(self, prefix: str) -> int:
        shapes = self.graph.parameters.items()
        return sum(math.prod(shape) for name, shape in shapes if name.startswith(prefix))

    def _window(self, run: Run) -> tuple[int, int] | None:
        """Height and width of a leaf module's window; None if its operator has none, or is another module's."""
        node = self.producers.get(run.value)
        if node is None or node.output.partition(":")[0] != run.name:
            return None
        if node.op == "conv2d":
            return self.graph.parameters[node.tensors["weight"]][2:]
        size = node.attributes.get("window")
        return (size, size) if size else None
