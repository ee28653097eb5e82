"""inspect: the parameters of a network or of a weight file, counted by form.

The form of a parameter is the rank of its squeezed shape, that is without axes of length 1: a pointwise convolution
(64, 32, 1, 1) is a matrix, a depthwise one (64, 1, 3, 3) a tensor of rank 3. Buffers (the running statistics of batch
norms) are stored beside the parameters but not trained; they are no parameters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ..architectures import MODELS
from ..errors import InputError, did_you_mean, printable
from ..graph import Graph
from ..weights import read_weights
from .plots import plot_shares
from .report import Column, Report, Table, markdown_table

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # torch's names for them, at the end of a tensor's
BYTES = 4  # of a parameter in memory: float32


class Parameter(NamedTuple):
    """One tensor of a network: its checkpoint name and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def squeezed(self) -> tuple[int, ...]:
        """The shape without axes of length 1."""
        return tuple(size for size in self.shape if size != 1)

    @property
    def number(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def form(self) -> str:
        """Scalar, Vector, Matrix or Tensor rank N."""
        rank = len(self.squeezed)
        return ("Scalar", "Vector", "Matrix")[rank] if rank < 3 else f"Tensor rank {rank}"


class Share(NamedTuple):
    """How much of a network has one form, in percent of its layers and of its numbers."""

    form: str
    of_layers: float
    of_parameters: float


COLUMNS = (
    Column("Name", "name", lambda parameter: printable(parameter.name)),
    Column("Shape", "shape"),
    Column("Squeezed shape", "squeezed_shape", read=attrgetter("squeezed")),
    Column("Number of parameters", "parameters", right=True, read=attrgetter("number")),
    Column("Form", "form"),
)


@dataclass(frozen=True)
class ParameterReport(Report):
    """The parameters of one network, in torch's order (of one file: in the file's order).

    `notes` say what the reader chose in a file that holds more, or removed from all names.
    """

    name: str
    layers: tuple[Parameter, ...]
    buffers: int
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """How many numbers a training would change."""
        return sum(layer.number for layer in self.layers)

    @property
    def mebibytes(self) -> float:
        """Their size as float32, in units of 2**20 bytes."""
        return BYTES * self.parameters / 2**20

    @property
    def shares(self) -> tuple[Share, ...]:
        """One row for each form that occurs, by rank."""
        forms = {layer.form: len(layer.squeezed) for layer in self.layers}
        shares = []
        for form in sorted(forms, key=forms.__getitem__):
            group = [layer for layer in self.layers if layer.form == form]
            numbers = sum(layer.number for layer in group)
            shares.append(Share(form, 100 * len(group) / len(self.layers), 100 * numbers / max(self.parameters, 1)))
        return tuple(shares)

    def tables(self) -> list[Table]:
        return [Table("", "rows", COLUMNS, self.layers)]

    def figures(self) -> dict[str, object]:
        return {
            "name": self.name,
            "layers": len(self.layers),
            "parameters": self.parameters,
            "mebibytes": self.mebibytes,
            "buffers": self.buffers,
            "shares": [share._asdict() for share in self.shares],
        }

    def heading(self) -> list[str]:
        lines = [
            f"{self.name}: {len(self.layers)} layers, {self.parameters:,} parameters, {self.mebibytes:.3f} MiB, "
            f"{self.buffers} buffers"
        ]
        for share in self.shares:
            lines.append(f"{share.form:13} {share.of_layers:6.2f}% of layers {share.of_parameters:6.2f}% of parameters")
        return lines

    def to_markdown(self) -> str:
        """A page: the counts, the two shares, the rows."""
        shares, (table,) = self.shares, self.tables()
        forms = [share.form for share in shares]
        size = f"[ {self.mebibytes:.3f} MiB ]"
        return "\n\n".join(
            [
                f"# {self.name} parameter information",
                f"**Number of layers: [ {len(self.layers)} ]**",
                f"**Number of parameters: [ {self.parameters / 1e6:.2f}M ] {size}**",
                f"**Number of trainable parameters: {size}**",
                "**Proportional of each form** (%)",
                markdown_table(forms, [[f"{share.of_layers:.2f}" for share in shares]]),
                "**Proportional of parameters by form** (%)",
                markdown_table(forms, [[f"{share.of_parameters:.2f}" for share in shares]]),
                "# Layer information",
                markdown_table([column.title for column in table.shown], table.cells()),
            ]
        )

    def plot(self, path) -> None:
        """Draw the two shares as pies into an image file; its suffix (.png, .svg, .pdf) is the format.

        Raises InputError where matplotlib is missing or does not know the format.
        """
        plot_shares(self, path)


def inspect(source) -> ParameterReport:
    """The parameters of a Model, of an architecture by its name, or of a source of weights.

    That is a path, a folder, "hub:owner/name", bytes, an open file or a mapping, as for `load_weights`. An architecture
    knows its buffers; in files and mappings they are known by their names.
    Raises InputError for a name that is neither a model nor a file, and for a file that cannot be read.
    """
    graph = getattr(source, "graph", None)
    if graph is not None:
        return _of_graph(source.name, graph)
    if isinstance(source, str) and source in MODELS:
        return _of_graph(source, MODELS[source].graph())
    if isinstance(source, str) and "." not in source and not source.startswith("hub:") and not os.path.exists(source):
        hint = did_you_mean(source, MODELS, otherwise="'nanoinfer models' lists the models")
        raise InputError(f"{printable(source)}: neither a model nor a file; {hint}")
    return _of_arrays(source)


def _of_graph(name: str, graph: Graph) -> ParameterReport:
    return ParameterReport(name, tuple(map(Parameter, graph.parameters, graph.parameters.values())), len(graph.buffers))


def _of_arrays(source) -> ParameterReport:
    weights = read_weights(source)
    name = "mapping" if isinstance(source, Mapping) else os.path.basename(weights.name.rstrip("/\\"))
    shapes = {key: tuple(map(int, array.shape)) for key, array in weights.arrays.items()}
    trained = {key: shape for key, shape in shapes.items() if key.rpartition(".")[2] not in BUFFERS}
    if not trained:
        raise InputError(f"{name}: holds no parameters")
    layers = tuple(map(Parameter, trained, trained.values()))
    return ParameterReport(name, layers, len(shapes) - len(trained), weights.notes)
